"""Static sizes of a model, under the names that a predicate sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Self

import numpy as np

from rtp_core.config import ModelConfig

MAX_VOCAB = 4096  # rows of a replayed vocabulary: the rest of it is more of the same


@dataclass(frozen=True, slots=True)
class Dims:
    """Hugging Face's words. The defaults are odd wherever a model's could be, and H * D is not the hidden size."""

    hidden_size: int = 21
    intermediate_size: int = 27
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    head_dim: int = 10
    vocab_size: int = 37
    num_hidden_layers: int = 2

    @property
    def q_size(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_key_value_heads * self.head_dim

    def rounded(self, unit: int) -> Self:
        """Sizes up to multiples of a scheme's unit, as far as a weight has them as columns."""
        unit_of_heads = unit // gcd(unit, self.num_attention_heads)  # it is all heads together that are columns
        units = {"hidden_size": unit, "intermediate_size": unit, "head_dim": unit_of_heads}
        return replace(self, **{n: -(-getattr(self, n) // size) * size for n, size in units.items()})

    @classmethod
    def random(cls, rng: np.random.Generator) -> Self:
        """Small sizes that some model may have."""
        kv_heads = int(rng.integers(1, 4))
        return cls(
            hidden_size=int(rng.integers(1, 80)),
            intermediate_size=int(rng.integers(1, 90)),
            num_attention_heads=kv_heads * int(rng.integers(1, 5)),
            num_key_value_heads=kv_heads,
            head_dim=2 * int(rng.integers(1, 40)),
            vocab_size=int(rng.integers(2, 120)),
        )

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """A real model's."""
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            min(config.vocab_size, MAX_VOCAB),
            config.num_hidden_layers,
        )


SMALL = Dims()
