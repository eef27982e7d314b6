"""What `rtp` says of installed plugins, whatever they do: each has one state, one reason and one next command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .conftest import OTHERS, Run
from .fixture_plugins import PLUGINS

HANGING = ("hanger",)  # costs a whole time limit, so it has tests of its own

# kind: state, what the reason has, what the next command has
EXPECTED: dict[str, tuple[str, str, str]] = {
    "sound": ("AVAILABLE", "", ""),
    "noisy": ("AVAILABLE", "", ""),
    "parent": ("AVAILABLE", "", ""),
    "reporter": ("AVAILABLE", "", ""),
    "report_crasher": ("AVAILABLE", "", ""),
    "older": ("AVAILABLE", "its plugin API 0.9 is the one before this core's", "pip install -U rtp-older"),
    "absent": ("UNAVAILABLE", "no card is plugged in", "rtp devices show absent"),
    "unimportable": (
        "BROKEN",
        "its module failed to load: ImportError: libacme.so.7: cannot open",
        "show unimportable",
    ),
    "leaver": ("BROKEN", "its module failed to load: SystemExit: 3", "RTP_PLUGINS=-leaver"),
    "quitter": ("BROKEN", "its probe failed: its process ended with status 7", "rtp devices show quitter"),
    "raiser": ("BROKEN", "its probe failed: OSError: driver is from 1998", "rtp devices show raiser"),
    "import_crasher": ("BROKEN", "its module failed to load: killed by SIGSEGV", "rtp devices show import_crasher"),
    "probe_crasher": ("BROKEN", "its probe failed: killed by SIGSEGV", "rtp devices show probe_crasher"),
    "aborter": ("BROKEN", "its probe failed: killed by SIGABRT", "rtp devices show aborter"),
    "closer": ("BROKEN", "its probe failed: its process", "rtp devices show closer"),
    "newer_major": ("INCOMPATIBLE", "it needs plugin API 2.0, newer than this core's", "pip install -U rtp-core"),
    "newer_minor": ("INCOMPATIBLE", "it needs plugin API 1.99, newer than this core's", "pip install -U rtp-core"),
    "newer_name": ("INCOMPATIBLE", "cannot import name 'Hologram' from 'rtp_core.plugin'", "pip install -U rtp-core"),
    "too_old": ("INCOMPATIBLE", "it needs plugin API -1.0, older than this core's", "rtp-too-old"),
    "demanding": ("INCOMPATIBLE", "it requires rtp-core>=99, and this is rtp-core", "pip install -U rtp-core"),
    "auto": ("BROKEN", "the kind 'auto' is reserved", "pip uninstall rtp-auto"),
}


def rows_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The listing's rows by distribution."""
    return {row["dist"]: row for row in json.loads(done.stdout)["plugins"]}


