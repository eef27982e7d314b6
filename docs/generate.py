"""Writes the reference pages from the registry of ops and the manifests of devices.

    python docs/generate.py            write docs/op-reference.md and docs/devices.md
    python docs/generate.py --check    end with 1 where one of them is stale

Needs rtp-core, our plugins and the test devices installed; no hardware and no torch: only manifests are read.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from rtp_core.device.call_graph import call_graph
from rtp_core.device.op import OpSpec
from rtp_core.device.reference_manifest import MANIFEST as REF
from rtp_core.plugin import ACTIVATIONS, OPS, PLUGIN_API, Device, Manifest
from rtp_cpu.manifest import MANIFEST as CPU
from rtp_cuda.manifest import MANIFEST as CUDA
from rtp_rocm.manifest import MANIFEST as ROCM
from rtp_test_devices.handle_plugin import MANIFEST as HANDLE

FOLDER = Path(__file__).parent
DEVICES: tuple[Manifest, ...] = (REF, CPU, CUDA, ROCM, HANDLE)
LEVELS = {
    0: "Primitives: every device implements them. The list is frozen within an API major",
    1: "Fused element-wise work, made of primitives",
    2: "Linear layers, attention over blocked KV, experts",
    3: "Halves of a layer. They return partial sums: no collective inside",
    4: "Whole layers, with the collective where there is one",
    5: "The model, and sampling",
}
NOTICE = "<!-- Written by docs/generate.py from the op registry. Do not edit. -->"


def op_reference() -> str:
    """Every op: signature, meaning, features, default, since."""
    lines = [
        "# Op reference",
        NOTICE,
        "",
        f"The ladder of plugin API {_version(PLUGIN_API)}. What each primitive computes is NumPy in "
        "`rtp_core/device/reference_ops.py`;",
        "`writing-a-backend.md` says how to implement and override them, and `devices.md` who does.",
        "",
        "Letters: T tokens, R requests, H query heads, K kv heads, D head_dim, E hidden_size, F intermediate size, "
        "V vocabulary,",
        "N blocks, B block size, P positions, S context length. Floats compute in float32 and are stored in the dtype "
        "of `out`;",
        "an op returns `out`, allocated under the op's name where the caller gives none. "
        f"Activations: {', '.join(f'`{kind}`' for kind in ACTIVATIONS)}.",
        "",
        "A **feature** is something that a model or a request puts on an op. An override serves it only if it lists it",
        "in `handles`; a feature with a parameter is passed to such an override alone.",
        "",
        "| Level | Ops |",
        "|---|---|",
        *(f"| {level} | {' '.join(_link(spec.name) for spec in _of(level))} |" for level in LEVELS),
    ]
    calls = call_graph()
    for level, title in LEVELS.items():
        lines += ["", f"## Level {level}", "", f"{title}."]
        for spec in _of(level):
            lines += ["", *_op(spec, calls.get(spec.name, frozenset()))]
    return "\n".join(lines) + "\n"


def devices() -> str:
    """Devices against ops."""
    lines = [
        "# Devices against ops",
        NOTICE,
        "",
        "What the manifests say, hardware or not. `rtp devices explain` tells what one model really gets, and why.",
        "",
        "■ primitive, the device's own · ● override · ◐ override on a condition · ○ the default, made of lower ops",
        "",
        f"| Level | Op | {' | '.join(f'`{m.kind}`' for m in DEVICES)} |",
        f"|---|---|{'---|' * len(DEVICES)}",
    ]
    for spec in sorted(OPS.values(), key=lambda spec: spec.level):
        marks = " | ".join(_mark(spec, manifest) for manifest in DEVICES)
        lines.append(f"| {spec.level} | [`{spec.name}`](op-reference.md#{spec.name}) | {marks} |")
    lines += [
        "",
        f"| | {' | '.join(f'`{m.kind}`' for m in DEVICES)} |",
        f"|---|{'---|' * len(DEVICES)}",
        *(
            f"| {title} | {' | '.join(str(fact) for fact in facts)} |"
            for title, facts in {
                "class": [m.device_class for m in DEVICES],
                "plugin API": [_version(m.api) for m in DEVICES],
                "dtypes": [", ".join(m.dtypes) for m in DEVICES],
                "quantization schemes": [", ".join(m.schemes) or "none" for m in DEVICES],
                "float encoders under `auto`": [m.encoder_scheme or "as stored" for m in DEVICES],
                "features": [", ".join(m.features) or "none" for m in DEVICES],
                "KV layouts": [", ".join(m.kv_layouts) for m in DEVICES],
            }.items()
        ),
    ]
    return "\n".join(lines) + "\n"


PAGES = {"op-reference.md": op_reference, "devices.md": devices}


def _of(level: int) -> list[OpSpec]:
    return [spec for spec in OPS.values() if spec.level == level]


def _op(spec: OpSpec, calls: frozenset[str]) -> Iterator[str]:
    yield f"### {spec.name}"
    yield from ("", "```python", _signature(spec), "```", "")
    yield inspect.getdoc(getattr(Device, spec.name)) or ""
    yield ""
    if spec.is_primitive:
        yield "- Default: none, a primitive"
    else:
        made_of = " ".join(_link(op) for op in OPS if op in calls) or "NumPy on the host"
        yield f"- Default: {'the assembly of the model, over any of ' if len(calls) > 20 else ''}{made_of}"
        parameters = {feature: name for name, feature in spec.options.items()}
        tags = [f"`{f}`" + (f" (`{parameters[f]}=`)" if f in parameters else "") for f in sorted(spec.features)]
        yield f"- Features: {', '.join(tags) or 'none'}"
    yield f"- Since: {_version(spec.since)}"


def _signature(spec: OpSpec) -> str:
    """On one line where it fits, else a parameter a line."""
    parameters = list(spec.signature.parameters.values())[1:]
    words: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(str(parameter).replace("'", ""))
    result = str(spec.signature.return_annotation)
    line = f"{spec.name}({', '.join(words)}) -> {result}"
    if len(line) <= 110:
        return line
    return "\n".join([f"{spec.name}(", *(f"    {word}," for word in words), f") -> {result}"])


def _mark(spec: OpSpec, manifest: Manifest) -> str:
    if spec.is_primitive:
        return "■"
    mine = [override for override in manifest.overrides if override.op == spec.name]
    if not mine:
        return "○"
    return "◐" if all(override.is_conditional for override in mine) else "●"


def _link(op: str) -> str:
    return f"[`{op}`](#{op})"


def _version(api: tuple[int, int]) -> str:
    return f"{api[0]}.{api[1]}"


def stale() -> list[str]:
    """The pages that are not what the registry says."""
    return [
        name
        for name, page in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != page()
    ]


def main() -> None:
    if "--check" in sys.argv[1:]:
        names = stale()
        sys.exit(f"stale: {', '.join(names)}; run python docs/generate.py" if names else 0)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
