"""The sources of plugins that go right and wrong in every way that a state stands for."""

from __future__ import annotations

HEAD = """
import ctypes, os, subprocess, sys
from rtp_core.plugin import DeviceInfo, Manifest, No, hookimpl

FIELDS = dict(kind="{kind}", vendor="test", api=(1, 0), device_class="accelerator", dtypes=("float32",))
"""
MANIFEST = """
@hookimpl
def rtp_device_manifest():
    return Manifest(**FIELDS)
"""
PROBE = """
@hookimpl
def rtp_device_probe():
    return [DeviceInfo("{kind}:0", "first", 1 << 30, 1 << 30)]
"""
CREATE = """
@hookimpl
def rtp_device_create(info, config):
    from rtp_core.device.reference import ReferenceDevice

    class TestDevice(ReferenceDevice):
        manifest = rtp_device_manifest()

    return TestDevice(info, config)
"""
CRASH = "ctypes.string_at(0)"


def probing(*lines: str) -> str:
    return "\n@hookimpl\ndef rtp_device_probe():\n" + "".join(f"    {line}\n" for line in lines)


def manifest(**fields: object) -> str:
    return f"\nFIELDS.update({fields!r})\n" + MANIFEST


def plugin(kind: str, *, head: str = HEAD, manifest: str = MANIFEST, probe: str = PROBE, create: str = CREATE) -> str:
    """A sound plugin, but for the parts that are given."""
    return (head + manifest + probe + create).replace("{kind}", kind)


NOISE = 'print("{}"); os.write(1, b"to standard output"); print("to standard error", file=sys.stderr)'

# Was written for API 0: its manifest named implementations, without their ops.
OLDER = """
from rtp_core.device.reference import ReferenceDevice
from rtp_core.plugin import DeviceInfo, Manifest, hookimpl, overrides

MANIFEST = Manifest(
    kind="older", vendor="test", api=(0, 9), device_class="accelerator", dtypes=("float32",),
    overrides=("older.gated",),
)


class OlderDevice(ReferenceDevice):
    manifest = MANIFEST

    @overrides("gated_activation", impl="older.gated")
    def _gated(self, x, *, kind, out=None):
        half = x.shape[1] // 2
        return self.mul(self.activation(x[:, :half], kind=kind), x[:, half:], out=out)


@hookimpl
def rtp_device_manifest():
    return MANIFEST


@hookimpl
def rtp_device_probe():
    return [DeviceInfo("older:0", "first", 1 << 30, 1 << 30)]


@hookimpl
def rtp_device_create(info, config):
    return OlderDevice(info, config)
"""

# kind -> source; the distribution is rtp-KIND.
PLUGINS: dict[str, str] = {
    "sound": plugin("sound"),
    "noisy": plugin("noisy", head=HEAD + NOISE, probe=probing(NOISE, 'return [DeviceInfo("noisy:0", "first", 1, 1)]')),
    "absent": plugin("absent", probe=probing('return No("no card is plugged in")')),
    "unimportable": plugin("unimportable", head='raise ImportError("libacme.so.7: cannot open")\n'),
    "leaver": plugin("leaver", head="raise SystemExit(3)\n"),
    "quitter": plugin("quitter", probe=probing("os._exit(7)")),
    "raiser": plugin("raiser", probe=probing('raise OSError("driver is from 1998")')),
    "import_crasher": plugin("import_crasher", head=HEAD + CRASH + "\n"),
    "probe_crasher": plugin("probe_crasher", probe=probing(CRASH)),
    "aborter": plugin("aborter", probe=probing("os.abort()")),
    "closer": plugin("closer", probe=probing("os.closerange(3, 1024)", "return []")),
    "newer_major": plugin(
        "newer_major", manifest=manifest(api=(2, 0), device_class="quantum", qubits=7), probe=probing(CRASH)
    ),
    "newer_minor": plugin("newer_minor", manifest=manifest(api=(1, 99)), probe=probing(CRASH)),
    "newer_name": plugin("newer_name", head="from rtp_core.plugin import Hologram\n"),
    "too_old": plugin("too_old", manifest=manifest(api=(-1, 0)), probe=probing(CRASH)),
    "demanding": plugin("demanding", head=HEAD + CRASH + "\n"),
    "auto": plugin("auto", head=HEAD + CRASH + "\n"),
    "twin": plugin("twin"),
    "older": OLDER,
    "hanger": plugin(
        "hanger",
        probe=probing(
            'if "TOLD_TO" in os.environ:',
            '    with open(os.environ["TOLD_TO"], "w") as told: told.write(str(os.getpid()))',
            "wait_for_ever()",
        )
        + "\ndef wait_for_ever():\n    ctypes.PyDLL(None).sleep(3600)  # and never lets go of the interpreter\n",
    ),
    "parent": plugin(
        "parent",
        probe=probing(
            'child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])',
            'return [DeviceInfo("parent:0", str(child.pid), 1, 1)]',
        ),
    ),
    "reporter": plugin(
        "reporter", create=CREATE + '\n@hookimpl\ndef rtp_env_report():\n    return {"driver": "7.1"}\n'
    ),
    "report_crasher": plugin("report_crasher", create=f"\n@hookimpl\ndef rtp_env_report():\n    {CRASH}\n"),
}
REQUIRES = {"demanding": ("numpy", "rtp_core (>=99)")}
FORK = plugin("twin", probe=probing('return [DeviceInfo("twin:0", "of the fork", 1 << 30, 1 << 30)]'))
