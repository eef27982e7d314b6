"""What the measured speeds mean: medians over rounds, which peers count, and ours against the best of them.

A peer counts where its distributions are as near to float32 as llama.cpp's: within MAX_KL_RATIO times its mean KL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

MAX_KL_RATIO = 3.0
LLAMA_CPP, IK_LLAMA_CPP = "llama.cpp", "ik_llama.cpp"

# Where ik_llama.cpp is not built, it is taken to be so many times llama.cpp on a Q4_0 file, measured in the same run.
IK_RATIOS = {
    "smollm2": {"decode-b1": 1.33, "decode-b4": 1.38},
    "qwen2": {"decode-b1": 1.20, "decode-b4": 1.42},
}


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine on one model in one format. `kl`: mean over the texts, None where it was not measured."""

    name: str
    variant: str
    speeds: Mapping[str, float]  # by cell
    kl: float | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.variant}"

    @property
    def family(self) -> str:
        """What its quality goes by from one model to another: `OpenVINO GGUF`, of whatever format."""
        return f"{self.name} {self.variant.split()[0]}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over the best peer's. `assumed`: that peer was not measured but taken from another."""

    cell: str
    ours: str
    speed: float
    peer: str
    peer_speed: float
    assumed: bool = False

    @property
    def ratio(self) -> float:
        return self.speed / self.peer_speed


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By cell over the rounds that measured it."""
    names = dict.fromkeys(cell for measured in rounds for cell in measured)
    return {cell: float(median(m[cell] for m in rounds if cell in m)) for cell in names}


def largest_kl(peers: Sequence[Engine]) -> float | None:
    """The most that a peer may have: from llama.cpp's first variant with a measurement, the one on our own file."""
    return next((MAX_KL_RATIO * p.kl for p in peers if p.name == LLAMA_CPP and p.kl is not None), None)


def passing(peers: Sequence[Engine]) -> list[Engine]:
    """The peers whose quality counts. What was not measured is taken to be good: it makes our task harder."""
    limit = largest_kl(peers)
    return [peer for peer in peers if peer.kl is None or limit is None or peer.kl <= limit]


def judged_by(engines: Sequence[Engine], others: Sequence[Engine]) -> list[Engine]:
    """Engines with the kl that their family has on another model: that of random weights tells nothing."""
    known = {other.family: other.kl for other in others if other.kl is not None}
    return [Engine(e.name, e.variant, e.speeds, known.get(e.family)) for e in engines]


def assumed_ik(model: str, peers: Sequence[Engine]) -> Engine | None:
    """ik_llama.cpp where it was not measured, from llama.cpp on Q4_0."""
    base = next((p for p in peers if p.name == LLAMA_CPP and p.variant == "Q4_0"), None)
    if base is None or any(peer.name == IK_LLAMA_CPP for peer in peers):
        return None
    speeds = {cell: base.speeds[cell] * r for cell, r in IK_RATIOS.get(model, {}).items() if cell in base.speeds}
    return Engine(IK_LLAMA_CPP, "Q4_0 (assumed)", speeds) if speeds else None


def ratios(model: str, ours: Sequence[Engine], peers: Sequence[Engine]) -> list[Ratio]:
    """Every cell of every variant of ours against the best peer that counts; cells without such a peer are left out."""
    counted = passing(peers)
    assumed = assumed_ik(model, peers)
    if assumed is not None:
        counted.append(assumed)
    found = []
    for engine in ours:
        for cell, speed in engine.speeds.items():
            rivals = [peer for peer in counted if peer.speeds.get(cell, 0.0) > 0]
            if rivals:
                best = max(rivals, key=lambda peer: peer.speeds[cell])
                found.append(Ratio(cell, engine.label, speed, best.label, best.speeds[cell], best is assumed))
    return found
