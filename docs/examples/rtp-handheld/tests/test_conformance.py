"""The whole test suite: what rtp-core expects of a device, tried on the one that pyproject.toml names."""

from rtp_core.conformance.test_device import *  # noqa: F403
