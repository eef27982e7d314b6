"""Decode steps that are recorded and replayed give the tokens of steps that run op by op, and fail as clearly."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import VOCAB, make_model, save

from rtp_core import LLM, RequestOutput, SamplingParams
from rtp_core.engine import loading
from rtp_core.errors import DeviceError
from rtp_core.request import Request
from rtp_core.runner.decode_replay import DecodeReplay
from rtp_core.scheduled_batch import ScheduledRequest
from rtp_cpu.device import CpuDevice

BUDGET = 64 << 20  # bytes
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
PARAMS = [
    GREEDY,
    SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, logprobs=3),
    SamplingParams(temperature=0.9, top_p=0.9, max_tokens=17, ignore_eos=True, seed=3),
    SamplingParams(temperature=1.2, top_k=20, min_p=0.01, max_tokens=9, seed=4, logprobs=0),
    SamplingParams(temperature=0, max_tokens=2, ignore_eos=True, prompt_logprobs=1),
]
LIMITS: dict[str, dict[str, int]] = {
    "at_once": {},
    "few_at_a_time": {"max_num_seqs": 3},
    "chunks": {"max_num_batched_tokens": 8, "max_num_seqs": 5},
}
FEW_BLOCKS = 8


@pytest.fixture(scope="module", params=["llama_tied", "qwen2_untied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save(make_model(request.param), folder)
    return folder


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Around the ends of chunks of 8 and blocks of 32."""
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, length).tolist() for length in (9, 1, 31, 32, 33, 17, 60, 64, 5, 2)]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many requests each replayed step has served."""
    seen: list[int] = []
    logits = DecodeReplay.logits

    def spy(replay: DecodeReplay, requests: Sequence[ScheduledRequest]) -> Any:
        seen.append(len(requests))
        return logits(replay, requests)

    monkeypatch.setattr(DecodeReplay, "logits", spy)
    yield seen


def open_llm(folder: Path, **options: Any) -> LLM:
    return LLM(str(folder), **{"device": "cpu", "dtype": "float32", "memory_budget": BUDGET, **options})


def told(outputs: list[RequestOutput]) -> list[tuple[Any, ...]]:
    return [(o.token_ids, o.finish_reason, o.logprobs, o.prompt_logprobs) for o in outputs]


def both(folder: Path, run: Callable[[LLM], Any], **options: Any) -> list[Any]:
    """What `run` gives with steps that are replayed, and with none."""
    found = []
    for enforce_eager in (False, True):
        with open_llm(folder, enforce_eager=enforce_eager, **options) as llm:
            assert llm.why_eager == ("enforce_eager" if enforce_eager else "")
            found.append(run(llm))
    return found


# -- the same tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_batches_that_shrink_and_grow_over_borders_of_blocks(
    limits: dict[str, int], checkpoint: Path, prompts: list[list[int]], sizes: list[int]
) -> None:
    params = [PARAMS[i % len(PARAMS)] for i in range(len(prompts))]
    replayed, eager = both(checkpoint, lambda llm: told(llm.generate(prompts, params)), **limits)
    assert replayed == eager
    assert len(set(sizes)) >= 2


def test_requests_that_join_leave_and_are_aborted(checkpoint: Path, prompts: list[list[int]], sizes: list[int]) -> None:
    def run(llm: LLM) -> dict[str, list[int]]:
        engine = llm._loaded.engine
        requests = []
        for step in count():
            if step % 3 == 0 and len(requests) < len(prompts):
                name, prompt = f"r{len(requests)}", tuple(prompts[len(requests)])
                params = PARAMS[len(requests) % 4]
                requests.append(Request(request_id=name, prompt_token_ids=prompt, sampling=params, seed=step))
                engine.add(requests[-1])
            if step == 14:
                assert engine.abort("r1")
            if not engine.has_unfinished:
                return {request.request_id: request.output_token_ids for request in requests}
            engine.step()
            engine.check_integrity()
        raise AssertionError

    replayed, eager = both(checkpoint, run)
    assert replayed == eager
    assert any(a < b for a, b in pairwise(sizes)), "none has joined"
    assert any(a > b for a, b in pairwise(sizes)), "none has left"


def test_preempted_requests(checkpoint: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "kv_blocks", lambda setting, need, room: FEW_BLOCKS)
    preempted: list[str] = []

    def run(llm: LLM) -> list[tuple[Any, ...]]:
        scheduler = llm._loaded.engine._scheduler
        schedule = scheduler.schedule

        def noting() -> Any:
            batch = schedule()
            preempted.extend(batch.preempted_ids)
            return batch

        scheduler.schedule = noting
        return told(llm.generate(prompts, PARAMS[:2] * 5))

    replayed, eager = both(checkpoint, run)
    assert replayed == eager
    assert preempted, "there were blocks enough"


def test_requests_with_features_run_op_by_op_among_those_that_are_replayed(
    checkpoint: Path, prompts: list[list[int]], sizes: list[int]
) -> None:
    with open_llm(checkpoint, features=("bias",)) as llm:
        expected = told(llm.generate(prompts[:2], GREEDY))
        assert set(sizes) == {2}
        make = llm._requests

        def with_bias(prompt: Any, sampling: SamplingParams) -> list[Request]:
            made = make(prompt, sampling)
            for request in made:
                request.features = frozenset({"bias"})
            return made

        llm._requests = with_bias  # type: ignore[method-assign]
        sizes.clear()
        assert told(llm.generate(prompts[:2], GREEDY)) == expected
        assert sizes == []
        llm._requests = make  # type: ignore[method-assign]
        assert told(llm.generate(prompts[:2], GREEDY)) == expected
        assert set(sizes) == {2}


def test_the_default_model_in_float32(
    open_model: Callable[[str, str], LLM], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = open_model("cpu", "float32")
    assert llm.why_eager == ""
    texts = ["The capital of France is", "def main():", "Once upon a time" + " and again" * 12]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, logprobs=1) for n in (16, 9, 12)]
    replayed = told(llm.generate(texts, params))
    assert set(sizes) == {1, 2, 3}
    monkeypatch.setattr(llm._loaded.engine._runner, "_replay", None)
    assert told(llm.generate(texts, params)) == replayed


def test_steps_that_are_filled_up_give_the_tokens_of_those_that_are_not(
    checkpoint: Path, prompts: list[list[int]], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "capture_size", lambda device, num_requests: -(-num_requests // 4) * 4)
    params = [PARAMS[i % len(PARAMS)] for i in range(len(prompts))]
    recorded: list[int] = []

    def run(llm: LLM) -> list[tuple[Any, ...]]:
        found = told(llm.generate(prompts, params))
        replay = llm._loaded.engine._runner._replay
        recorded.extend(() if replay is None else replay._recorded)
        return found

    replayed, eager = both(checkpoint, run, max_num_seqs=6)
    assert replayed == eager
    assert set(recorded) == {4, 6}
    assert set(sizes) > {1, 2}


# -- steps that are not replayed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"device": "cpu"}, ""),
        ({"device": "ref"}, "this device records no steps"),
        ({"device": "handle"}, "this device records no steps"),
        ({"enforce_eager": True}, "enforce_eager"),
        ({"trace_memory": "tags"}, "the trace of memory is of their ops"),
        (
            {"disable_impl": ("cpu.decoder_self_attention",)},
            "an op of the plan reads context lengths on the host",
        ),
    ],
)
def test_why_steps_run_op_by_op_is_told(
    options: dict[str, Any], why: str, checkpoint: Path, prompts: list[list[int]], sizes: list[int]
) -> None:
    lines: list[str] = []
    with open_llm(checkpoint, info=lines.append, **options) as llm:
        assert llm.why_eager == why
        is_news = why not in ("", "enforce_eager")
        assert lines == ([f"{llm.device.info.id}: decode steps run op by op: {why}"] if is_news else [])
        assert len(llm.generate(prompts[0], GREEDY)[0].token_ids) == 24
        assert bool(sizes) == (why == "")
        assert ("decode_replay" in llm.device.arena.totals()) == (why == "")


def test_limits_within_which_no_request_decodes_record_nothing(checkpoint: Path) -> None:
    with open_llm(checkpoint, max_model_len=2) as llm:
        assert llm.why_eager == "no request within max_model_len has one"
        assert len(llm.generate([[5]], GREEDY)[0].token_ids) == 1


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_kernel_that_fails_in_a_replay_is_an_error_and_the_engine_serves_on(
    checkpoint: Path, prompts: list[list[int]], sizes: list[int]
) -> None:
    with open_llm(checkpoint) as llm:
        expected = llm.generate(prompts[0], GREEDY)[0].token_ids
        engine = llm._loaded.engine
        request = Request(request_id="r", prompt_token_ids=tuple(prompts[0]), sampling=GREEDY, seed=0)
        engine.add(request)
        for _ in range(4):
            engine.step()
        right, request.output_token_ids[-1] = request.output_token_ids[-1], VOCAB
        sizes.clear()
        for _ in range(2):
            with pytest.raises(DeviceError, match=r"an id, position, slot or block lies outside its table") as caught:
                engine.step()
            assert caught.value.where == "gather_rows"
        assert sizes == [1, 1]
        request.output_token_ids[-1] = right
        while engine.has_unfinished:
            engine.step()
        assert request.output_token_ids == expected
        assert llm.generate(prompts[0], GREEDY)[0].token_ids == expected
        assert llm.memory.stats.public_bytes == 0


# -- company -------------------------------------------------------------------------------------------------------


def test_two_models_in_turn_and_from_two_threads(
    checkpoint: Path, prompts: list[list[int]], tmp_path: Path, sizes: list[int]
) -> None:
    save(make_model("llama_odd_heads"), tmp_path)
    with open_llm(checkpoint, threads=2) as one, open_llm(tmp_path, threads=2) as other:
        llms = (one, other)
        expected = [told(llm.generate(prompts[:4], PARAMS[:4])) for llm in llms]
        streams = [llm.stream(prompts[2], GREEDY) for llm in llms]
        tokens: list[list[int]] = [[], []]
        while not all(len(found) == 24 for found in tokens):
            for found, stream in zip(tokens, streams, strict=True):
                token_id = next(stream).token_id
                assert token_id is not None
                found.append(token_id)
        for stream in streams:
            stream.close()
        assert tokens == [llm.generate(prompts[2], GREEDY)[0].token_ids for llm in llms]

        results: dict[int, list[Any]] = {0: [], 1: []}

        def generate(i: int) -> None:
            for _ in range(5):
                results[i].append(told(llms[i].generate(prompts[:4], PARAMS[:4])))

        threads = [threading.Thread(target=generate, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {i: [expected[i]] * 5 for i in range(2)}
        assert sizes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_replays_and_records_on_its_own_thread(checkpoint: Path, prompts: list[list[int]]) -> None:
    with open_llm(checkpoint, threads=3) as llm:
        alone = llm.generate(prompts[0], GREEDY)[0].token_ids
        with open_llm(checkpoint, threads=3) as oracle:
            three = told(oracle.generate(prompts[:3], GREEDY))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                is_same = llm.generate(prompts[0], GREEDY)[0].token_ids == alone  # recorded by the parent
                status = 0 if is_same and told(llm.generate(prompts[:3], GREEDY)) == three else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert llm.generate(prompts[0], GREEDY)[0].token_ids == alone
        assert told(llm.generate(prompts[:3], GREEDY)) == three
