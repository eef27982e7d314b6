"""What the plugin says about itself before anything native loads."""

from rtp_torch.manifest import triton_manifest

MANIFEST = triton_manifest("rocm")
