"""Whether a model fits into a device's memory; where it does not, by how much, and what would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rtp_core.device.device import Device
from rtp_core.engine.memory_need import MemoryNeed, expected_need
from rtp_core.engine.setting import Setting
from rtp_core.errors import OutOfMemoryError
from rtp_core.memory.budget import format_bytes
from rtp_core.memory.qbuffer import SCHEMES

_LEAST = 16  # tokens: limits are not halved below
_ROUNDING = 1 << 20  # bytes


def least_kv_tokens(setting: Setting) -> int:
    """Tokens that the KV cache must hold: one request of the length that the user asked for, else anything."""
    return 1 if setting.config.max_model_len is None else setting.limits.max_model_len - 1 or 1


def check_fits(device: Device, setting: Setting, need: MemoryNeed) -> None:
    """Raises OutOfMemoryError with the numbers, and with the options that would fit where there are any."""
    budget = device.arena.stats().total_bytes
    if _total(setting, need) <= budget:
        return
    kv_tokens = least_kv_tokens(setting)
    kv = f"KV cache for {kv_tokens} tokens {format_bytes(need.kv_bytes(kv_tokens))}, " if need.kv_block_bytes else ""
    work_space = "unknown" if need.work_space_bytes is None else format_bytes(need.work_space_bytes)
    raise OutOfMemoryError(
        f"the model does not fit into {format_bytes(budget)}",
        where=device.info.id,
        why=(
            f"weights {format_bytes(need.weights_bytes)}, {kv}work space {work_space}, "
            f"recorded decode steps {format_bytes(need.replay_bytes)}: "
            f"{format_bytes(_total(setting, need))} in all; {format_bytes(device.memory_info()[1])} are free"
        ),
        hint=_option_that_fits(device, setting, need, budget),
        table=device.arena.table(),
        arena=device.arena,
    )


def failed_warm_up(device: Device, need: MemoryNeed, failure: OutOfMemoryError) -> OutOfMemoryError:
    """The same error with the numbers: the worst steps, run for real, did not fit beside the weights."""
    budget = device.arena.stats().total_bytes
    return OutOfMemoryError(
        f"the model does not fit into {format_bytes(budget)}",
        where=device.info.id,
        why=(
            f"weights {format_bytes(need.weights_bytes)}, work space more than the "
            f"{format_bytes(budget - need.weights_bytes)} that they leave: {failure.what}"
        ),
        hint="raise --memory-budget, or lower --max-num-batched-tokens and --max-num-seqs",
        table=failure.table,
        arena=failure.arena,
        beside=failure.beside,
    )


def kv_blocks(setting: Setting, need: MemoryNeed, room_bytes: int) -> int:
    """Blocks of the KV cache: for all requests that may run at once, as far as there is room beside the work space."""
    if not need.kv_block_bytes:
        return 0
    limits = setting.limits
    wanted = limits.max_num_seqs * -(-limits.max_model_len // need.block_size)
    return min(wanted, (room_bytes - need.run_bytes) // need.kv_block_bytes)


def _total(setting: Setting, need: MemoryNeed) -> int:
    return need.fixed_bytes + need.kv_bytes(least_kv_tokens(setting))


def _option_that_fits(device: Device, setting: Setting, need: MemoryNeed, budget: int) -> str:
    """The first that does, tried by rehearsal."""
    total = -(-_total(setting, need) // _ROUNDING) * _ROUNDING
    if total <= device.memory_info()[1]:
        return f"--memory-budget {total // _ROUNDING}MiB"
    for option, other in _smaller(device, setting):
        if _total(other, expected_need(device, other)) <= budget:
            return option
    return "a smaller model, or a device with more memory"


def _smaller(device: Device, setting: Setting) -> Iterator[tuple[str, Setting]]:
    """Options with the setting that each would make, the least painful first."""
    config, limits = setting.config, setting.limits
    tokens, requests, length = limits.max_num_batched_tokens, limits.max_num_seqs, limits.max_model_len
    while tokens > _LEAST:
        tokens //= 2
        requests = max(1, min(requests // 2, tokens))
        smaller = replace(config, max_num_batched_tokens=tokens, max_num_seqs=requests)
        option = f"--max-num-batched-tokens {tokens} --max-num-seqs {requests}"
        yield option, Setting.of(setting.checkpoint, device, smaller)
    while length > _LEAST:
        length //= 2
        smaller = replace(config, max_num_batched_tokens=tokens, max_num_seqs=requests, max_model_len=length)
        option = f"--max-num-batched-tokens {tokens} --max-num-seqs {requests} --max-model-len {length}"
        yield option, Setting.of(setting.checkpoint, device, smaller)
    if config.dtype == "auto" and config.quantization is None:
        listed = [SCHEMES[name] for name in device.manifest.schemes if name in SCHEMES]
        for scheme in sorted(listed, key=lambda s: (s.bits, s.name), reverse=True):
            smaller = replace(config, quantization=scheme.name)
            yield f"--quantization {scheme.name}", Setting.of(setting.checkpoint, device, smaller)
