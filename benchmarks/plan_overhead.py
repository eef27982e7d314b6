"""What the plan costs: a call through it against the same Python method called directly, and resolving it.

    python benchmarks/plan_overhead.py [--model MODEL] [--device DEVICE]

Prints one JSON document; ends with 1 where a bound is not kept. Ratios are of medians over interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from rtp_core.checkpoint import hub
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device.device import Device
from rtp_core.device.opening import open_device
from rtp_core.device.plan import Demand, resolve
from rtp_core.device.reference import ReferenceDevice
from rtp_core.models.model import demand_of_header
from rtp_core.models.weight_reader import Precision
from rtp_core.plugin import DeviceConfig, DeviceInfo, overrides

MAX_CALL_RATIO = 1.3
MAX_RESOLVE_MS = 100.0
CALLS = 50_000
ROUNDS = 25
BUDGET = 16 << 20  # bytes


class EmptyDevice(ReferenceDevice):
    """An override that does nothing: whatever a call through the plan costs, shows here most."""

    @overrides("gated_activation", impl="empty.gated_activation")
    def _gated_activation(self, x: Any, *, kind: str, out: Any = None) -> Any:
        return x


def call_ratio() -> dict[str, float]:
    """Nanoseconds of an empty override called through the plan, and as the device's own method."""
    device = EmptyDevice(DeviceInfo("ref:0", "empty", 1 << 30, 1 << 30), DeviceConfig(memory_budget=BUDGET))
    ops = resolve(device, Demand("float32")).ops("decode")
    planned, direct = [], []
    for _ in range(ROUNDS):
        planned.append(_through_the_plan(ops))
        direct.append(_directly(device))
    return {
        "planned_ns": median(planned),
        "direct_ns": median(direct),
        "ratio": median(p / d for p, d in zip(planned, direct, strict=True)),
    }


def _through_the_plan(ops: Device) -> float:
    x: Any = None
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        ops.gated_activation(x, kind="silu")
    return (time.perf_counter_ns() - start) / CALLS


def _directly(device: EmptyDevice) -> float:
    x: Any = None
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        device._gated_activation(x, kind="silu")
    return (time.perf_counter_ns() - start) / CALLS


def resolve_ms(model: str, device_name: str) -> dict[str, float]:
    """Milliseconds for both phases of a model's plan: with nothing known yet, the median, and with a feature."""
    checkpoint = open_checkpoint(hub.resolve(model))
    device = open_device(device_name, DeviceConfig(1, BUDGET))
    precision = Precision.of(device, "auto", None)

    def demand() -> Demand:
        return demand_of_header(checkpoint.config, checkpoint.header, precision, device.manifest, model)

    first = _milliseconds(lambda: resolve(device, demand()))
    known = demand()
    times = {
        "first_with_demand": first,
        "plan": median(_milliseconds(lambda: resolve(device, known)) for _ in range(ROUNDS)),
        "plan_with_a_dynamic_feature": median(
            _milliseconds(lambda: resolve(device, known, dynamic=frozenset({"bias"}))) for _ in range(ROUNDS)
        ),
        "demand": median(_milliseconds(demand) for _ in range(ROUNDS)),
    }
    device.close()
    return times


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def measure(model: str, device: str) -> dict[str, Any]:
    call, resolved = call_ratio(), resolve_ms(model, device)
    within = call["ratio"] <= MAX_CALL_RATIO and resolved["first_with_demand"] < MAX_RESOLVE_MS
    bounds = {"call_ratio": MAX_CALL_RATIO, "resolve_ms": MAX_RESOLVE_MS}
    return {"call": call, "resolve_ms": resolved, "bounds": bounds, "within": within, "device": device, "model": model}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=hub.DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    found = measure(options.model, options.device)
    print(json.dumps(found, indent=2))
    return 0 if found["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
