"""What the reference device says of itself."""

from __future__ import annotations

from rtp_core.device.manifest import PLUGIN_API, Manifest

MANIFEST = Manifest(
    kind="ref",
    vendor="rtp",
    api=PLUGIN_API,
    device_class="reference",
    dtypes=("float32", "bfloat16", "float16"),
    schemes=("fp8_channel", "int8_channel", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
)
