"""What becomes of installed plugins, and what opening one says. They are real distributions on the path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rtp_core.device.loader import Plugin, State, installed_kinds, load_plugins
from rtp_core.device.opening import open_device
from rtp_core.device.reference import ReferenceDevice
from rtp_core.errors import ConfigError, ContractError, DeviceError, DeviceUnavailableError
from rtp_core.plugin import DeviceConfig

Install = Callable[..., str]

SMALL = DeviceConfig(memory_budget=1 << 20)

HEAD = """
from dataclasses import replace
from rtp_core.plugin import PLUGIN_API, DeclaredOverride, Device, DeviceConfig, DeviceInfo, Manifest, No, hookimpl
from rtp_core.device.reference import ReferenceDevice

MANIFEST = Manifest(kind="{kind}", vendor="test", api=PLUGIN_API, device_class="{device_class}", dtypes=("float32",))
"""
HOOKS = {
    "manifest": """
@hookimpl
def rtp_device_manifest():
    return MANIFEST
""",
    "probe": """
@hookimpl
def rtp_device_probe():
    return [DeviceInfo("{kind}:0", "first", 1 << 30, 1 << 30), DeviceInfo("{kind}:1", "second", 1 << 30, 1 << 30)]
""",
    "create": """
class TestDevice(ReferenceDevice):
    manifest = MANIFEST

@hookimpl
def rtp_device_create(info, config):
    return TestDevice(info, config)
""",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path where plugins are installed. The kinds of other distributions on the path are left out."""
    monkeypatch.delenv("RTP_PLUGINS", raising=False)
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.setenv("RTP_PLUGINS", ",".join(f"-{kind}" for kind in installed_kinds()))
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Writes a plugin's module and dist-info; `head` and hooks (by short name) replace sound ones. Returns the dist."""

    def install(kind: str, dist: str = "", *, device_class: str = "cpu", head: str = HEAD, **hooks: str) -> str:
        dist = dist or f"rtp-{kind}"
        module = "plug_" + dist.replace("-", "_")
        source = head + "".join({**HOOKS, **hooks}.values())
        text = textwrap.dedent(source).replace("{kind}", kind).replace("{device_class}", device_class)
        (site / f"{module}.py").write_text(text, encoding="utf-8")
        info = site / f"{dist.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[rtp.devices]\n{kind} = {module}\n", encoding="utf-8")
        return dist

    return install


def the_plugin(kind: str) -> Plugin:
    (plugin,) = load_plugins(kind)
    return plugin


def imported(dist: str) -> bool:
    return "plug_" + dist.replace("-", "_") in sys.modules


# -- states --------------------------------------------------------------------------------------------------------


def test_a_plugin_with_devices_is_available(install: Install) -> None:
    install("acme")
    plugin = the_plugin("acme")
    assert (plugin.state, plugin.reason, plugin.hint) == (State.AVAILABLE, "", "")
    assert (plugin.dist, plugin.version, plugin.name) == ("rtp-acme", "1.2", "acme@rtp-acme")
    assert [device.id for device in plugin.devices] == ["acme:0", "acme:1"]


def test_absent_hardware_is_unavailable_with_the_probes_reason(install: Install) -> None:
    install("acme", probe='@hookimpl\ndef rtp_device_probe():\n    return No("no acme card is plugged in")\n')
    plugin = the_plugin("acme")
    assert (plugin.state, plugin.reason) == (State.UNAVAILABLE, "no acme card is plugged in")
    assert not plugin.state.is_unhealthy


def test_an_import_error_is_broken_and_keeps_the_original_traceback(install: Install) -> None:
    install("acme", head='raise ImportError("libacme.so.7: cannot open shared object file")\n')
    plugin = the_plugin("acme")
    assert plugin.state is State.BROKEN
    assert "libacme.so.7: cannot open shared object file" in plugin.reason
    assert "ImportError" in plugin.reason
    assert "plug_rtp_acme.py" in plugin.traceback
    assert plugin.state.is_unhealthy


