"""transformers on torch, run by `peers.py` in a process of its own: a Hugging Face folder, or a GGUF file.

    python run_transformers.py MODEL --dtype bfloat16|float32 --threads N --cells JSON | --score IDS.json OUT_FOLDER

Prints one line of JSON. GGUF weights are dequantized at load.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

WARM_UP = 2  # tokens


def load(path: Path, dtype: str, *, is_encoder: bool) -> torch.nn.Module:
    kind = AutoModel if is_encoder else AutoModelForCausalLM
    if path.is_dir():
        return kind.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    return kind.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, dtype)).eval()


@torch.inference_mode()
def speed(model: torch.nn.Module, cell: dict) -> float:
    batch, prompt = cell["batch"], cell["prompt"]
    ids = torch.randint(100, model.config.vocab_size - 100, (batch, prompt))
    if cell["kind"] == "encode":
        start = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return batch / (time.perf_counter() - start)
    start = time.perf_counter()
    state = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    token = state.logits[:, -1].argmax(-1, keepdim=True)
    first = time.perf_counter()
    if cell["kind"] == "prefill":
        return batch * prompt / (first - start)
    for _ in range(cell["output"] - 1):
        state = model(input_ids=token, past_key_values=state.past_key_values, use_cache=True, logits_to_keep=1)
        token = state.logits[:, -1].argmax(-1, keepdim=True)
    return batch * (cell["output"] - 1) / (time.perf_counter() - first)


@torch.inference_mode()
def score(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    """Logits [T, V]."""
    return model(input_ids=torch.tensor([ids])).logits[0].float().numpy()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=json.loads, default=[])
    parser.add_argument("--score", nargs=2, type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    is_encoder = bool(asked.cells) and asked.cells[0]["kind"] == "encode"
    model = load(asked.model, asked.dtype, is_encoder=is_encoder)
    if asked.score:
        for name, ids in json.loads(asked.score[0].read_text()).items():
            np.save(asked.score[1] / f"{name}.npy", score(model, ids))
    speeds = {}
    for cell in asked.cells:
        speed(model, {**cell, "output": min(cell["output"], 1 + WARM_UP)})
        speeds[cell["name"]] = float(np.median([speed(model, cell) for _ in range(asked.repeats)]))
    print(json.dumps({"version": transformers.__version__, "speeds": speeds}))


if __name__ == "__main__":
    main()
