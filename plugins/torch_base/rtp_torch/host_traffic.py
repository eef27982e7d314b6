"""How often a device and the host have met: each meeting costs more than many kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HostTraffic:
    """Copies, and waits of the host for the device or for an event. Not those for a slot of the staging ring, which
    the device has read long before its turn comes again."""

    from_host: int = 0
    to_host: int = 0
    waits: int = 0
