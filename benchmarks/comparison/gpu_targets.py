"""What rtp is to reach on a GPU, and whether it did: shares of the roof, and times the speed of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from comparison.gpu_work import GpuWork

Speeds = Mapping[str, float]  # medians by cell

RTP, ROOF, TRANSFORMERS = "rtp", "roof", "transformers"
COMPILED = "compiled"  # ends the label of an engine whose decode steps are


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """`engines`: by label, `rtp bfloat16`, `roof torch`, `transformers eager`; those that failed have no speeds."""

    work: GpuWork
    engines: Mapping[str, Speeds]


@dataclass(frozen=True, slots=True)
class Target:
    """`value` over `needed` is met. `of`: what `value` is a share or a multiple of. `why`: where there is no value."""

    model: str
    cell: str
    of: str
    needed: float
    value: float | None = None
    why: str = ""

    @property
    def is_met(self) -> bool | None:
        return None if self.value is None else self.value >= self.needed


Ratio = Callable[[MeasuredModel], float]


class NotMeasured(Exception):
    """A ratio lacks a figure; the message says which."""


def bandwidth_share(model: MeasuredModel) -> float:
    """Bytes of weights that decoding at batch 1 reads in a second, over what a copy reads and writes."""
    read = _speed(model, RTP, "decode-b1") * model.work.decode_bytes
    return read / (_speed(model, ROOF, "copy-gb-per-s") * 1e9)


def matmul_share(model: MeasuredModel) -> float:
    """Operations of the linear layers in a second of prefill, over those of a large product."""
    flop = _speed(model, RTP, "prefill-2048") * model.work.prefill_linear_flop / model.work.prefill_tokens
    return flop / (_speed(model, ROOF, "matmul-tflop-per-s") * 1e12)


def over_best_at_64(model: MeasuredModel) -> float:
    return _speed(model, RTP, "decode-b64") / _speed(model, TRANSFORMERS, "decode-b64")


def over_eager_at_1(model: MeasuredModel) -> float:
    """Whatever attention: eager is what is not compiled."""
    eager = {label: speeds for label, speeds in model.engines.items() if not label.endswith(COMPILED)}
    return _speed(model, RTP, "decode-b1") / _speed(MeasuredModel(model.work, eager), TRANSFORMERS, "decode-b1")


TARGETS: tuple[tuple[Target, Ratio], ...] = (
    (Target("qwen2-7b", "decode-b1", "copy bandwidth", 0.75), bandwidth_share),
    (Target("qwen2-7b", "decode-b64", "transformers' best", 1.5), over_best_at_64),
    (Target("qwen2-7b", "prefill-2048", "bf16 matmul peak", 0.60), matmul_share),
    (Target("qwen2-0.5b", "decode-b1", "transformers eager", 3.0), over_eager_at_1),
)


def judged(models: Mapping[str, MeasuredModel], missing: Mapping[str, str]) -> list[Target]:
    """Every target. `missing`: why a model was not measured."""
    return [_judged(target, ratio, models.get(target.model), missing) for target, ratio in TARGETS]


def _judged(target: Target, ratio: Ratio, model: MeasuredModel | None, missing: Mapping[str, str]) -> Target:
    def found(value: float | None, why: str) -> Target:
        return Target(target.model, target.cell, target.of, target.needed, value, why)

    if model is None:
        return found(None, missing[target.model])
    try:
        return found(ratio(model), "")
    except NotMeasured as lacking:
        return found(None, str(lacking))


def _speed(model: MeasuredModel, name: str, cell: str) -> float:
    """The best of an engine's variants."""
    speeds = [s[cell] for label, s in model.engines.items() if label.split()[0] == name and cell in s]
    if not speeds:
        raise NotMeasured(f"no {cell} of {name}")
    return max(speeds)