@pytest.fixture(scope="module")
def listing(site: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """`rtp devices list --json` with all of them but the hanging one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RTP_")}
    path = os.pathsep.join(filter(None, [str(site), kept.get("PYTHONPATH", "")]))
    blocked = ",".join(f"-{kind}" for kind in (*OTHERS, *HANGING))
    return subprocess.run(
        [sys.executable, "-P", "-m", "rtp_core.cli", "devices", "list", "--json"],
        env={**kept, "PYTHONPATH": path, "RTP_PLUGINS": blocked},
        cwd=tmp_path_factory.mktemp("empty"),
        capture_output=True,
        text=True,
    )


def test_the_listing_survives_all_of_them_and_says_that_not_all_is_well(
    listing: subprocess.CompletedProcess[str],
) -> None:
    assert listing.returncode == 4, listing.stderr
    assert "Traceback" not in listing.stderr
    assert {row["kind"] for row in rows_of(listing).values()} >= set(PLUGINS)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_plugin_has_its_state_reason_and_next_command(
    listing: subprocess.CompletedProcess[str], kind: str
) -> None:
    row = rows_of(listing)[f"rtp-{kind}".replace("_", "-")]
    state, reason, hint = EXPECTED[kind]
    assert row["state"] == state, row
    assert reason in row["reason"]
    assert hint in row["hint"]
    if state != "AVAILABLE":
        assert row["reason"] and row["hint"] and not row["devices"], row


def test_every_fixture_plugin_is_expected_to_be_something() -> None:
    assert set(EXPECTED) | {"twin", *HANGING} == set(PLUGINS)


def test_two_distributions_of_one_kind_are_in_conflict(listing: subprocess.CompletedProcess[str]) -> None:
    rows = rows_of(listing)
    assert rows["rtp-twin"]["state"] == rows["twin-fork"]["state"] == "CONFLICT"
    assert rows["rtp-twin"]["reason"] == "twin-fork also provides twin"
    assert "--device twin@rtp-twin" in rows["rtp-twin"]["hint"]


def test_a_conflict_is_settled_by_blocking_one_distribution_or_by_naming_the_other(rtp: Run) -> None:
    settled = rtp("devices", "list", "--json", plugins="twin,ref,-twin@rtp-twin")
    states = {dist: row["state"] for dist, row in rows_of(settled).items()}
    assert (settled.returncode, states["rtp-twin"], states["twin-fork"]) == (0, "BLOCKED", "AVAILABLE")
    named = json.loads(rtp("devices", "show", "twin@twin-fork", "--json", plugins="twin").stdout)
    assert (named["state"], named["devices"][0]["name"]) == ("AVAILABLE", "of the fork")


def test_an_allow_list_keeps_crashing_plugins_from_being_loaded(rtp: Run) -> None:
    done = rtp("devices", "list", "--json", plugins="sound,ref")
    assert done.returncode == 0
    rows = rows_of(done)
    assert rows["rtp-import-crasher"]["state"] == "BLOCKED"
    assert (rows["rtp-import-crasher"]["reason"], rows["rtp-import-crasher"]["hint"]) == (
        "left out by RTP_PLUGINS",
        "unset RTP_PLUGINS",
    )


# -- a hang --------------------------------------------------------------------------------------------------------


def test_a_probe_that_hangs_is_broken_with_the_stack_it_hangs_in(rtp: Run) -> None:
    shown = rtp("devices", "show", "hanger", "--json", plugins="hanger", RTP_PROBE_SECONDS="1.5")
    assert shown.returncode == 4
    found = json.loads(shown.stdout)
    assert found["state"] == "BROKEN"
    assert found["reason"] == "its probe failed: no answer within 1.5 s (RTP_PROBE_SECONDS)"
    assert "wait_for_ever" in found["output"]


# A test run in the background ignores the signal, and its children would too.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from rtp_core.cli.main import main
main()
"""


def test_an_interrupt_ends_the_process_that_probes(environment: Mapping[str, str], tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    rtp = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTIBLE, "devices", "list"],
        env={**environment, "RTP_PLUGINS": "hanger", "TOLD_TO": str(told), "RTP_PROBE_SECONDS": "600"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    pid = int(told.read_text())  # waits until the probe is there
    rtp.send_signal(signal.SIGINT)
    output, _ = rtp.communicate(timeout=60)
    assert rtp.returncode == 130, output
    assert not is_running(pid)


def test_what_a_probe_has_started_ends_with_it(rtp: Run) -> None:
    (device,) = rows_of(rtp("devices", "list", "--json", plugins="parent"))["rtp-parent"]["devices"]
    assert not is_running(int(device["name"]))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# -- what is told of it --------------------------------------------------------------------------------------------


def test_show_has_the_stack_of_a_crash(rtp: Run) -> None:
    shown = rtp("devices", "show", "probe_crasher", plugins="probe_crasher")
    assert shown.returncode == 4
    assert "Fatal Python error: Segmentation fault" in shown.stdout
    assert "rtp_device_probe" in shown.stdout


def test_show_has_the_traceback_of_a_probe_and_the_manifest_beside_it(rtp: Run) -> None:
    found = json.loads(rtp("devices", "show", "raiser", "--json", plugins="raiser").stdout)
    assert found["manifest"]["device_class"] == "accelerator"
    assert found["traceback"].rstrip().endswith("OSError: driver is from 1998")
    assert "rtp_raiser/plugin.py" in found["traceback"]


def test_what_a_plugin_prints_is_kept_and_spoils_nothing(rtp: Run) -> None:
    found = json.loads(rtp("devices", "show", "noisy", "--json", plugins="noisy").stdout)
    assert found["state"] == "AVAILABLE"
    assert found["output"].count("to standard output") == found["output"].count("to standard error") == 2


def test_env_reports_what_plugins_say_of_their_drivers_and_survives_them(rtp: Run) -> None:
    done = rtp("env", "--json", plugins="reporter,report_crasher,raiser")
    assert done.returncode == 0, done.stderr
    rows = rows_of(done)
    assert rows["rtp-reporter"]["report"] == {"driver": "7.1"}
    assert rows["rtp-report-crasher"]["state"] == "BROKEN"
    assert "its environment report failed: killed by SIGSEGV" in rows["rtp-report-crasher"]["reason"]
    assert "1998" in rows["rtp-raiser"]["reason"]


# -- opening -------------------------------------------------------------------------------------------------------

OPEN = """
import sys
from rtp_core.device.opening import open_device
from rtp_core.errors import RtpError
from rtp_core.plugin import DeviceConfig
try:
    device = open_device(sys.argv[1], DeviceConfig(memory_budget=1 << 20), info=lambda line: print("info:", line))
except RtpError as error:
    sys.exit(str(error))
print(device.info.id, sorted(name for name in sys.modules if name.startswith(("rtp_", "twin_")) and "." not in name))
"""


def test_naming_a_device_imports_its_plugin_and_no_other(python: Run) -> None:
    done = python("-c", OPEN, "twin@twin-fork", plugins="")
    assert done.stdout.strip() == "twin:0 ['rtp_core', 'twin_fork']", done.stderr


@pytest.mark.parametrize("kind", [k for k, (state, *_) in EXPECTED.items() if state != "AVAILABLE" and k != "auto"])
def test_naming_a_device_that_cannot_be_used_tells_state_reason_and_next_command(python: Run, kind: str) -> None:
    state, reason, hint = EXPECTED[kind]
    done = python("-c", OPEN, kind, plugins="")
    assert done.returncode == 1
    for part in (f"device {kind!r} is {state}", reason, hint):
        assert part in done.stderr


def test_auto_stops_at_a_crashing_accelerator_and_passes_an_absent_one(python: Run) -> None:
    crashed = python("-c", OPEN, "auto", plugins="probe_crasher,sound")
    assert crashed.returncode == 1
    for part in ("'probe_crasher' is installed but BROKEN", "SIGSEGV", "RTP_PLUGINS=-probe_crasher", "--allow-device-"):
        assert part in crashed.stderr
    passed = python("-c", OPEN, "auto", plugins="absent,sound")
    assert passed.stdout.startswith("info: absent: no card is plugged in\nsound:0 "), passed.stderr


# -- from everywhere -----------------------------------------------------------------------------------------------


def test_files_in_the_current_folder_do_not_pass_for_modules(rtp: Run, tmp_path: Path) -> None:
    for name in ("json", "rtp_core", "pluggy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    done = rtp("devices", "list", "--json", plugins="sound", cwd=tmp_path)
    assert rows_of(done)["rtp-sound"]["state"] == "AVAILABLE", done.stderr


def test_plugins_on_a_path_that_only_this_process_knows_are_found(python: Run, site: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from rtp_core.device.loader import load_plugins\n"
        "print([p.state.value for p in load_plugins('sound')])"
    )
    core = os.environ.get("PYTHONPATH", "")
    assert python("-c", code, plugins="", PYTHONPATH=core).stdout == "['AVAILABLE']\n"


SPAWN = """
import multiprocessing
from rtp_core.device.loader import load_plugins

def states(kinds):
    return [plugin.state.value for kind in kinds for plugin in load_plugins(kind)]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(states, (["sound", "probe_crasher"],)))
"""


def test_a_spawned_worker_probes_like_anybody(python: Run, tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(SPAWN)
    done = python(tmp_path / "work.py", plugins="")
    assert done.stdout == "['AVAILABLE', 'BROKEN']\n", done.stderr


def test_without_standard_streams_plugins_are_probed_all_the_same(environment: Mapping[str, str]) -> None:
    code = "import sys; from rtp_core.device.loader import load_plugins; sys.exit(load_plugins('noisy')[0].reason or 9)"
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], env=environment)
    assert done.returncode == 9
