"""What a manifest may say, and that it survives the way between two processes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rtp_core.device.manifest import PLUGIN_API, RESERVED_KINDS, incompatibility
from rtp_core.errors import ContractError
from rtp_core.plugin import DeclaredOverride, Manifest

FIELDS: dict[str, Any] = dict(kind="acme", vendor="test", api=PLUGIN_API, device_class="cpu", dtypes=("float32",))
FFN = DeclaredOverride("ffn_layer", "acme.ffn", 7, frozenset({"bias"}), True)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"kind": "Acme GPU"}, "bad device kind 'Acme GPU': expected lower case"),
        *(({"kind": kind}, f"the kind '{kind}' is reserved") for kind in sorted(RESERVED_KINDS)),
        ({"device_class": "gpu"}, "bad device class 'gpu': expected one of accelerator, cpu, reference"),
        ({"api": (1,)}, r"bad plugin API \(1,\): expected \(major, minor\)"),
        ({"api": "1.0"}, "bad plugin API '1.0'"),
        ({"api": (True, 0)}, "bad plugin API"),
        ({"dtypes": "float32"}, "bad dtypes 'float32' in a manifest: expected a tuple of names"),
        ({"schemes": (4,)}, "bad schemes"),
        ({"encoder_scheme": "q8_0"}, "bad encoder_scheme 'q8_0': expected one of its schemes, of which it has none"),
        ({"encoder_scheme": "q5", "schemes": ("q8_0",)}, "bad encoder_scheme 'q5': expected one of its schemes, q8_0"),
        ({"overrides": ("acme.ffn",)}, "expected a tuple of DeclaredOverride"),
        ({"overrides": [FFN]}, "expected a tuple of DeclaredOverride"),
        ({"overrides": (FFN, FFN)}, "declares acme.ffn twice"),
        ({"feature": ("bias",)}, "unknown manifest fields feature: expected some of kind, vendor, api"),
    ],
)
def test_nonsense_is_rejected(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        Manifest(**{**FIELDS, **fields})


def test_the_api_has_no_default() -> None:
    with pytest.raises(TypeError, match="api"):
        Manifest(**{name: value for name, value in FIELDS.items() if name != "api"})


def test_a_manifest_of_a_newer_api_can_be_made_whatever_it_says() -> None:
    manifest = Manifest(**{**FIELDS, "api": (9, 1), "device_class": "quantum", "qubits": 7, "overrides": ("?",)})
    assert (manifest.api, manifest.unknown) == ((9, 1), ("qubits",))


def test_it_survives_json() -> None:
    manifest = Manifest(**FIELDS, overrides=(FFN,), schemes=("q4_0",), features=("bias",), encoder_scheme="q4_0")
    assert Manifest.from_data(json.loads(json.dumps(manifest.as_data()))) == manifest


def test_a_manifest_of_the_major_before_names_its_implementations_alone() -> None:
    manifest = Manifest(**{**FIELDS, "api": (PLUGIN_API[0] - 1, 9), "overrides": ("acme.ffn",)})
    assert manifest.is_of_older_major
    assert [override.impl for override in manifest.overrides] == ["acme.ffn"]
    assert Manifest.from_data(json.loads(json.dumps(manifest.as_data()))) == manifest


@pytest.mark.parametrize(
    ("api", "served"),
    [((2, 3), True), ((2, 0), True), ((1, 99), True), ((2, 4), False), ((3, 0), False), ((0, 9), False)],
)
def test_core_serves_its_own_major_up_to_its_minor_and_all_of_the_major_before(
    api: tuple[int, int], served: bool
) -> None:
    assert (incompatibility(api, (2, 3)) == "") is served
