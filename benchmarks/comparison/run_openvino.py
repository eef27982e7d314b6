"""OpenVINO, run by `peers.py` in a process of its own: a GGUF file, or an exported folder.

    python run_openvino.py MODEL --threads N --cells JSON | --score IDS.json OUT_FOLDER

Prints one line of JSON. Speeds come from OpenVINO GenAI's pipeline, those of encoders from the compiled model.
Decoding is timed from the first new token to the last, by the pipeline's own record of when each came.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai


class Pipeline:
    def __init__(self, path: str, threads: int) -> None:
        self._pipe = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)
        self._random = np.random.default_rng(0)

    def run(self, batch: int, prompt: int, output: int) -> tuple[float, list[float]]:
        """Seconds in all, and the time of each new token, in milliseconds."""
        ids = ov.Tensor(self._random.integers(100, 40000, (batch, prompt)).astype(np.int64))
        inputs = genai.TokenizedInputs(ids, ov.Tensor(np.ones((batch, prompt), np.int64)))
        start = time.perf_counter()
        result = self._pipe.generate(inputs, max_new_tokens=output, ignore_eos=True, do_sample=False)
        return time.perf_counter() - start, result.perf_metrics.raw_metrics.m_new_token_times

    def speed(self, cell: dict, repeats: int) -> float:
        batch, prompt, output = cell["batch"], cell["prompt"], cell["output"]
        is_prefill = cell["kind"] == "prefill"
        self.run(batch, prompt, 2)
        runs = [self.run(batch, prompt, 1 if is_prefill else output) for _ in range(repeats)]
        if is_prefill:
            return batch * prompt / float(np.median([seconds for seconds, _ in runs]))
        return 1e3 * batch * (output - 1) / float(np.median([times[-1] - times[0] for _, times in runs]))


class Graph:
    """The model itself, for its logits, or as an encoder."""

    def __init__(self, path: Path, threads: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if path.is_dir():
                file = path / "openvino_model.xml"
            else:  # GenAI builds it out of a GGUF file, and leaves it beside that
                link = Path(folder) / path.name
                link.symlink_to(path.resolve())
                genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
                file = Path(folder) / "openvino_model.xml"
            self._compiled = ov.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def run(self, ids: np.ndarray) -> np.ndarray:
        positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int64), ids.shape)
        known = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": positions,
            "beam_idx": np.arange(len(ids), dtype=np.int32),
        }
        request = self._compiled.create_infer_request()
        wanted = {name for port in self._compiled.inputs for name in port.get_names() if name in known}
        return np.array(request.infer({name: known[name] for name in wanted})[0])

    def speed(self, cell: dict, repeats: int) -> float:
        """Sequences per second."""
        ids = np.random.default_rng(0).integers(1000, 30000, (cell["batch"], cell["prompt"])).astype(np.int64)
        positions = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        names = {name for port in self._compiled.inputs for name in port.get_names()}
        inputs = {name: value for name, value in positions.items() if name in names}
        request, times = self._compiled.create_infer_request(), []
        for _ in range(max(repeats, round(20 * repeats / cell["batch"])) + 1):
            start = time.perf_counter()
            request.infer(inputs)
            times.append(time.perf_counter() - start)
        return cell["batch"] / float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=json.loads, default=[])
    parser.add_argument("--score", nargs=2, type=Path)
    asked = parser.parse_args()
    speeds = {}
    if asked.score:
        graph = Graph(asked.model, asked.threads)
        for name, ids in json.loads(asked.score[0].read_text()).items():
            np.save(asked.score[1] / f"{name}.npy", graph.run(np.array([ids], np.int64))[0].astype(np.float32))
    elif asked.cells:
        is_encoder = asked.cells[0]["kind"] == "encode"
        runner = (Graph if is_encoder else Pipeline)(asked.model if is_encoder else str(asked.model), asked.threads)
        speeds = {cell["name"]: runner.speed(cell, asked.repeats) for cell in asked.cells}
    print(json.dumps({"version": genai.__version__, "speeds": speeds}))


if __name__ == "__main__":
    main()