BROKEN_HOOKS = {
    "a probe that raises": ("probe", 'def rtp_device_probe():\n    raise OSError("driver is from 1998")\n', "1998"),
    "a probe that finds nothing and gives no reason": ("probe", "def rtp_device_probe():\n    return []\n", "No"),
    "a probe that answers with names": ("probe", 'def rtp_device_probe():\n    return ["acme:0"]\n', "acme:0"),
    "no probe": ("probe", "def rtp_env_report():\n    return {}\n", "its probe answered None"),
    "no manifest": ("manifest", "def rtp_env_report():\n    return {}\n", "rtp_device_manifest answered None"),
    "a manifest of another kind": (
        "manifest",
        'def rtp_device_manifest():\n    return replace(MANIFEST, kind="bcme")\n',
        "its manifest says kind 'bcme'",
    ),
    "a manifest that is a dict": ("manifest", "def rtp_device_manifest():\n    return {'kind': 'acme'}\n", "Manifest"),
    "ids with a gap": (
        "probe",
        'def rtp_device_probe():\n    return [DeviceInfo("acme:1", "first", 1, 1)]\n',
        "expected the ids acme:0",
    ),
    "more free memory than there is": (
        "probe",
        'def rtp_device_probe():\n    return [DeviceInfo("acme:0", "first", 1, 2)]\n',
        "acme:0 has 2 of 1 bytes free",
    ),
    "a field that no manifest has": (
        "manifest",
        "def rtp_device_manifest():\n    return Manifest(**{f: getattr(MANIFEST, f) for f in "
        '("kind", "vendor", "api", "device_class", "dtypes")}, dtype="float32")\n',
        "unknown manifest fields dtype",
    ),
    "a misspelled hook": ("probe", "def rtp_device_prob():\n    return []\n", "rtp_device_prob"),
    "a hook with an unknown argument": ("probe", "def rtp_device_probe(card):\n    return []\n", "card"),
}


@pytest.mark.parametrize(("hook", "source", "part"), BROKEN_HOOKS.values(), ids=BROKEN_HOOKS)
def test_hooks_that_misbehave_are_broken(install: Install, hook: str, source: str, part: str) -> None:
    install("acme", **{hook: f"@hookimpl\n{source}"})
    plugin = the_plugin("acme")
    assert plugin.state is State.BROKEN
    assert part in plugin.reason
    assert plugin.hint


def test_a_broken_plugin_does_not_touch_its_neighbours(install: Install) -> None:
    install("aardvark", head="1 / 0\n")
    install("zebra")
    states = {plugin.kind: plugin.state for plugin in load_plugins() if plugin.state is not State.BLOCKED}
    assert states == {"aardvark": State.BROKEN, "zebra": State.AVAILABLE}


@pytest.mark.parametrize(("api", "age"), [((99, 0), "newer"), ((1, 99), "newer"), ((-1, 0), "older")])
def test_another_plugin_api_is_incompatible_and_never_probed(install: Install, api: tuple[int, int], age: str) -> None:
    manifest = f"@hookimpl\ndef rtp_device_manifest():\n    return replace(MANIFEST, api={api})\n"
    install("acme", manifest=manifest, probe="@hookimpl\ndef rtp_device_probe():\n    1 / 0\n")
    plugin = the_plugin("acme")
    assert (plugin.state, plugin.api) == (State.INCOMPATIBLE, api)
    assert f"plugin API {api[0]}.{api[1]}, {age}" in plugin.reason
    assert "pip install -U" in plugin.hint


def test_two_distributions_of_one_kind_are_in_conflict_and_neither_is_imported(install: Install) -> None:
    dists = [install("acme", "rtp-acme"), install("acme", "acme-fork")]
    plugins = load_plugins("acme")
    assert [(p.dist, p.state) for p in plugins] == [("acme-fork", State.CONFLICT), ("rtp-acme", State.CONFLICT)]
    assert plugins[0].reason == "rtp-acme also provides acme"
    assert not any(imported(dist) for dist in dists)
    with pytest.raises(DeviceUnavailableError, match=r"CONFLICT.*also provides acme.*acme@acme-fork"):
        open_device("acme", SMALL)


def test_naming_the_distribution_settles_a_conflict(install: Install) -> None:
    install("acme", "rtp-acme")
    install("acme", "acme-fork")
    device = open_device("acme@acme-fork:1", SMALL)
    assert device.info.id == "acme:1"
    assert type(device).__module__ == "plug_acme_fork"
    assert not imported("rtp-acme")


@pytest.mark.parametrize("dist", ["acme-fork", "Acme_Fork"])
def test_blocking_one_distribution_settles_a_conflict(
    install: Install, monkeypatch: pytest.MonkeyPatch, dist: str
) -> None:
    install("acme", "rtp-acme")
    install("acme", "acme-fork")
    monkeypatch.setenv("RTP_PLUGINS", f"-acme@{dist}")
    states = {plugin.dist: plugin.state for plugin in load_plugins("acme")}
    assert states == {"acme-fork": State.BLOCKED, "rtp-acme": State.AVAILABLE}
    assert type(open_device("acme", SMALL)).__module__ == "plug_rtp_acme"


