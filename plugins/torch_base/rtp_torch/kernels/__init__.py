"""Triton kernels of the ops worth more than a library call, written once for NVIDIA and AMD.

Functions over torch tensors and plain numbers: a caller gives `out` and work space, nothing is allocated here. What a
kernel computes is the op's NumPy definition in rtp-core. Letters as there: T tokens, R requests, H query heads, K kv
heads, D head_dim, E hidden, F intermediate, V vocabulary, N blocks, B block size.

Grids follow from shapes alone, and what varies from step to step (lengths, block tables, slots) is read by the kernels:
a launch can be recorded and replayed. Tiles come from small pure functions of those shapes, never from tuning at run
time: every run of a shape is the same kernel.
"""
