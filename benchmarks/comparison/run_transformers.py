"""transformers on torch, run by `peers.py` and `gpu.py` in a process of its own: a Hugging Face folder, or a GGUF file.

    python run_transformers.py MODEL --dtype bfloat16|float32 --threads N --cells JSON | --score IDS.json OUT_FOLDER
        [--device cuda:0] [--attention eager|sdpa|flash_attention_2] [--compile]

Prints one line of JSON. GGUF weights are dequantized at load. Tokens stay on the device: what comes next is decided
there, and the clock is read once all of it is done. `--compile`: a static cache, and decode steps compiled into graphs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache

WARM_UP = 4  # tokens; a compiled step is compiled, recorded and replayed

Step = Callable[[torch.nn.Module, torch.Tensor, object], torch.Tensor]


def load(path: Path, dtype: str, attention: str | None, *, is_encoder: bool) -> torch.nn.Module:
    kind = AutoModel if is_encoder else AutoModelForCausalLM
    source = {} if path.is_dir() else {"gguf_file": path.name}
    folder = path if path.is_dir() else path.parent
    wanted = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    return kind.from_pretrained(folder, **wanted, **source).eval()


def step(model: torch.nn.Module, ids: torch.Tensor, cache: object) -> torch.Tensor:
    """The most probable token after each row of ids [B, T], as [B, 1]."""
    state = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return state.logits[:, -1].argmax(-1, keepdim=True)


def compiled(decode: Step) -> Step:
    graphs = torch.compile(decode, mode="reduce-overhead", fullgraph=True, dynamic=False)
    # The next replay writes over what this one has returned.
    return lambda model, ids, cache: graphs(model, ids, cache).clone()


def empty_caches(model: torch.nn.Module, cell: dict, *, is_static: bool) -> Callable[[], object]:
    """Makes an empty cache for each run of a cell. A static one is the same every time: recorded graphs hold it."""
    if not is_static:
        return lambda: DynamicCache(config=model.config)
    cache = StaticCache(config=model.config, max_cache_len=cell["prompt"] + cell["output"])

    def emptied() -> object:
        cache.reset()
        return cache

    return emptied


def now(device: torch.device) -> float:
    """The clock, once the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def random_ids(model: torch.nn.Module, cell: dict) -> torch.Tensor:
    size = (cell["batch"], cell["prompt"])
    return torch.randint(100, model.config.vocab_size - 100, size).to(model.device)


def encode_speed(model: torch.nn.Module, cell: dict) -> float:
    ids = random_ids(model, cell)
    start = now(model.device)
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return cell["batch"] / (now(model.device) - start)


def speed(model: torch.nn.Module, cell: dict, decode: Step, cache: object) -> float:
    batch, ids = cell["batch"], random_ids(model, cell)
    start = now(model.device)
    token = step(model, ids, cache)
    first = now(model.device)
    if cell["kind"] == "prefill":
        return batch * cell["prompt"] / (first - start)
    for _ in range(cell["output"] - 1):
        token = decode(model, token, cache)
    return batch * (cell["output"] - 1) / (now(model.device) - first)


def measure(model: torch.nn.Module, cell: dict, repeats: int, *, is_compiled: bool) -> float:
    """The median of `repeats`, after one that warms up."""
    if cell["kind"] == "encode":
        return float(np.median([encode_speed(model, cell) for _ in range(1 + repeats)][1:]))
    decode = compiled(step) if is_compiled else step
    empty = empty_caches(model, cell, is_static=is_compiled)
    speed(model, {**cell, "output": min(cell["output"], 1 + WARM_UP)}, decode, empty())
    return float(np.median([speed(model, cell, decode, empty()) for _ in range(repeats)]))


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
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--attention", default=None)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    is_encoder = bool(asked.cells) and asked.cells[0]["kind"] == "encode"
    model = load(asked.model, asked.dtype, asked.attention, is_encoder=is_encoder).to(asked.device)
    # transformers compiles under no_grad: tensors of inference mode have no version for a graph to ask.
    with torch.no_grad() if asked.compile else torch.inference_mode():
        if asked.score:
            for name, ids in json.loads(asked.score[0].read_text()).items():
                np.save(asked.score[1] / f"{name}.npy", score(model, ids))
        speeds = {cell["name"]: measure(model, cell, asked.repeats, is_compiled=asked.compile) for cell in asked.cells}
    print(json.dumps({"version": transformers.__version__, "speeds": speeds}))


if __name__ == "__main__":
    main()