def test_blocked_plugins_are_listed_and_not_imported(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme")
    monkeypatch.setenv("RTP_PLUGINS", "-acme")
    assert the_plugin("acme").state is State.BLOCKED
    assert "RTP_PLUGINS" in the_plugin("acme").reason
    assert not imported("rtp-acme")


def test_an_allow_list_blocks_all_others(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme")
    install("zebra")
    monkeypatch.setenv("RTP_PLUGINS", "zebra")
    states = {plugin.kind: plugin.state for plugin in load_plugins()}
    assert states.pop("zebra") is State.AVAILABLE
    assert set(states.values()) == {State.BLOCKED}
    assert not imported("rtp-acme")


def test_a_lone_minus_in_rtp_plugins_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTP_PLUGINS", "acme,-")
    with pytest.raises(ConfigError, match="RTP_PLUGINS"):
        load_plugins()


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_time_limit_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("RTP_PROBE_SECONDS", seconds)
    with pytest.raises(ConfigError, match="RTP_PROBE_SECONDS"):
        load_plugins()


@pytest.mark.parametrize("kind", ["auto", "all", "meta"])
def test_reserved_kinds_are_broken_and_not_imported(install: Install, kind: str) -> None:
    install(kind)
    plugin = the_plugin(kind)
    assert (plugin.state, plugin.reason) == (State.BROKEN, f"the kind '{kind}' is reserved")
    assert f"pip uninstall rtp-{kind}" in plugin.hint
    assert not imported(f"rtp-{kind}")


def test_a_listing_imports_no_plugin(install: Install) -> None:
    install("acme")
    assert the_plugin("acme").state is State.AVAILABLE
    assert not imported("rtp-acme")


def test_asking_for_one_kind_imports_no_other(install: Install) -> None:
    install("acme")
    install("zebra", head="1 / 0\n")
    assert the_plugin("acme").state is State.AVAILABLE
    assert not imported("rtp-zebra")


# -- opening -------------------------------------------------------------------------------------------------------


def test_opening_by_kind_takes_the_first_device_and_by_index_the_other(install: Install) -> None:
    install("acme")
    assert open_device("acme", SMALL).info.id == "acme:0"
    assert open_device("acme:1", SMALL).info.id == "acme:1"


@pytest.mark.parametrize("name", ["acme:2", "acme:x", "acme:-1"])
def test_an_index_that_is_not_there_is_an_error(install: Install, name: str) -> None:
    install("acme")
    with pytest.raises(DeviceUnavailableError, match="no device"):
        open_device(name, SMALL)


def test_an_unknown_kind_names_the_installed_ones(install: Install) -> None:
    install("acme")
    with pytest.raises(DeviceUnavailableError, match="installed kinds are acme") as caught:
        open_device("zebra", SMALL)
    assert caught.value.hint == "rtp devices list"  # not a package that somebody else may have published


def test_a_kind_that_core_has_heard_of_names_its_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtp_core.device.opening.package_of", {"zebra": "rtp-zebra"}.get)
    with pytest.raises(DeviceUnavailableError) as caught:
        open_device("zebra", SMALL)
    assert caught.value.hint == "pip install rtp-zebra"


def test_opening_a_broken_device_tells_state_reason_and_next_command_and_chains_the_cause(install: Install) -> None:
    install("acme", head='raise ImportError("libacme.so.7 is missing")\n')
    with pytest.raises(DeviceUnavailableError) as caught:
        open_device("acme", SMALL)
    error = caught.value
    assert "device 'acme' is BROKEN in rtp-acme" in str(error)
    assert "libacme.so.7 is missing" in error.why
    assert "rtp devices show acme" in error.hint
    assert str(error.__cause__).rstrip().endswith("ImportError: libacme.so.7 is missing")


def test_opening_absent_hardware_tells_the_probes_reason(install: Install) -> None:
    install("acme", probe='@hookimpl\ndef rtp_device_probe():\n    return No("no acme card")\n')
    with pytest.raises(DeviceUnavailableError, match=r"UNAVAILABLE.*no acme card.*rtp devices show"):
        open_device("acme", SMALL)


def test_a_failure_to_create_is_told_with_its_cause(install: Install) -> None:
    install(
        "acme", create='@hookimpl\ndef rtp_device_create(info, config):\n    raise OSError("card fell off the bus")\n'
    )
    with pytest.raises(DeviceError, match="cannot open acme:0 in rtp-acme: OSError: card fell off the bus") as caught:
        open_device("acme", SMALL)
    assert isinstance(caught.value.__cause__, OSError)


def test_creating_anything_but_a_device_breaks_the_contract(install: Install) -> None:
    install("acme", create="@hookimpl\ndef rtp_device_create(info, config):\n    return 'a device'\n")
    with pytest.raises(ContractError, match="expected a Device"):
        open_device("acme", SMALL)


def test_a_class_with_another_manifest_than_its_plugin_breaks_the_contract(install: Install) -> None:
    install("acme", create=HOOKS["create"].replace("= MANIFEST", '= replace(MANIFEST, vendor="else")'))
    with pytest.raises(ContractError, match="vendor: the plugin says 'test', the class 'else'"):
        open_device("acme", SMALL)


def test_a_device_that_was_not_asked_for_breaks_the_contract(install: Install) -> None:
    create = HOOKS["create"].replace("(info, config)\n", '(replace(info, id="acme:9"), config)\n')
    install("acme", create=create)
    with pytest.raises(ContractError, match=r"opened .*acme:9.*expected .*acme:0"):
        open_device("acme", SMALL)


def test_a_manifest_that_lies_about_its_overrides_breaks_the_contract(install: Install) -> None:
    install(
        "acme",
        manifest='MANIFEST = replace(MANIFEST, overrides=(DeclaredOverride("ffn_layer", "acme.ffn"),))\n'
        + HOOKS["manifest"],
    )
    with pytest.raises(ContractError, match=r"does not match its device.*only declared: .*acme\.ffn"):
        open_device("acme", SMALL)


# -- auto ----------------------------------------------------------------------------------------------------------


def test_auto_takes_accelerators_before_cpus_before_nothing(install: Install) -> None:
    install("aaa", device_class="cpu")
    install("zzz", device_class="accelerator")
    assert open_device("auto", SMALL).info.id == "zzz:0"


def test_auto_never_chooses_a_reference(install: Install) -> None:
    install("acme", device_class="reference")
    with pytest.raises(DeviceUnavailableError, match="no usable device"):
        open_device("auto", SMALL)


def test_auto_passes_absent_hardware_with_one_line(install: Install) -> None:
    install("acme", device_class="accelerator", probe='@hookimpl\ndef rtp_device_probe():\n    return No("no card")\n')
    install("zebra")
    lines: list[str] = []
    assert open_device("auto", SMALL, info=lines.append).info.id == "zebra:0"
    assert lines == ["acme: no card"]


def test_auto_stops_at_a_broken_plugin_though_another_would_do(install: Install) -> None:
    install("acme", device_class="accelerator", probe='@hookimpl\ndef rtp_device_probe():\n    raise OSError("bad")\n')
    install("zebra")
    with pytest.raises(DeviceUnavailableError, match="'acme' is installed but BROKEN") as caught:
        open_device("auto", SMALL)
    assert "OSError: bad" in caught.value.why
    for way_out in ("fix it", "RTP_PLUGINS=-acme", "--allow-device-fallback"):
        assert way_out in caught.value.hint
    assert "OSError: bad" in str(caught.value.__cause__)


def test_auto_is_not_stopped_by_what_it_would_not_have_chosen(install: Install) -> None:
    install("zebra", device_class="accelerator")
    fallen = '@hookimpl\ndef rtp_device_probe():\n    raise OSError("bad")\n'
    install("acme", device_class="cpu", probe=fallen)
    install("bcme", device_class="reference", probe=fallen)
    lines: list[str] = []
    assert open_device("auto", SMALL, info=lines.append).info.id == "zebra:0"
    assert [line.partition(": its")[0] for line in lines] == ["acme: BROKEN", "bcme: BROKEN"]


def test_auto_may_be_allowed_to_fall_back_and_says_from_what(install: Install) -> None:
    install("acme", device_class="accelerator", head="1 / 0\n")
    install("zebra")
    lines: list[str] = []
    assert open_device("auto", SMALL, allow_fallback=True, info=lines.append).info.id == "zebra:0"
    (line,) = lines
    assert "acme: BROKEN" in line
    assert "division by zero" in line


def test_auto_never_passes_over_a_blocked_plugin_with_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme", device_class="accelerator", head="1 / 0\n")
    install("zebra")
    monkeypatch.setenv("RTP_PLUGINS", "zebra")
    assert open_device("auto", SMALL).info.id == "zebra:0"


def test_the_reference_answers_to_its_own_name_where_core_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from rtp_core.device import reference_plugin

    assert reference_plugin.rtp_device_manifest() is ReferenceDevice.manifest
    (info,) = reference_plugin.rtp_device_probe()
    assert 0 < info.memory_free_bytes <= info.memory_total_bytes
    assert isinstance(reference_plugin.rtp_device_create(info, SMALL), ReferenceDevice)
