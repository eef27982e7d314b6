"""Recording steps: run once for what first calls set up, then recorded; or found to need the host."""

from __future__ import annotations

from collections.abc import Callable

from rtp_core.plugin import DeviceError
from rtp_torch.accelerator import Accelerator


class _NeedsHost(Exception):
    """A step that is being recorded copies from or to the host."""


class Recorder:
    """One step at a time."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._is_recording = accelerator, False

    def capture(self, step: Callable[[], None]) -> Callable[[], None] | None:
        """See `rtp_core.plugin.Device.capture`."""
        if self._is_recording:
            raise DeviceError("cannot record a step", why="one is being recorded")
        self._is_recording = True
        try:
            step()  # compiles kernels and loads libraries, which cannot happen while a graph is recorded
            return self._accelerator.record(step)
        except _NeedsHost:
            return None
        finally:
            self._is_recording = False

    def refuse_host(self) -> None:
        """Called before anything that only the host can do: a replay would leave it out."""
        if self._is_recording:
            raise _NeedsHost
