"""llama.cpp through llama-cpp-python's low-level API, run by `peers.py` in a process of its own.

    python run_llama_cpp.py MODEL.gguf --threads N --cells JSON | --score IDS.json OUT_FOLDER | --first-token
                                      | --requantize q4_0|q8_0 OUT.gguf

Prints one line of JSON. Needs llama-cpp-python and NumPy alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from pathlib import Path

import llama_cpp as api
import numpy as np

FILE_TYPES = {"q4_0": 2, "q8_0": 7}  # llama.cpp's enum llama_ftype
WARM_UP = 2  # steps, not measured
Item = tuple[int, int, int, bool]  # token, position, sequence, whether logits are wanted


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


class Model:
    """One file with llama.cpp's default settings and a number of threads."""

    def __init__(self, path: str, threads: int) -> None:
        self._threads = threads
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._random = np.random.default_rng(0)

    def context(self, sequences: int, tokens: int) -> object:
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens, max(2048, tokens), 512, sequences
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True
        return api.llama_init_from_model(self._model, params)

    def random_ids(self, count: int) -> list[int]:
        return self._random.integers(100, self.vocab - 100, count).tolist()

    def speed(self, kind: str, batch: int, prompt: int, output: int) -> float:
        """Tokens per second of one round, as `cells.Cell` defines it."""
        context = self.context(batch, batch * (prompt + output) + 64)
        fills = [[(t, i, s, i == prompt - 1) for i, t in enumerate(self.random_ids(prompt))] for s in range(batch)]
        start = time.perf_counter()
        for items in fills:
            _decode(context, items)
        first = time.perf_counter()
        for step in range(output - 1):
            ids = self.random_ids(batch)
            _decode(context, [(token, prompt + step, s, True) for s, token in enumerate(ids)])
        end = time.perf_counter()
        api.llama_free(context)
        return batch * prompt / (first - start) if kind == "prefill" else batch * (output - 1) / (end - first)

    def logits(self, ids: list[int]) -> np.ndarray:
        """[T, V] float32."""
        context = self.context(1, len(ids) + 64)
        _decode(context, [(token, i, 0, True) for i, token in enumerate(ids)])
        found = np.ctypeslib.as_array(api.llama_get_logits(context), (len(ids), self.vocab)).copy()
        api.llama_free(context)
        return found


def _decode(context: object, items: list[Item]) -> None:
    batch = api.llama_batch_init(len(items), 0, 1)
    batch.n_tokens = len(items)
    for i, (token, position, sequence, wants_logits) in enumerate(items):
        batch.token[i], batch.pos[i] = token, position
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, wants_logits
    status = api.llama_decode(context, batch)
    api.llama_synchronize(context)
    api.llama_batch_free(batch)
    if status != 0:
        raise SystemExit(f"llama_decode answered {status}")


def measure(model: Model, cells: list[dict], repeats: int) -> dict[str, float]:
    speeds = {}
    for cell in cells:
        asked = (cell["kind"], cell["batch"], cell["prompt"])
        # Prefill asks for no tokens after the first, however many the cell shares with others.
        output = 1 if cell["kind"] == "prefill" else cell["output"]
        model.speed(*asked, min(output, 1 + WARM_UP))
        speeds[cell["name"]] = float(np.median([model.speed(*asked, output) for _ in range(repeats)]))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=json.loads, default=[])
    parser.add_argument("--score", nargs=2, type=Path)
    parser.add_argument("--first-token", action="store_true")
    parser.add_argument("--requantize", nargs=2)
    asked = parser.parse_args()
    api.llama_backend_init()
    api.llama_log_set(_quiet, None)
    document = {"version": api.__version__}
    if asked.requantize:
        params = api.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize, params.nthread = FILE_TYPES[asked.requantize[0]], True, asked.threads
        status = api.llama_model_quantize(asked.model.encode(), asked.requantize[1].encode(), ctypes.byref(params))
        raise SystemExit(status)
    if asked.first_token:
        llm = api.Llama(asked.model, n_threads=asked.threads, n_threads_batch=asked.threads, verbose=False)
        for piece in llm("Once upon a time", max_tokens=8, temperature=0, stream=True):
            print(piece["choices"][0]["text"], end="", flush=True)
        return
    model = Model(asked.model, asked.threads)
    if asked.score:
        for name, ids in json.loads(asked.score[0].read_text()).items():
            np.save(asked.score[1] / f"{name}.npy", model.logits(ids))
    print(json.dumps({**document, "speeds": measure(model, asked.cells, asked.repeats)}))


if __name__ == "__main__":
    main()
