"""llama.cpp through llama-cpp-python's low-level API: scores a text, and samples completions in lockstep."""

from __future__ import annotations

import ctypes

import llama_cpp as api
import numpy as np

from rtp_core.device.host_sampling import log_softmax, sample
from rtp_core.sampling.uniforms import uniforms

THREADS = 2
CONTEXT = 4096


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _quiet(level: int, text: bytes, data: object) -> None:
    pass


class LlamaCpp:
    """One model with llama.cpp's default settings."""

    def __init__(self, path: str) -> None:
        api.llama_backend_init()
        api.llama_log_set(_quiet, None)
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        self._vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def logits(self, ids: list[int]) -> np.ndarray:
        """After each token: [T, V] float32."""
        context = self._context(1)
        logits = self._decode(context, [(token, i, 0) for i, token in enumerate(ids)])
        api.llama_free(context)
        return logits

    def generate(
        self, prompts: list[list[int]], batch: int, new_tokens: int
    ) -> list[tuple[list[int], list[int], list[float]]]:
        """Prompt, tokens and their log probabilities; prompt i draws with seed i, as rtp would."""
        done = []
        for start in range(0, len(prompts), batch):
            group = prompts[start : start + batch]
            context = self._context(len(group))
            prompted = [[(t, i, s) for i, t in enumerate(p)] for s, p in enumerate(group)]
            logits = np.stack([self._decode(context, items)[-1] for items in prompted])
            tokens: list[list[int]] = [[] for _ in group]
            own: list[list[float]] = [[] for _ in group]
            ones, zeros = np.ones(len(group), np.float32), np.zeros(len(group), np.float32)
            for step in range(new_tokens):
                scores = log_softmax(logits)
                draws = np.array([uniforms(start + s, step)[0] for s in range(len(group))])
                off = {"top_k": zeros.astype(np.int64), "top_p": ones, "min_p": zeros}
                chosen = sample(logits, temperature=ones, uniforms=draws, **off)
                for s, token in enumerate(chosen.tolist()):
                    tokens[s].append(token)
                    own[s].append(float(scores[s, token]))
                lengths = [len(prompt) + step for prompt in group]
                logits = self._decode(context, [(t[-1], lengths[s], s) for s, t in enumerate(tokens)])
            api.llama_free(context)
            done += list(zip(group, tokens, own, strict=True))
        return done

    def _context(self, num_sequences: int) -> object:
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = CONTEXT, 2048, 512, num_sequences
        params.n_threads = params.n_threads_batch = THREADS
        params.kv_unified = True
        return api.llama_init_from_model(self._model, params)

    def _decode(self, context: object, items: list[tuple[int, int, int]]) -> np.ndarray:
        """Logits of every item (token, position, sequence): [items, V] float32."""
        batch = api.llama_batch_init(len(items), 0, 1)
        batch.n_tokens = len(items)
        for i, (token, position, sequence) in enumerate(items):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, sequence, 1
        status = api.llama_decode(context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}")
        logits = np.ctypeslib.as_array(api.llama_get_logits(context), (len(items), self._vocab)).copy()
        api.llama_batch_free(batch)
        return logits
