"""What every device of this base can say of itself, told without torch."""

from __future__ import annotations

from dataclasses import replace

from rtp_core.plugin import DeclaredOverride, Manifest


def torch_manifest(kind: str) -> Manifest:
    """Of an accelerator whose class derives from TorchDevice and overrides nothing."""
    return Manifest(
        kind=kind,
        vendor="rtp",
        api=(1, 1),
        device_class="accelerator",
        dtypes=("float32", "bfloat16", "float16"),
        schemes=("fp8_channel", "int8_channel", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"),
        features=("bias", "layer_norm", "moe", "qk_norm"),
        kv_layouts=("KBD", "BKD"),
    )


def triton_manifest(kind: str) -> Manifest:
    """Of an accelerator whose class derives from TritonDevice and overrides nothing more."""
    return replace(
        torch_manifest(kind),
        overrides=(
            DeclaredOverride("add_norm", "triton.add_norm", handles=frozenset({"layer_norm"}), is_conditional=True),
            DeclaredOverride("context_attention", "triton.context_attention", is_conditional=True),
            DeclaredOverride("decoder_self_attention", "triton.decoder_self_attention", is_conditional=True),
            DeclaredOverride("gated_activation", "triton.gated_activation"),
            DeclaredOverride("grouped_gemm", "triton.grouped_gemm", is_conditional=True),
            DeclaredOverride("rope_kv_write", "triton.rope_kv_write"),
            DeclaredOverride("sample", "triton.sample"),
        ),
    )
