"""Copies on their own stream: each holds its buffers until no stream can come too late for them any more."""

from __future__ import annotations

from rtp_core.plugin import Buffer, Event
from rtp_torch.accelerator import Accelerator, AcceleratorEvent
from rtp_torch.host_traffic import HostTraffic


class InFlight:
    """What a free waits for: memory goes back to the arena once its copy has passed, or later work waits for it."""

    def __init__(self) -> None:
        self._held: dict[AcceleratorEvent, tuple[Buffer, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def hold(self, event: AcceleratorEvent, buffers: tuple[Buffer, ...]) -> None:
        self._held[event] = buffers

    def release(self, event: AcceleratorEvent) -> None:
        self._held.pop(event, None)

    def settle(self) -> None:
        """Let go of what has passed."""
        for event in [event for event in self._held if event.query()]:
            self.release(event)

    def clear(self) -> None:
        """All has passed."""
        self._held.clear()


class DeviceEvent(Event):
    """A point in the work of a stream, perhaps the end of a copy."""

    def __init__(
        self, accelerator: Accelerator, event: AcceleratorEvent, in_flight: InFlight, traffic: HostTraffic
    ) -> None:
        self._accelerator, self._event, self._in_flight, self._traffic = accelerator, event, in_flight, traffic

    def wait(self) -> None:
        self._accelerator.current_stream().wait_event(self._event)
        # Whatever takes the memory from now on runs after the copy.
        self._in_flight.release(self._event)

    def synchronize(self) -> None:
        self._traffic.waits += 1
        self._event.synchronize()
        self._in_flight.release(self._event)
