"""Embeddings of texts against sentence-transformers: on the real model, and over every mode of pooling."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_encoder, save_encoder

from rtp_core import LLM

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its many imports
    sentence_transformers = pytest.importorskip("sentence_transformers", exc_type=ImportError)

BUDGET = 1 << 30  # bytes

SENTENCES = [
    "",
    "Hello",
    " A man is eating   a piece of bread.\n",
    "Der schnelle braune Fuchs springt über den faulen Hund, naïvement.",
    "你好世界。Привет, мир! [SEP] [MASK]",
    "def embed(self, prompts): return [output.embedding for output in self.outputs]",
    "lorem ipsum dolor sit amet " * 12,
    "one two three " * 200,  # is cut
    "x",
    "The stock market fell by 3.25% on Tuesday 🚀" * 9,
]


def oracle(path: Path, texts: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sentence_transformers.SentenceTransformer(str(path), device="cpu")
        return model.encode(texts, convert_to_numpy=True)


def embedded(path: Path, texts: list[str], **options: Any) -> np.ndarray:
    with LLM(str(path), memory_budget=BUDGET, **options) as llm:
        return np.array([output.embedding for output in llm.embed(texts)])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def expected(embedding_model_path: Path) -> np.ndarray:
    return oracle(embedding_model_path, SENTENCES)


@pytest.mark.parametrize(
    ("device", "dtype", "least"),
    [
        ("ref", "float32", 0.9999),
        ("handle", "float32", 0.9999),
        ("cpu", "float32", 0.9999),
        ("cpu", "auto", 0.999),
        ("cpu", "bfloat16", 0.999),
    ],
)
def test_the_default_embedding_model(
    device: str, dtype: str, least: float, embedding_model_path: Path, expected: np.ndarray
) -> None:
    got = embedded(embedding_model_path, SENTENCES, device=device, dtype=dtype)
    assert cosines(got, expected).min() >= least
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    if dtype == "float32":
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


# -- every way of pooling ------------------------------------------------------------------------------------------

TEXTS = ["", "the", "The THING!", "a b c d e f g h i j", "the " * 100]


def write_modules(
    folder: Path, pooling: dict[str, Any] | None, *, normalize: bool = False, text: dict[str, Any] | None = None
) -> Path:
    """A random BERT with the files of sentence-transformers 2; `pooling` None leaves all of them out."""
    save_encoder(make_encoder("bert"), folder)
    if pooling is None:
        return folder
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    for module in modules[1:]:
        (folder / module["path"]).mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **pooling}))
    (folder / "sentence_bert_config.json").write_text(json.dumps(text or {}))
    return folder


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize(
    "modes",
    [("cls_token",), ("max_tokens",), ("mean_tokens",), ("mean_sqrt_len_tokens",), ("mean_tokens", "cls_token"), ()],
    ids=str,
)
def test_pooling(modes: tuple[str, ...], normalize: bool, tmp_path: Path) -> None:
    every = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens")
    write_modules(tmp_path, {f"pooling_mode_{mode}": mode in modes for mode in every}, normalize=normalize)
    got = embedded(tmp_path, TEXTS, device="ref", dtype="float32")
    assert got.shape == (len(TEXTS), 64 * max(1, len(modes)))
    np.testing.assert_allclose(got, oracle(tmp_path, TEXTS), rtol=0, atol=5e-5)


@pytest.mark.parametrize("text", [{}, {"max_seq_length": 20}, {"max_seq_length": 20, "do_lower_case": True}], ids=str)
def test_text_settings(text: dict[str, Any], tmp_path: Path) -> None:
    write_modules(tmp_path, {}, text=text)
    np.testing.assert_allclose(
        embedded(tmp_path, TEXTS, device="ref", dtype="float32"), oracle(tmp_path, TEXTS), rtol=0, atol=5e-5
    )


def test_a_default_prompt_goes_before_every_text(tmp_path: Path) -> None:
    write_modules(tmp_path, {})
    prompts = {"prompts": {"query": "the thing: ", "other": "no"}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    np.testing.assert_allclose(
        embedded(tmp_path, TEXTS, device="ref", dtype="float32"), oracle(tmp_path, TEXTS), rtol=0, atol=5e-5
    )


def test_a_folder_without_modules_gets_the_mean(tmp_path: Path) -> None:
    write_modules(tmp_path, None)
    np.testing.assert_allclose(
        embedded(tmp_path, TEXTS, device="ref", dtype="float32"), oracle(tmp_path, TEXTS), rtol=0, atol=5e-5
    )


def test_what_sentence_transformers_writes_today(tmp_path: Path) -> None:
    save_encoder(make_encoder("bert"), tmp_path / "bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = sentence_transformers.models
        bert = modules.Transformer(str(tmp_path / "bert"), max_seq_length=30)
        both = [bert, modules.Pooling(64, ("max", "mean")), modules.Normalize()]
        sentence_transformers.SentenceTransformer(modules=both, device="cpu").save(str(tmp_path / "saved"))
    np.testing.assert_allclose(
        embedded(tmp_path / "saved", TEXTS, device="ref", dtype="float32"),
        oracle(tmp_path / "saved", TEXTS),
        rtol=0,
        atol=5e-5,
    )
