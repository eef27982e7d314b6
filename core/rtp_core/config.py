"""ModelConfig: what a model's own files say about its shape, in Hugging Face's words.

Every value is range-checked here, once; nothing is ever written back. What follows from an architecture
rather than from its files (such as which projections of qwen2 have a bias) is not here: the models know it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike
from typing import Annotated, Any, Literal, NoReturn, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rtp_core.errors import CheckpointError, UnsupportedModelError

_MAX_SIZE = 2**31 - 1  # no extent of a model is larger; products of two stay within 64 bits
_MAX_LAYERS = 10_000
_STRICT = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)
_ROPE_TYPES = ("default", "linear", "llama3")

# Model types that read whole texts and generate nothing, with what transformers takes for fields they leave out.
_ENCODERS: Mapping[str, Mapping[str, Any]] = {"bert": {"hidden_act": "gelu", "max_position_embeddings": 512}}

Extent = Annotated[int, Field(gt=0, le=_MAX_SIZE)]
TokenId = Annotated[int, Field(ge=0, le=_MAX_SIZE)]
Positive = Annotated[float, Field(gt=0)]


class RopeScaling(BaseModel):
    """How rotary frequencies are stretched beyond the lengths that a model was trained on."""

    model_config = _STRICT

    rope_type: Literal["default", "linear", "llama3"] = "default"
    factor: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Extent | None = None

    @model_validator(mode="after")
    def _llama3_is_complete(self) -> Self:
        if self.rope_type == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            if low is None or high is None or self.original_max_position_embeddings is None:
                raise ValueError("llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings")
            if high <= low:
                raise ValueError(f"expected low_freq_factor < high_freq_factor, got {low} and {high}")
        return self


class ModelConfig(BaseModel):
    """One model's shape. Sizes are in elements, `max_position_embeddings` and `sliding_window` in tokens."""

    model_config = _STRICT | ConfigDict(protected_namespaces=())

    model_type: Annotated[str, Field(min_length=1, max_length=100)]
    vocab_size: Extent
    hidden_size: Extent
    intermediate_size: Extent
    num_hidden_layers: Annotated[int, Field(gt=0, le=_MAX_LAYERS)]
    num_attention_heads: Extent
    num_key_value_heads: Extent
    head_dim: Extent
    rms_norm_eps: Annotated[float, Field(ge=0, lt=1)] = 1e-6
    layer_norm_eps: Annotated[float, Field(ge=0, lt=1)] = 1e-12
    type_vocab_size: Extent = 2
    rope_theta: Positive = 10_000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: Extent = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: Annotated[str, Field(min_length=1, max_length=100)] = "silu"
    sliding_window: Extent | None = None  # None: every token sees all tokens before it
    bos_token_id: TokenId | None = None
    eos_token_ids: tuple[TokenId, ...] = ()
    dtype: str | None = None  # of the stored weights, as the file names it; None where it does not

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2 and not self.is_encoder:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embeddings rotate pairs")
        if self.num_attention_heads * self.head_dim > _MAX_SIZE:
            raise ValueError(f"num_attention_heads {self.num_attention_heads} x head_dim {self.head_dim} is too large")
        return self

    @property
    def is_encoder(self) -> bool:
        """Whether the model gives embeddings of whole texts, and no next token."""
        return self.model_type in _ENCODERS

    @classmethod
    def checked(cls, fields: Mapping[str, Any], where: str | PathLike[str]) -> Self:
        """A config of these fields. Raises CheckpointError naming `where` and every field that is wrong."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise CheckpointError("bad model config", where=str(where), why=_reasons(error)) from None

    @classmethod
    def from_hf(
        cls, data: Mapping[str, Any], where: str | PathLike[str], *, supported: Collection[str] | None = None
    ) -> Self:
        """A config from the contents of a Hugging Face `config.json`, in the spellings of transformers 4 and 5.

        `supported` are the model types that the caller can run; None takes any.
        Raises CheckpointError for a bad field, UnsupportedModelError for another model or rope type.
        """
        model_type = data.get("model_type")
        if supported is not None and isinstance(model_type, str):
            check_model_type(model_type, supported, where)
        fields = {name: data[name] for name in cls.model_fields if data.get(name) is not None}
        heads, hidden = data.get("num_attention_heads"), data.get("hidden_size")
        fields.setdefault("num_key_value_heads", heads)
        if "head_dim" not in fields and type(heads) is int and type(hidden) is int and heads > 0:
            if hidden % heads:
                _bad(where, f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and no head_dim")
            fields["head_dim"] = hidden // heads
        if isinstance(model_type, str) and model_type in _ENCODERS:
            _check_encoder(data, where)
            fields = {**_ENCODERS[model_type], **fields}
        fields |= _rope(data, where)
        fields["sliding_window"] = _sliding_window(data, where)
        fields["eos_token_ids"] = as_tuple(data.get("eos_token_id"))
        fields["dtype"] = data.get("dtype") or data.get("torch_dtype")
        return cls.checked(fields, where)


def check_model_type(model_type: str, supported: Collection[str], where: str | PathLike[str]) -> None:
    """Raises UnsupportedModelError, naming what is supported, unless `model_type` is."""
    if model_type not in supported:
        raise UnsupportedModelError(
            f"unsupported model type {model_type!r}",
            where=str(where),
            why=f"supported are {', '.join(sorted(supported))}",
        )


def as_tuple(value: Any) -> tuple[Any, ...]:
    """None, one value or a list of them, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_encoder(data: Mapping[str, Any], where: str | PathLike[str]) -> None:
    """Raises UnsupportedModelError for what makes another model of an encoder's layers."""
    kind = data.get("position_embedding_type", "absolute")
    if kind != "absolute":
        _unsupported(where, f"position_embedding_type {kind!r:.60}", "only absolute positions are supported")
    for name in ("is_decoder", "add_cross_attention"):
        if data.get(name):
            _unsupported(where, f"{data['model_type']} with {name}", "only encoders are supported")


