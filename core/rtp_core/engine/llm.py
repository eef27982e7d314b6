"""LLM: the Python API. One model on one device; text or token ids in, text and token ids or embeddings out."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from numbers import Integral
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rtp_core.checkpoint import hub
from rtp_core.config import ModelConfig
from rtp_core.device.device import Device
from rtp_core.device.failure import Failures
from rtp_core.device.plan import Plan
from rtp_core.device.probing import Prober
from rtp_core.engine.collector import Collector
from rtp_core.engine.embedder import Embedder
from rtp_core.engine.engine import Engine, Progress
from rtp_core.engine.engine_config import EngineConfig
from rtp_core.engine.loading import load_engine
from rtp_core.engine.memory_view import MemoryView
from rtp_core.errors import ConfigError, ModelError, RequestError, UnsupportedModelError
from rtp_core.request import MAX_SEED, EmbeddingOutput, Request, RequestOutput, SamplingParams
from rtp_core.text.chat_template import render
from rtp_core.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]
Messages = Sequence[Mapping[str, Any]]


class LLM:
    """A model, ready to generate.

        llm = LLM("path-or-name", device="cpu")
        llm.generate(["Once upon a time"], SamplingParams(temperature=0))[0].text

    `model`: a folder, a GGUF file, a name from `rtp models ls`, or a `repo/id` of the Hugging Face hub; the
    options are those of EngineConfig. Text prompts follow the tokenizer's own BOS rule and no template;
    token-id prompts are taken as they are. Not thread-safe.
    Raises ConfigError, ModelError, DeviceError, OutOfMemoryError, NetworkError or CacheError.
    """

    def __init__(
        self,
        model: str = hub.DEFAULT_MODEL,
        *,
        downloading: Callable[[int, int], None] | None = None,
        loading: Callable[[int, int], None] = lambda done, total: None,
        info: Callable[[str], None] = lambda line: None,
        prober: Prober | None = None,
        **options: Any,
    ) -> None:
        unknown = sorted(set(options) - set(EngineConfig.__dataclass_fields__))
        if unknown:
            known = ", ".join(EngineConfig.__dataclass_fields__)
            raise ConfigError(f"unknown option {', '.join(unknown)}", where="LLM", why=f"expected some of {known}")
        self._loaded = load_engine(
            hub.resolve(model, downloading), EngineConfig(**options), progress=loading, info=info, prober=prober
        )
        self._memory = MemoryView(
            self._loaded.device, self._loaded.need, self._loaded.kv_tokens, self._loaded.checkpoint.path.name
        )
        self._ids = count()
        self._inboxes: dict[str, deque[Progress]] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return self._loaded.tokenizer

    @property
    def device(self) -> Device:
        return self._loaded.device

    @property
    def plan(self) -> Plan:
        return self._loaded.plan

    @property
    def why_eager(self) -> str:
        """Why decode steps run op by op; "" where the device has recorded them and they are replayed."""
        engine = self._loaded.engine
        return self._loaded.why_eager or (engine.why_eager if isinstance(engine, Engine) else "")

    @property
    def memory(self) -> MemoryView:
        """What the device's memory holds, and held at its peak."""
        return self._memory

    @property
    def config(self) -> ModelConfig:
        """The model's shape, as its own files say it."""
        return self._loaded.checkpoint.config

    @property
    def max_model_len(self) -> int:
        """The most tokens that prompt and output of one request can have."""
        return self._loaded.max_model_len

    @property
    def chat_template(self) -> str | None:
        return self._loaded.checkpoint.chat_template

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """What the model's own files say about sampling."""
        return self._loaded.checkpoint.generation_config

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """One output per prompt, in order. Either all prompts are served, or RequestError is raised for a bad one."""
        many = _as_list(prompts)
        each = _per_prompt(sampling, len(many))
        requests = [self._requests(prompt, params) for prompt, params in zip(many, each, strict=True)]
        collectors = [
            Collector(p if isinstance(p, str) else None, group) for p, group in zip(many, requests, strict=True)
        ]
        by_id = {request.request_id: c for c in collectors for request in c.requests}
        for progress in self._run([request for group in requests for request in group]):
            by_id[progress.request_id].add(progress)
        return [collector.output() for collector in collectors]

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Progress]:
        """The pieces of one completion as they become certain. Closing the iterator aborts the request."""
        params = sampling or SamplingParams()
        if params.n != 1:
            raise ConfigError(f"n is {params.n}", where="stream", why="expected 1: one stream, one completion")
        return self._run(self._requests(prompt, params))

    def stream_batch(
        self, prompts: Sequence[Prompt], sampling: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Iterator[Progress]:
        """The pieces of several prompts' completions, step by step; `request_id` tells them apart.

        Closing the iterator aborts what is unfinished.
        """
        each = _per_prompt(sampling, len(prompts))
        return self._run(
            [r for prompt, params in zip(prompts, each, strict=True) for r in self._requests(prompt, params)]
        )

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """Like generate, with the model's own chat template around one conversation or several."""
        conversations = [messages] if _is_conversation(messages) else messages
        return self.generate([self.chat_prompt(m, **template_options) for m in conversations], sampling)  # type: ignore[arg-type]

    def stream_chat(
        self, messages: Messages, sampling: SamplingParams | None = None, **template_options: Any
    ) -> Iterator[Progress]:
        """Like stream, with the model's own chat template around one conversation."""
        return self.stream(self.chat_prompt(messages, **template_options), sampling)

    def chat_prompt(self, messages: Messages, **template_options: Any) -> list[int]:
        """Token ids of a conversation in the model's own chat template. Raises ModelError where it has none."""
        _ = self._engine  # an encoder has no turn to take
        if self.chat_template is None:
            raise ModelError("the model has no chat template", hint="use generate, or --raw")
        text = render(
            self.chat_template,
            messages,
            bos_token=self.tokenizer.bos_token,
            eos_token=self.tokenizer.eos_token,
            **template_options,
        )
        return self.tokenizer.encode_chat(text)

    def embed(self, prompts: Prompt | Sequence[Prompt]) -> list[EmbeddingOutput]:
        """One embedding per prompt, in order, pooled and normalised as the model's own files say.

        Texts are cut to what the model can read. Raises RequestError for token ids that are too many, none or
        unknown, UnsupportedModelError for a model that generates.
        """
        embedder, prefix = self._embedder, self._prefix
        many = _as_list(prompts)
        if not many:
            return []
        texts = [prefix + prompt for prompt in many if isinstance(prompt, str)]
        encoded = iter(self.tokenizer.encode_batch(texts) if texts else ())
        requests = [next(encoded) if isinstance(p, str) else list(self._token_ids(p)) for p in many]
        embeddings = embedder.embed(requests).tolist()
        return [
            EmbeddingOutput(prompt if isinstance(prompt, str) else None, token_ids, embedding)
            for prompt, token_ids, embedding in zip(many, requests, embeddings, strict=True)
        ]

    def score(self, prompt: Prompt) -> Iterator[NDArray[np.float32]]:
        """What the model expects after each token of a prompt: natural log probabilities [rows, V], in order and some
        rows at a time, so that a long text takes no more memory than a short one.

        Close the iterator where it is not read to its end. Raises RequestError for a prompt that can never be served,
        and where other requests are unfinished.
        """
        (request,) = self._requests(prompt, SamplingParams(temperature=0, max_tokens=1))
        return self._engine.score(request)

    def close(self) -> None:
        """Give the device back. Raises DeviceFailedError where it turns out to be lost."""
        with Failures(self.device):
            self.device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _prefix(self) -> str:
        embedding = self._loaded.checkpoint.embedding
        return "" if embedding is None else embedding.prompt

    @property
    def _engine(self) -> Engine:
        if not isinstance(self._loaded.engine, Engine):
            raise UnsupportedModelError(
                f"a {self.config.model_type} model generates no text",
                where=str(self._loaded.checkpoint.path),
                why="it is an encoder: it turns texts into embeddings",
                hint=f"rtp embed TEXT --model {self._loaded.checkpoint.path}, or LLM.embed",
            )
        return self._loaded.engine

    @property
    def _embedder(self) -> Embedder:
        if not isinstance(self._loaded.engine, Embedder):
            raise UnsupportedModelError(
                f"a {self.config.model_type} model gives no embeddings",
                where=str(self._loaded.checkpoint.path),
                why="it is a decoder: it generates text",
                hint=f"rtp embed TEXT --model {hub.DEFAULT_EMBEDDING_MODEL}",
            )
        return self._loaded.engine

    def _run(self, requests: list[Request]) -> Iterator[Progress]:
        """Step until these requests are done. A step serves all requests: other streams find theirs in their inbox."""
        engine, inbox = self._engine, deque[Progress]()
        try:
            for request in requests:
                engine.add(request)
                self._inboxes[request.request_id] = inbox
            while inbox or not all(request.is_finished for request in requests):
                if inbox:
                    yield inbox.popleft()
                    continue
                for progress in engine.step():
                    self._inboxes[progress.request_id].append(progress)
        finally:
            for request in requests:
                engine.abort(request.request_id)
                self._inboxes.pop(request.request_id, None)

    def _requests(self, prompt: Prompt, sampling: SamplingParams) -> list[Request]:
        """One request per completion; they differ in their seeds."""
        token_ids = self._token_ids(prompt)
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        return [
            Request(
                request_id=f"request-{next(self._ids)}",
                prompt_token_ids=token_ids,
                sampling=sampling,
                seed=(seed + i) % (MAX_SEED + 1),
                eos_token_ids=self._loaded.eos_token_ids,
            )
            for i in range(sampling.n)
        ]

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt))
        vocab_size = self._loaded.checkpoint.config.vocab_size
        for token_id in prompt:
            # NumPy's integers are welcome; bool is an Integral too, and here always a mistake.
            is_integer = type(token_id) is int or (isinstance(token_id, Integral) and not isinstance(token_id, bool))
            if not is_integer or not 0 <= token_id < vocab_size:
                raise RequestError(f"bad token id {token_id!r} in a prompt", why=f"expected 0 to {vocab_size - 1}")
        return tuple(map(int, prompt))


def _is_conversation(messages: Messages | Sequence[Messages]) -> bool:
    """One conversation rather than several. An empty one is left for the template to refuse."""
    return not messages or isinstance(messages[0], Mapping)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if len(prompts) and all(isinstance(item, Integral) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _per_prompt(sampling: SamplingParams | Sequence[SamplingParams] | None, prompts: int) -> list[SamplingParams]:
    if sampling is None or isinstance(sampling, SamplingParams):
        return [sampling or SamplingParams()] * prompts
    if len(sampling) != prompts:
        raise ConfigError(f"{len(sampling)} sampling parameters for {prompts} prompts", why="expected one, or one each")
    return list(sampling)
