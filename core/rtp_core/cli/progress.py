"""Progress of downloads and loading on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from rtp_core.cli.console import note, plain, stderr

_REFRESH_S = 0.05
_MAX_TITLE = 32  # characters
_STEPS = 10  # lines of a download that is not watched on a terminal


class Progress(Protocol):
    """Called with bytes done and in total; a context manager, which cleans up the terminal."""

    def __call__(self, done: int, total: int) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def downloading(name: str) -> Progress:
    """Of a download: a bar, or a line every tenth of it."""
    title = f"downloading {_short(name)}"
    return _Bar(title, has_speed=True) if _is_watched() else _Lines(title)


def loading(name: str) -> Progress:
    """Of weights on their way to the device: a bar, or nothing."""
    return _Bar(f"loading {_short(name)}", has_speed=False) if _is_watched() else _Nothing()


def _short(name: str) -> str:
    """The last part of a path or of repo/id, so that a bar keeps to one line."""
    return plain(name.rstrip("/").rpartition("/")[2])[-_MAX_TITLE:]


def _is_watched() -> bool:
    return sys.stderr.isatty() and not stderr().is_dumb_terminal


class _Nothing:
    def __call__(self, done: int, total: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Lines(_Nothing):
    def __init__(self, title: str) -> None:
        self._title, self._step = title, -1

    def __call__(self, done: int, total: int) -> None:
        step = done * _STEPS // total if total else _STEPS
        if step > self._step:
            self._step = step
            note(f"{self._title}: {100 * step // _STEPS} % of {total / 1e6:.1f} MB")


class _Bar:
    """Drawn by the caller's thread alone, at most every `_REFRESH_S`; it vanishes when it is done."""

    def __init__(self, title: str, *, has_speed: bool) -> None:
        self._title, self._has_speed, self._drawn_at = title, has_speed, 0.0
        self._bars: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bars is None:
            self._start(total)
        now = time.monotonic()
        if now - self._drawn_at >= _REFRESH_S or done >= total:
            self._drawn_at = now
            self._bars.update(self._task, completed=done, total=total, refresh=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _start(self, total: int) -> None:
        from rich import progress

        speed = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn()) if self._has_speed else ()
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.DownloadColumn(),
            *speed,
            console=stderr(),
            expand=True,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bars.add_task(self._title, total=total)
        self._bars.start()
