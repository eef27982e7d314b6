"""Exit codes of every command: a contract with scripts."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """BUG is sysexits' EX_SOFTWARE: apart from a failed check, which is a result."""

    OK = 0
    FAILED = 1  # a check failed, or the cache or standard output cannot be written
    USAGE = 2
    MODEL = 3
    DEVICE = 4  # none usable, or an unhealthy plugin in a listing
    OUT_OF_MEMORY = 5
    NETWORK = 6
    BUG = 70
    INTERRUPTED = 130
