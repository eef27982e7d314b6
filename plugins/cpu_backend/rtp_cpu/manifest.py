"""What the plugin says about itself before anything native loads."""

from rtp_core.plugin import DeclaredOverride, Manifest

MANIFEST = Manifest(
    kind="cpu",
    vendor="rtp",
    api=(1, 1),
    device_class="cpu",
    dtypes=("float32", "bfloat16", "float16"),
    overrides=(
        DeclaredOverride("add_norm", "cpu.add_norm", handles=frozenset({"layer_norm"})),
        DeclaredOverride("context_attention", "cpu.context_attention"),
        DeclaredOverride("decoder_self_attention", "cpu.decoder_self_attention"),
        DeclaredOverride("encoder_layer", "cpu.encoder_layer", handles=frozenset({"bias", "layer_norm"})),
        DeclaredOverride(
            "encoder_layer",
            "cpu.encoder_layer_int8",
            priority=110,
            handles=frozenset({"bias", "layer_norm"}),
            is_conditional=True,
        ),
        DeclaredOverride("ffn_layer", "cpu.ffn_layer", handles=frozenset({"bias"}), is_conditional=True),
        DeclaredOverride("gated_activation", "cpu.gated_activation"),
        DeclaredOverride("sample", "cpu.sample"),
    ),
    schemes=("q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
    features=("bias", "layer_norm", "moe", "qk_norm"),
    kv_layouts=("KBD", "BKD"),
    encoder_scheme="q8_0",
)
