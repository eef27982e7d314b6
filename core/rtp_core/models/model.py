"""From a config and tensors to a model on a device, and what that model asks of the ladder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rtp_core.config import ModelConfig, check_model_type
from rtp_core.device.manifest import Manifest
from rtp_core.device.plan import Demand
from rtp_core.device.weights import EncoderWeights, LayerWeights, Linear, ModelWeights, MoeWeights
from rtp_core.errors import UnsupportedModelError
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer
from rtp_core.models import bert, llama, qwen2
from rtp_core.models.activations import HIDDEN_ACTS
from rtp_core.models.weight_reader import Precision, WeightReader
from rtp_core.models.weight_sketch import WeightSketch

Weights = ModelWeights | EncoderWeights
Load = Callable[[ModelConfig, WeightReader, int], Weights]
MODELS: Mapping[str, Load] = {"bert": bert.load, "llama": llama.load, "mistral": llama.load, "qwen2": qwen2.load}


def load_model(config: ModelConfig, loader: WeightReader, max_model_len: int, where: str) -> Weights:
    """Raises UnsupportedModelError for an unknown model type or activation, CheckpointError for bad tensors."""
    check_model_type(config.model_type, MODELS, where)
    if config.hidden_act not in HIDDEN_ACTS:
        known = ", ".join(sorted(HIDDEN_ACTS))
        raise UnsupportedModelError(f"hidden_act is {config.hidden_act!r}", where=where, why=f"supported are {known}")
    return MODELS[config.model_type](config, loader, max_model_len)


def demand_of_header(
    config: ModelConfig, header: Mapping[str, Buffer], precision: Precision, manifest: Manifest, where: str
) -> Demand:
    """The demand that loading will give, from a checkpoint's names, shapes and schemes. Reads no weights.

    Raises what `load_model` raises for tensors that are missing, misshapen or not the model's.
    """
    return demand(config, load_model(config, WeightSketch(header, precision, manifest, where), 1, where))


def demand(config: ModelConfig, weights: Weights) -> Demand:
    """What the plan needs to know: dtypes, static sizes, and per op the schemes and features it will meet."""
    schemes: dict[str, set[str]] = {}
    features: dict[str, set[str]] = {}

    def meets(linears: tuple[Linear, ...], *ops: str) -> None:
        for op in ops:
            for linear in linears:
                schemes.setdefault(op, set()).add(_scheme(linear.weight))
                if linear.bias is not None:
                    features.setdefault(op, set()).add("bias")

    schemes["gather_rows"] = {_scheme(weights.embedding)}
    if isinstance(weights, EncoderWeights):
        schemes["gather_rows"].add(_scheme(weights.positions))
        features["model_forward"] = {"encoder"}
        for op in ("add_norm", "encoder_layer", "model_forward"):
            features.setdefault(op, set()).add("layer_norm")
        layer_ops: tuple[str, ...] = ("encoder_layer", "model_forward")
    else:
        meets((weights.lm_head,), "lm_head", "linear", "gemm")
        layer_ops = ("attention_layer", "decoder_layer", "model_forward")
    for layer in weights.layers:
        _layer_meets(layer, layer_ops, meets)
    dims = {name: getattr(config, name) for name in _DIMS}
    return Demand(
        weights.dtype.name,
        dims,
        {op: tuple(sorted(met)) for op, met in schemes.items()},
        {op: frozenset(met) for op, met in features.items()},
        weights.forward,
    )


_DIMS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "num_hidden_layers",
)


def _layer_meets(layer: LayerWeights, layer_ops: tuple[str, ...], meets: Callable[..., None]) -> None:
    """`layer_ops`: those that are given the attention, or more of the layer."""
    meets(layer.attention.qkv, "gemm", "linear", "qkv_linear", *layer_ops)
    meets((layer.attention.o,), "gemm", "linear", *layer_ops)
    ffn = layer.ffn
    assert not isinstance(ffn, MoeWeights)
    above = ("ffn_layer", *(op for op in layer_ops if op != "attention_layer"))
    meets((ffn.down,), "gemm", "linear", *above)
    meets(ffn.up, "gemm", "linear" if ffn.is_gated else "gemm_activation", *above)


def _scheme(weight: Buffer) -> str:
    return weight.scheme.name if isinstance(weight, QBuffer) else "none"
