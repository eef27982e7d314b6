"""ModelConfig: both spellings of transformers, and one clear error for whatever is out of range."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from rtp_core.config import ModelConfig
from rtp_core.errors import CheckpointError, UnsupportedModelError

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def config(**fields: Any) -> ModelConfig:
    return ModelConfig.from_hf(LLAMA | fields, "config.json")


def test_fields_keep_hugging_faces_names_and_defaults() -> None:
    made = config(eos_token_id=7, torch_dtype="bfloat16")
    assert made.head_dim == 16
    assert (made.rope_theta, made.rms_norm_eps, made.max_position_embeddings) == (10_000.0, 1e-6, 2048)
    assert (made.eos_token_ids, made.dtype, made.tie_word_embeddings) == ((7,), "bfloat16", False)


def test_missing_key_value_heads_mean_one_for_each_head() -> None:
    fields = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    assert ModelConfig.from_hf(fields, "c").num_key_value_heads == 4
    assert ModelConfig.from_hf(fields | {"num_key_value_heads": None}, "c").num_key_value_heads == 4


def test_rope_is_read_alike_in_the_spellings_of_versions_4_and_5() -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    old = config(rope_theta=500000.0, rope_scaling={**scaling, "rope_type": "llama3"})
    new = config(rope_parameters={**scaling, "rope_type": "llama3", "rope_theta": 500000.0})
    assert old == new
    assert old.rope_scaling is not None and old.rope_scaling.factor == 8.0
    linear = config(rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling
    assert linear is not None and (linear.rope_type, linear.factor) == ("linear", 2.0)
    assert config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}).rope_scaling is None


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Mistral"])
def test_what_transformers_writes_is_read(kind: str) -> None:
    shape = {k: v for k, v in LLAMA.items() if k != "model_type"}
    theirs = getattr(transformers, f"{kind}Config")(**shape, rms_norm_eps=1e-5, eos_token_id=[3, 4])
    ours = ModelConfig.from_hf(theirs.to_dict(), "config.json")
    assert ours.model_type == theirs.model_type
    assert (ours.hidden_size, ours.num_key_value_heads, ours.rms_norm_eps) == (64, 2, 1e-5)
    assert ours.eos_token_ids == (3, 4)
    assert ours.sliding_window == theirs.sliding_window if kind == "Mistral" else ours.sliding_window is None


def test_the_sliding_window_of_qwen2_is_off_unless_it_is_used_in_every_layer() -> None:
    qwen = {"model_type": "qwen2", "sliding_window": 32}
    assert config(**qwen).sliding_window is None
    assert config(**qwen, use_sliding_window=False).sliding_window is None
    assert config(**qwen, use_sliding_window=True, max_window_layers=2).sliding_window is None
    assert config(**qwen, use_sliding_window=True, max_window_layers=0).sliding_window == 32
    with pytest.raises(UnsupportedModelError, match="differs between layers"):
        config(**qwen, use_sliding_window=True, max_window_layers=1)
    assert config(model_type="mistral", sliding_window=32).sliding_window == 32


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", 2**31),
        ("hidden_size", -64),
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("num_hidden_layers", 10_001),
        ("num_hidden_layers", True),
        ("num_attention_heads", 3),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 3),
        ("head_dim", 15),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-6),
        ("rope_theta", float("inf")),
        ("rope_theta", 0),
        ("max_position_embeddings", 0),
        ("tie_word_embeddings", "yes"),
        ("hidden_act", 3),
        ("sliding_window", -1),
        ("bos_token_id", -1),
        ("eos_token_id", [1, "x"]),
        ("rope_scaling", [1]),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("model_type", None),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_file_and_field(field: str, value: object) -> None:
    with pytest.raises(CheckpointError) as caught:
        config(**{field: value})
    assert "config.json" in str(caught.value)
    assert field.removesuffix("_id") in str(caught.value)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(CheckpointError, match=f"{field} is missing"):
        ModelConfig.from_hf({k: v for k, v in LLAMA.items() if k != field}, "config.json")


@pytest.mark.parametrize("rope_type", ["yarn", "dynamic", "longrope", 3])
def test_other_rope_types_are_unsupported_and_the_supported_ones_named(rope_type: object) -> None:
    with pytest.raises(UnsupportedModelError, match="default, linear, llama3"):
        config(rope_scaling={"rope_type": rope_type, "factor": 2.0})


def test_rotation_of_a_part_of_the_head_is_unsupported() -> None:
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
        config(partial_rotary_factor=0.5)


def test_an_unsupported_model_type_is_said_before_any_missing_field() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'t5'.*llama, qwen2"):
        ModelConfig.from_hf({"model_type": "t5"}, "config.json", supported=("qwen2", "llama"))


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().hidden_size = 1  # type: ignore[misc]
