"""In float32 the company a request keeps changes none of its tokens: batches, limits, preemption, overrides."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from checkpoints import VOCAB, make_model, save
from oracle import assert_same_tokens

from rtp_core import LLM, RequestOutput, SamplingParams
from rtp_core.checkpoint.opening import open_checkpoint
from rtp_core.engine.forecast import forecast
from rtp_core.errors import RequestError

BUDGET = 64 << 20  # bytes
FEW_BLOCKS = 12
GREEDY = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, logprobs=2) for n in (1, 7, 20, 33)]
SAMPLED = [SamplingParams(temperature=0.8, top_p=0.9, max_tokens=n, ignore_eos=True, seed=n) for n in (5, 18)]

LIMITS = {
    "generous": {},
    "tiny_token_budget": {"max_num_batched_tokens": 3},
    "one_at_a_time": {"max_num_seqs": 1},
    "chunked_prefill": {"max_num_batched_tokens": 17, "max_num_seqs": 9},
    "crowded": {"max_num_batched_tokens": 64, "max_num_seqs": 64},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save(make_model("llama_tied"), folder)
    return folder


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(7)
    lengths = [1, 2, 3, 31, 32, 33, 64, 65, 90, *rng.integers(1, 100, 23).tolist()]
    return [rng.integers(0, 256, length).tolist() for length in lengths]


def params_of(i: int) -> SamplingParams:
    return (GREEDY * 4)[i % 16] if i % 5 else SAMPLED[i // 5 % 2]


@pytest.fixture(scope="module")
def alone(checkpoint: Path, prompts: list[list[int]]) -> list[RequestOutput]:
    """Each prompt by itself, on the reference device."""
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        return [llm.generate([prompt], params_of(i))[0] for i, prompt in enumerate(prompts)]


def assert_same_outputs(got: list[RequestOutput], expected: list[RequestOutput]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.finish_reason == other.finish_reason
        if other.logprobs is None:  # sampled: a tie of uniforms is as unlikely as any collision
            assert one.token_ids == other.token_ids
            continue
        best = [sorted(step.values(), reverse=True) for step in other.logprobs]
        assert_same_tokens(one.token_ids, other.token_ids, [step[0] - step[1] for step in best])


@pytest.mark.parametrize(
    ("device", "limits"),
    [*product(["ref", "cpu"], LIMITS), ("handle", "generous"), ("handle", "tiny_token_budget")],
)
def test_a_batch_gives_what_each_request_gives_alone(
    device: str, limits: str, checkpoint: Path, prompts: list[list[int]], alone: list[RequestOutput]
) -> None:
    with LLM(str(checkpoint), device=device, dtype="float32", memory_budget=BUDGET, **LIMITS[limits]) as llm:
        got = llm.generate(prompts, [params_of(i) for i in range(len(prompts))])
        assert_same_outputs(got, alone)


@pytest.mark.parametrize("device", ["ref", "cpu"])
def test_preempted_requests_lose_no_token(
    device: str, checkpoint: Path, prompts: list[list[int]], alone: list[RequestOutput]
) -> None:
    """So little memory that only a few requests have blocks at a time."""
    options = {"device": device, "dtype": "float32", "max_num_batched_tokens": 120}
    need = forecast(open_checkpoint(checkpoint), options).need
    budget = need.fixed_bytes + FEW_BLOCKS * need.kv_block_bytes
    with LLM(str(checkpoint), memory_budget=budget, **options) as llm:
        preempted = count_preemptions(llm)
        got = llm.generate(prompts, [params_of(i) for i in range(len(prompts))])
    assert preempted, "the memory was not short enough to preempt"
    assert_same_outputs(got, alone)


def count_preemptions(llm: LLM) -> list[str]:
    """Ids of the requests that get preempted from now on."""
    preempted: list[str] = []
    scheduler = llm._loaded.engine._scheduler
    schedule = scheduler.schedule

    def counted() -> object:
        batch = schedule()
        scheduler.check_integrity()
        preempted.extend(batch.preempted_ids)
        return batch

    scheduler.schedule = counted
    return preempted


def test_disabling_any_one_override_changes_no_token(
    checkpoint: Path, prompts: list[list[int]], alone: list[RequestOutput]
) -> None:
    with LLM(str(checkpoint), device="cpu", dtype="float32", memory_budget=BUDGET) as llm:
        overrides = {row.impl for row in llm.plan.rows if row.source == "override"}
    assert {"cpu.context_attention", "cpu.decoder_self_attention"} <= overrides
    for impl in sorted(overrides):
        with LLM(str(checkpoint), device="cpu", dtype="float32", memory_budget=BUDGET, disable_impl=(impl,)) as llm:
            assert impl not in {row.impl for row in llm.plan.rows}
            assert_same_outputs(llm.generate(prompts, [params_of(i) for i in range(len(prompts))]), alone)


def test_the_default_model_gives_the_same_tokens_in_company(open_model: Callable[[str, str], LLM]) -> None:
    llm = open_model("cpu", "float32")
    starts = ["The", "A short history of", "def main():", "In the beginning", "3 + 4 =", "她说", "Dear", "Once"]
    prompts = [f"{start} {'and so on ' * n}" for n in range(4) for start in starts]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=2)
    together = llm.generate(prompts, params)
    assert_same_outputs(together[:6] + together[-2:], [llm.generate(p, params)[0] for p in prompts[:6] + prompts[-2:]])


def test_two_streams_at_once_do_not_steal_from_each_other(checkpoint: Path, prompts: list[list[int]]) -> None:
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
        expected = [o.token_ids for o in llm.generate(prompts[:2], params)]
        first, second = (llm.stream(prompt, params) for prompt in prompts[:2])
        got: list[list[int | None]] = [[next(first).token_id], [next(second).token_id]]
        got[1] += [p.token_id for p in second]
        got[0] += [p.token_id for p in first]
        assert [[t for t in tokens if t is not None] for tokens in got] == expected


def test_a_closed_stream_gives_its_blocks_back(checkpoint: Path, prompts: list[list[int]]) -> None:
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        stream = llm.stream(prompts[8], SamplingParams(temperature=0, max_tokens=50, ignore_eos=True))
        next(stream)
        stream.close()
        assert not llm._loaded.engine.has_unfinished
        llm._loaded.engine.check_integrity()


def test_n_completions_of_one_prompt_differ_by_seed_and_can_be_repeated(
    checkpoint: Path, prompts: list[list[int]]
) -> None:
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        params = SamplingParams(n=3, temperature=1.0, seed=11, max_tokens=12, ignore_eos=True)
        first, again = (llm.generate([prompts[3]], params)[0] for _ in range(2))
        assert [o.index for o in first.outputs] == [0, 1, 2]
        assert len({tuple(o.token_ids) for o in first.outputs}) == 3
        assert [o.token_ids for o in first.outputs] == [o.token_ids for o in again.outputs]
        assert all(0 <= t < VOCAB for o in first.outputs for t in o.token_ids)


def test_token_ids_may_be_numpy_integers_and_must_be_in_the_vocabulary(checkpoint: Path) -> None:
    with LLM(str(checkpoint), device="ref", dtype="float32", memory_budget=BUDGET) as llm:
        params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
        expected = llm.generate([[5, 6, 7]], params)[0].token_ids
        assert llm.generate(np.array([5, 6, 7]), params)[0].token_ids == expected
        for bad in ([VOCAB], [-1], [1.5], [True], []):
            with pytest.raises(RequestError):
                llm.generate([bad], params)
        assert not llm._loaded.engine.has_unfinished