def _rope(data: Mapping[str, Any], where: str | PathLike[str]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`: fields of their own in transformers 4, one `rope_parameters` in 5."""
    found: dict[str, Any] = {}
    scaling = data.get("rope_parameters")
    if scaling is None:
        scaling = data.get("rope_scaling")
    theta = data.get("rope_theta")
    partial = data.get("partial_rotary_factor")
    if scaling is not None:
        if not isinstance(scaling, dict):
            _bad(where, f"rope_scaling: expected an object, got {type(scaling).__name__}")
        scaling = cast("dict[str, Any]", scaling)
        if any(isinstance(value, dict) for value in scaling.values()):
            _unsupported(where, "rope parameters that differ between layers", "expected one set for all layers")
        theta = scaling.get("rope_theta", theta)
        partial = scaling.get("partial_rotary_factor", partial)
        rope_type = scaling.get("rope_type", scaling.get("type", "default"))
        if rope_type not in _ROPE_TYPES:
            _unsupported(where, f"unsupported rope type {rope_type!r}", f"supported are {', '.join(_ROPE_TYPES)}")
        if rope_type != "default":
            found["rope_scaling"] = {**scaling, "rope_type": rope_type}
        else:
            found["rope_scaling"] = None
    if partial not in (None, 1, 1.0):
        _unsupported(where, f"partial_rotary_factor {partial!r}", "only rotation of whole heads is supported")
    if theta is not None:
        found["rope_theta"] = theta
    return found


def _sliding_window(data: Mapping[str, Any], where: str | PathLike[str]) -> Any:
    """The window of every layer, or None where it is off. Some models carry the field but leave it off."""
    window = data.get("sliding_window")
    is_qwen = str(data.get("model_type")).startswith("qwen")
    if window is None or not data.get("use_sliding_window", not is_qwen):
        return None
    layers = data.get("num_hidden_layers")
    if isinstance(data.get("layer_types"), list):
        kinds = {str(kind) for kind in data["layer_types"]}
    elif is_qwen and type(layers) is int and type(data.get("max_window_layers", 0)) is int:
        full = min(data.get("max_window_layers", 0), layers)  # the first layers see everything
        kinds = {"full_attention"} if full >= layers else {"sliding_attention"}
        kinds |= {"full_attention"} if full > 0 else set()
    else:
        kinds = {"sliding_attention"}
    if kinds == {"full_attention"}:
        return None
    if kinds != {"sliding_attention"}:
        _unsupported(where, "attention that differs between layers", f"layers are {', '.join(sorted(kinds))}")
    return window


def _reasons(error: ValidationError) -> str:
    reasons = []
    for item in error.errors(include_url=False)[:5]:
        field = ".".join(map(str, item["loc"]))
        if item["type"] == "missing":
            reasons.append(f"{field} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = f", got {str(item['input'])[:60]}" if field and not isinstance(item["input"], dict) else ""
            reasons.append(f"{field}: {message}{got}" if field else message)
    return "; ".join(reasons)


def _bad(where: str | PathLike[str], why: str) -> NoReturn:
    raise CheckpointError("bad model config", where=str(where), why=why)


def _unsupported(where: str | PathLike[str], what: str, why: str) -> NoReturn:
    raise UnsupportedModelError(what, where=str(where), why=why)
