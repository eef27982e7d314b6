"""What the plugin says about itself before anything native loads."""

from rtp_torch.manifest import torch_manifest

MANIFEST = torch_manifest("rocm")
