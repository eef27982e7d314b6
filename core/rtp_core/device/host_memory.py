"""How much memory the host has. Alone in its file, for probes that load nothing heavy."""

from __future__ import annotations

import os


def host_memory_info() -> tuple[int, int]:
    """Bytes of host memory: (total, available without swapping). Reads /proc/meminfo, else sysconf."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = page * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            fields = dict(line.split(":", 1) for line in meminfo)
        return total, int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return total, page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else total
