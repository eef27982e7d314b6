"""The conformance suite: what every device must do, driven by the registry of ops.

`rtp devices check KIND` runs it, and `pytest --pyargs rtp_core.conformance --rtp-device KIND` the same cases.
"""
