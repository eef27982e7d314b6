"""How far a fast path is from the float32 model on the same file: ours, and llama.cpp's beside it.

    python benchmarks/quality.py MODEL.gguf [--record tests/data/quality_llama_cpp.json]

Prefill: distributions over three texts. Decode: three completions of each of 16 prompts are sampled (temperature 1,
fixed uniforms), at batch 1 and at batch 16, and each engine's own tokens are rescored by the float32 model. The
distance is the mean absolute difference of log probability, in nats; of prefill also the mean KL and the top-1
agreement are told.
llama.cpp needs llama-cpp-python; the float32 model is rtp's own on the CPU, which the tests hold to transformers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from comparison.distances import distance

from rtp_core import LLM, SamplingParams
from rtp_core.engine.evaluation import Evaluation, evaluations

TEXTS = Path(__file__).parent.parent / "tests" / "data" / "texts"
NUM_PROMPTS = 16
TRIES = 3  # of each prompt: the mean over one of each moves by 4 % with the uniforms
PROMPT_TOKENS = 24
NEW_TOKENS = 96
BUDGET = 3 << 30  # bytes

Ids = list[int]
Scored = tuple[Ids, Ids, list[float]]  # prompt, generated tokens, their log probabilities


def open_llm(path: str, dtype: str) -> LLM:
    return LLM(path, device="cpu", dtype=dtype, max_model_len=2048, memory_budget=BUDGET)


def texts(encode: Callable[[str], Ids]) -> dict[str, Ids]:
    return {path.stem: encode(path.read_text(encoding="utf-8")) for path in sorted(TEXTS.glob("*.txt"))}


def prompts(token_ids: dict[str, Ids]) -> list[Ids]:
    """Pieces from the three texts in turn, all of them TRIES times."""
    names = sorted(token_ids)
    starts = TRIES * [(names[i % 3], (i // 3) * 60) for i in range(NUM_PROMPTS)]
    return [token_ids[name][start : start + PROMPT_TOKENS] for name, start in starts]


def prompt_scores(llm: LLM, sequences: Sequence[Ids]) -> list[np.ndarray]:
    """Per sequence the log probability of every token but the first."""
    outputs = llm.generate(list(sequences), SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    return [own_scores(o.prompt_logprobs[1:], o.prompt_token_ids[1:]) for o in outputs]


def own_scores(logprobs: Sequence[dict[int, float]], token_ids: Ids) -> np.ndarray:
    """Each token's own log probability."""
    return np.array([scores[token] for scores, token in zip(logprobs, token_ids, strict=True)])


def prefill(fast: LLM, reference: LLM, token_ids: dict[str, Ids]) -> dict[str, Evaluation]:
    """By text, each of them in one window."""
    return {name: next(evaluations(fast, [ids], reference)) for name, ids in token_ids.items()}


def decode_distance(reference: LLM, scored: Sequence[Scored]) -> float:
    rescored = prompt_scores(reference, [prompt + tokens for prompt, tokens, _ in scored])
    differences = [
        np.abs(np.array(logprobs) - scores[-len(tokens) :])
        for (_, tokens, logprobs), scores in zip(scored, rescored, strict=True)
    ]
    return float(np.concatenate(differences).mean())


def sampling(i: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=i, max_tokens=NEW_TOKENS, ignore_eos=True, logprobs=0)


def generate(llm: LLM, token_ids: Sequence[Ids], batch: int) -> list[Scored]:
    """Completions in groups of `batch` that run together."""
    scored = []
    for start in range(0, len(token_ids), batch):
        group = token_ids[start : start + batch]
        outputs = llm.generate(list(group), [sampling(start + i) for i in range(len(group))])
        for output in outputs:
            own = own_scores(output.logprobs, output.token_ids)
            scored.append((output.prompt_token_ids, output.token_ids, own.tolist()))
    return scored


def by_figure(found: dict[str, Evaluation]) -> dict[str, dict[str, float | None]]:
    """Each figure of prefill by text; `prefill` is the distance that the tests hold ours to."""
    named = {"prefill": "logprob_difference", "kl": "kl", "top1_agreement": "top1_agreement"}
    return {key: {name: getattr(e, figure) for name, e in found.items()} for key, figure in named.items()}


def ours(path: str) -> dict[str, object]:
    """Distances of `auto` from `float32` on this machine's CPU."""
    with open_llm(path, "auto") as fast, open_llm(path, "float32") as reference:
        found = texts(fast.tokenizer.encode)
        starts = prompts(found)
        return {
            **by_figure(prefill(fast, reference, found)),
            "decode": {str(b): decode_distance(reference, generate(fast, starts, b)) for b in (1, NUM_PROMPTS)},
        }


def llama_cpp(path: str) -> dict[str, object]:
    """The same of llama.cpp, against the same float32 model."""
    from llama_cpp_peer import LlamaCpp

    peer = LlamaCpp(path)
    with open_llm(path, "float32") as reference:
        found = texts(reference.tokenizer.encode)
        starts = prompts(found)
        return {
            **by_figure({name: distance(reference, ids, peer.logits(ids)) for name, ids in found.items()}),
            "decode": {
                str(b): decode_distance(reference, peer.generate(starts, b, NEW_TOKENS)) for b in (1, NUM_PROMPTS)
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--record", type=Path, help="also store llama.cpp's figures here, for the tests")
    arguments = parser.parse_args()
    peer = llama_cpp(arguments.model)
    if arguments.record:
        arguments.record.write_text(json.dumps(peer, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({"rtp": ours(arguments.model), "llama.cpp": peer}, indent=2))


if __name__ == "__main__":
    main()
