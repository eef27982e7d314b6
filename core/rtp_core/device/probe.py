"""The process in which plugins are loaded and probed: a crash or a hang there costs nobody else anything.

`probing` starts it and writes one request a line; it answers with a line for each phase that begins, and one with
the outcome. Nothing heavy is imported: what the plugins themselves import is most of the cost.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any, NoReturn

from rtp_core.device.hooks import load_hooks
from rtp_core.device.manifest import DeviceInfo, Manifest, incompatibility
from rtp_core.device.op import No
from rtp_core.errors import ContractError

Answer = dict[str, Any]
Begin = Callable[[str], None]


def serve(requests: IO[bytes], answers: int, time_limit: float) -> NoReturn:
    """Answer requests until there are none. A phase may print what it likes: the answers have a pipe of their own."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a crash leaves its Python stack on stderr
    for line in requests:
        # Ends this process with the stack of what hangs, even while native code never returns.
        faulthandler.dump_traceback_later(time_limit, exit=True)
        answer = _answer(json.loads(line), lambda phase: _say(answers, {"phase": phase}))
        faulthandler.cancel_dump_traceback_later()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # a plugin may have closed or replaced it
                stream.flush()
        _say(answers, {"outcome": answer})
    os._exit(0)  # whatever a plugin registered for the end of the process has nothing to say any more


def _say(answers: int, message: Answer) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(answers, data) :]


def _answer(request: Answer, begin: Begin) -> Answer:
    answer: Answer = {"state": "BROKEN", "reason": "", "traceback": ""}
    phase = "load"

    def enter(name: str) -> None:
        nonlocal phase
        phase = name
        begin(name)

    try:
        answer |= _probe(request, enter, answer)
        json.dumps(answer)  # what a plugin put into its manifest is anybody's guess
    except BaseException as error:  # of a plugin: SystemExit and KeyboardInterrupt are failures like any other
        answer = {"api": answer.get("api"), **_failed(phase, error)}
    return answer


def _probe(request: Answer, enter: Begin, known: Answer) -> Answer:
    """Through the phases; `known` holds what is certain when a later phase fails."""
    kind: str = request["kind"]
    enter("load")
    hooks = load_hooks(kind, request["value"])
    enter("manifest")
    manifest = hooks.rtp_device_manifest()
    if not isinstance(manifest, Manifest):
        raise ContractError(f"rtp_device_manifest answered {manifest!r}", why="expected a Manifest")
    known["api"] = list(manifest.api)
    reason = incompatibility(manifest.api, tuple(request["api"]))
    if reason:
        return {"state": "INCOMPATIBLE", "reason": reason}
    if manifest.kind != kind:
        raise ContractError(f"its manifest says kind {manifest.kind!r}", why=f"its entry point says {kind!r}")
    answer = {"state": "AVAILABLE", "manifest": manifest.as_data()}
    answer |= _report(hooks, enter) if request["report"] else {}
    enter("probe")
    try:
        devices = hooks.rtp_device_probe()
        if isinstance(devices, No):
            return {**answer, "state": "UNAVAILABLE", "reason": str(devices.reason)}
        return {**answer, "devices": [asdict(device) for device in _checked(kind, devices)]}
    except BaseException as error:
        return {**answer, **_failed("probe", error)}  # the manifest is known all the same


def _checked(kind: str, devices: Any) -> list[DeviceInfo]:
    if not isinstance(devices, list | tuple) or not devices or not all(isinstance(d, DeviceInfo) for d in devices):
        raise ContractError(f"its probe answered {devices!r}", why="expected devices, or No(reason)")
    expected = [f"{kind}:{index}" for index in range(len(devices))]
    if [device.id for device in devices] != expected:
        raise ContractError(
            f"its probe found {', '.join(str(device.id) for device in devices)}",
            why=f"expected the ids {', '.join(expected)}",
        )
    for device in devices:
        total, free = device.memory_total_bytes, device.memory_free_bytes
        if not (isinstance(total, int) and isinstance(free, int) and 0 <= free <= total):
            raise ContractError(
                f"{device.id} has {free!r} of {total!r} bytes free", why="expected whole numbers, 0 <= free <= total"
            )
    return list(devices)


def _report(hooks: Any, enter: Begin) -> Answer:
    """What a plugin tells about its drivers. One that fails is itself worth reporting."""
    enter("report")
    try:
        return {"report": {str(key): str(value) for key, value in (hooks.rtp_env_report() or {}).items()}}
    except Exception as error:
        return {"report": {"rtp_env_report failed": _told(error)}}


def _failed(phase: str, error: BaseException) -> Answer:
    import traceback

    try:
        text = "".join(traceback.format_exception(error))
    except Exception:  # an exception that cannot be shown
        text = ""
    if isinstance(error, ImportError) and error.name == "rtp_core.plugin":
        reason = f"it needs more of rtp_core.plugin than this core has: {_told(error)}"
        return {"state": "INCOMPATIBLE", "reason": reason, "traceback": text}
    return {"state": "BROKEN", "phase": phase, "reason": _told(error), "traceback": text}


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__}, whose message cannot be read"
