"""A model on a device, for the commands that run one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rtp_core.checkpoint import hub
from rtp_core.cli.console import note
from rtp_core.cli.no_collections import no_collections
from rtp_core.cli.options import EngineOptions
from rtp_core.cli.progress import downloading, loading
from rtp_core.device.probing import Prober

if TYPE_CHECKING:
    from rtp_core.engine.llm import LLM
    from rtp_core.memory.tracer import TraceLevel


def load(options: EngineOptions, *, trace_memory: TraceLevel = "off") -> tuple[LLM, float]:
    """The model, downloaded if need be, and the seconds that loading took without that. Raises any RtpError."""
    config = options.config() | {"trace_memory": trace_memory}
    with downloading(options.model) as progress:
        path = hub.resolve(options.model, progress)
    start = time.perf_counter()
    with no_collections(), Prober.from_environment() as prober, loading(options.model) as progress:
        prober.start()  # its interpreter is up by the time that this one has read all of its modules
        from rtp_core.engine.llm import LLM

        llm = LLM(str(path), loading=progress, info=note, prober=prober, **config)
    return llm, time.perf_counter() - start
