"""How an encoder's hidden states become embeddings: what the files of sentence-transformers beside it say.

Source: sentence-transformers 5, in both spellings of its pooling config. A folder without these files gets what
sentence-transformers gives it: the mean over tokens, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rtp_core.checkpoint.mapped_file import read_json, read_json_list
from rtp_core.errors import CheckpointError, UnsupportedModelError

_MAX_FILE = 1 << 20  # bytes

# Keys of older pooling configs, in the order in which several are joined.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens")


@dataclass(frozen=True, slots=True)
class EmbeddingConfig:
    """`pooling`: one or several of MODES, whose results are joined. max_seq_length: tokens that a text is cut to.

    `prompt` goes before every text; `do_lower_case` lowers it first, whatever the tokenizer does.
    """

    pooling: tuple[str, ...] = ("mean",)
    normalize: bool = False
    max_seq_length: int | None = None
    do_lower_case: bool = False
    prompt: str = ""


def read_embedding_config(folder: Path, hidden_size: int, tokenizer_config: Mapping[str, Any]) -> EmbeddingConfig:
    """Raises CheckpointError for a file that makes no sense, UnsupportedModelError for modules rtp does not have."""
    limit = _length(tokenizer_config.get("model_max_length"), "model_max_length", folder / "tokenizer_config.json")
    if not (folder / "modules.json").exists():
        return EmbeddingConfig(max_seq_length=limit)
    pooling, normalize = _modules(folder, hidden_size)
    path = folder / "sentence_bert_config.json"
    text = read_json(path, _MAX_FILE) if path.exists() else {}
    lower = text.get("do_lower_case", False)
    if not isinstance(lower, bool):
        _bad(path, "do_lower_case", f"expected true or false, got {lower!r:.60}")
    return EmbeddingConfig(
        pooling,
        normalize,
        _length(text.get("max_seq_length"), "max_seq_length", path) or limit,
        lower,
        _default_prompt(folder / "config_sentence_transformers.json"),
    )


def _modules(folder: Path, hidden_size: int) -> tuple[tuple[str, ...], bool]:
    """The modes of pooling, and whether embeddings are normalised."""
    path = folder / "modules.json"
    kinds, paths = [], []
    for module in read_json_list(path, _MAX_FILE):
        kind = module.get("type") if isinstance(module, dict) else None
        place = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not isinstance(place, str):
            _bad(path, "modules", f"expected objects with type and path, got {module!r:.60}")
        kinds.append(kind.rpartition(".")[2])
        paths.append(place)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or paths[0]:
        raise UnsupportedModelError(
            f"unsupported modules {', '.join(kinds)[:200]}",
            where=str(path),
            why="supported are Transformer, in the model's own folder, Pooling, and Normalize or nothing",
        )
    # A plain name: no file outside the folder is reached.
    if not paths[1] or paths[1] != Path(paths[1]).name or "\\" in paths[1] or "\0" in paths[1] or paths[1] == "..":
        _bad(path, "path", f"expected the name of a folder beside it, got {paths[1]!r:.60}")
    return _pooling(folder / paths[1] / "config.json", hidden_size), len(kinds) == 3


def _pooling(path: Path, hidden_size: int) -> tuple[str, ...]:
    data = read_json(path, _MAX_FILE)
    for name in ("word_embedding_dimension", "embedding_dimension"):
        if data.get(name, hidden_size) != hidden_size:
            _bad(path, name, f"expected hidden_size, {hidden_size}, got {data[name]!r:.60}")
    for name in _FLAGS:
        if not isinstance(data.get(name, False), bool):
            _bad(path, name, f"expected true or false, got {data[name]!r:.60}")
    flagged = [mode for name, mode in _FLAGS.items() if data.get(name)]
    given = data.get("pooling_mode", flagged or ["mean"])
    modes = given if isinstance(given, list) else [given]
    if not modes or len(modes) > len(_FLAGS) or not all(isinstance(mode, str) for mode in modes):
        _bad(path, "pooling_mode", f"expected one mode or a list of them, got {given!r:.60}")
    unsupported = [mode for mode in modes if mode not in MODES]
    if unsupported:
        raise UnsupportedModelError(
            f"unsupported pooling {', '.join(unsupported)[:100]}",
            where=str(path),
            why=f"supported are {', '.join(MODES)}",
        )
    if data.get("include_prompt", True) is not True:
        raise UnsupportedModelError("pooling without the prompt", where=str(path), why="include_prompt is not true")
    return tuple(modes)


def _default_prompt(path: Path) -> str:
    data = read_json(path, _MAX_FILE) if path.exists() else {}
    name, prompts = data.get("default_prompt_name"), data.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        _bad(path, "default_prompt_name", f"expected the name of one of the prompts, got {name!r:.60}")
    return prompt


def _length(value: Any, name: str, path: Path) -> int | None:
    """Tokens. Tokenizers without a limit of their own have 1e30."""
    if value is None:
        return None
    if type(value) not in (int, float) or not value >= 1:
        _bad(path, name, f"expected a number of at least 1, got {value!r:.60}")
    return int(min(value, 2**31 - 1))


def _bad(path: Path, what: str, why: str) -> NoReturn:
    raise CheckpointError(f"bad {what}", where=str(path), why=why)
