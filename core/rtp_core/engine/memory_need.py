"""What a model needs of a device's memory within given limits: told before it is loaded, or measured by running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from rtp_core.device.device import Device
from rtp_core.device.plan import Plan
from rtp_core.device.rehearsal import rehearsal_of
from rtp_core.device.weights import EncoderWeights, LayerWeights, ModelWeights
from rtp_core.engine.setting import Setting
from rtp_core.engine.worst_steps import worst_encoder_steps, worst_steps
from rtp_core.kv.kv_cache import KVCache, block_bytes
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer
from rtp_core.models.model import Weights, load_model
from rtp_core.models.weight_rehearsal import WeightRehearsal
from rtp_core.runner.decode_replay import are_filled_up, recorded_sizes, replay_bytes
from rtp_core.runner.encoder_runner import EncoderRunner
from rtp_core.runner.model_runner import ModelRunner

_LAYERS_OF_A_KIND = 2  # the second one meets what the first has left; all others are like it
_MARGIN = 32  # a 32nd more than the worst step: others fragment differently


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """In bytes. work_space: of the worst step, with what kernels keep; None where only running the model tells.

    replay: what recorded decode steps keep for themselves; 0 where steps run op by op. filler: the part of it that is a
    block of the KV cache, for rows that nobody asked for; 0 where steps are not filled up. An encoder has no KV cache:
    its blocks have no bytes.
    """

    weights_bytes: int
    kv_block_bytes: int
    block_size: int  # tokens
    work_space_bytes: int | None
    replay_bytes: int
    filler_bytes: int

    @property
    def kv_token_bytes(self) -> int:
        return self.kv_block_bytes // self.block_size

    def kv_bytes(self, num_tokens: int) -> int:
        """Of the blocks for so many tokens of one request."""
        return -(-num_tokens // self.block_size) * self.kv_block_bytes

    @property
    def fixed_bytes(self) -> int:
        """All but the KV cache."""
        return self.weights_bytes + self.run_bytes

    @property
    def run_bytes(self) -> int:
        """What steps take beside weights and KV, as far as it is known."""
        return (self.work_space_bytes or 0) + self.replay_bytes


def expected_need(device: Device, setting: Setting, plan: Plan | None = None) -> MemoryNeed:
    """Told by a rehearsal of loading and of the worst steps. Nothing is read, and the device's memory is not touched.

    Where the device does not rehearse its weights are taken to have the sizes they are stored in. `plan`: the setting's
    on this device, where there is one already.
    """
    checkpoint, limits = setting.checkpoint, setting.limits
    twin = device.rehearsal()
    try:
        stage = twin or rehearsal_of(device)
        reader = WeightRehearsal(stage, checkpoint.header, setting.precision, setting.where, prepares=twin is not None)
        with stage.arena.lifetime("persistent"):
            weights = load_model(checkpoint.config, reader, limits.max_model_len, setting.where)
        weights_bytes = stage.arena.stats().persistent_bytes
        worst = None
        if twin is not None:
            is_known = twin.overrides == device.overrides
            its_plan = plan.on(twin) if plan is not None and is_known else setting.plan(twin)
            worst = worst_work_space(twin, its_plan, weights, setting)
    finally:
        if twin is not None:
            twin.close()
    is_encoder = isinstance(weights, EncoderWeights)
    block = 0 if is_encoder else block_bytes(device, checkpoint.config, setting.kv_dtype(device))
    of_steps: tuple[int | None, int, int] = worst or (None, 0, 0)
    return MemoryNeed(weights_bytes, block, device.kv_layout.block_size, *of_steps)


class WorkSpace(NamedTuple):
    """Bytes of the worst step of all, and of decode steps that are recorded, the filler's block among them."""

    step_bytes: int
    replay_bytes: int
    filler_bytes: int


def worst_work_space(device: Device, plan: Plan, weights: Weights, setting: Setting) -> WorkSpace:
    """Run the worst steps on some layers of each kind, and measure how far they reach beyond what is held now.

    A rehearsing device computes nothing. Raises OutOfMemoryError where they do not fit.
    """
    sample = replace(weights, layers=tuple(_samples(weights.layers)))
    steps = (
        _encoder_steps(plan, sample, setting)
        if isinstance(sample, EncoderWeights)
        else _decoder_steps(device, plan, sample, setting)
    )
    arena = device.arena
    arena.reset_peak()
    before = arena.stats()
    worst = worst_decode = 0
    for step in steps:
        arena.reset_peak()
        step.run()
        after = arena.stats()
        reach = after.peak_reach_bytes - before.peak_reach_bytes
        worst = max(worst, reach)
        if step.is_decode:  # what kernels keep serves replayed steps too
            worst_decode = max(worst_decode, reach - (after.private_bytes - before.private_bytes))
    replay = filler = 0
    if worst_decode and not setting.why_eager(device):
        sizes = setting.replay_sizes(device.kv_layout.block_size)
        if are_filled_up(recorded_sizes(device, setting.limits.max_num_seqs)):
            filler = block_bytes(device, setting.checkpoint.config, setting.kv_dtype(device))
        replay = filler + replay_bytes(_with_margin(worst_decode), alignment=device.alignment, **sizes)
    return WorkSpace(_with_margin(worst), replay, filler)


def _with_margin(reach: int) -> int:
    return reach + reach // _MARGIN


class _Step(NamedTuple):
    run: Callable[[], object]
    is_decode: bool


def _encoder_steps(plan: Plan, weights: EncoderWeights, setting: Setting) -> Iterable[_Step]:
    runner = EncoderRunner(plan, weights)
    steps = worst_encoder_steps(setting.limits, setting.checkpoint.config.vocab_size)
    return (_Step(partial(runner.execute, requests), False) for requests in steps)


def _decoder_steps(device: Device, plan: Plan, weights: ModelWeights, setting: Setting) -> Iterable[_Step]:
    """The cache that they run with is there before the first is asked for."""
    config = setting.checkpoint.config.model_copy(update={"num_hidden_layers": len(weights.layers)})
    with device.arena.lifetime("persistent"):
        cache = KVCache(device, config, setting.kv_dtype(device), 1)
        cache.clear()
    runner = ModelRunner(plan, weights, cache)
    return (
        _Step(partial(runner.execute, batch), batch.num_decode == len(batch.requests))
        for features in plan.sheets
        for batch in worst_steps(setting.limits, config.vocab_size, cache.block_size, features)
    )


def _samples(layers: tuple[LayerWeights, ...]) -> Iterator[LayerWeights]:
    """The first layers of each kind: a step takes as much for more of them."""
    seen: dict[tuple[Any, ...], int] = {}
    for layer in layers:
        kind = tuple(_form(layer))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= _LAYERS_OF_A_KIND:
            yield layer


def _form(value: Any) -> Iterator[Any]:
    """Shapes, dtypes, schemes and constants, in order; not contents."""
    if isinstance(value, Buffer):
        stored = (value.scheme.name, value.layout) if isinstance(value, QBuffer) else (value.dtype.name,)
        yield (*value.shape, *stored)
    elif isinstance(value, tuple):
        yield len(value)
        for item in value:
            yield from _form(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _form(getattr(value, field.name))
    else:
        yield value
