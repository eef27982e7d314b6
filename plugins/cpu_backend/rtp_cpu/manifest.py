"""What the plugin says about itself before anything native loads."""

from rtp_core.plugin import Manifest

MANIFEST = Manifest(
    kind="cpu",
    vendor="rtp",
    api=(1, 0),
    device_class="cpu",
    dtypes=("float32", "bfloat16", "float16"),
    overrides=(
        "cpu.add_norm",
        "cpu.context_attention",
        "cpu.decoder_self_attention",
        "cpu.gated_activation",
        "cpu.lm_head",
    ),
    schemes=("q4_0", "q4_1", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
    kv_layouts=("KBD", "BKD"),
)
