"""Every error that rtp raises on purpose.

RtpError                         what, where, why, and the next command
  ConfigError (ValueError)       a bad option, sampling value or engine setting
  ModelError                     the model or one of its files cannot be used
    CheckpointError              a file is missing, truncated, or lies about itself
    UnsupportedModelError        a well-formed model that rtp cannot run
  RequestError (ValueError)      one request cannot be served; the engine lives on
  DeviceError                    a device cannot be used
    DeviceUnavailableError       the plugin's state is not AVAILABLE
    ContractError (TypeError)    a plugin breaks the device contract
    DeviceFailedError            an opened device is lost until the process ends
  PlanError                      the plan is not the one that was locked or required
  OutOfMemoryError (MemoryError) an arena is exhausted; carries its table
    LibraryMemoryError           what a device's library takes beside the arena is exhausted; carries the arena's table
  SnapshotError                  a saved memory snapshot cannot be read
  CacheError (OSError)           the cache folder, or a file that was asked for, cannot be written
  NetworkError                   a download failed
  MemorySpaceError (TypeError)   host access to memory the host cannot address
  DoubleFreeError (RuntimeError) memory was given back twice
"""

from __future__ import annotations

from collections.abc import Mapping


class RtpError(Exception):
    """What went wrong, where, why, and one next command.

    `str()` joins the parts in that order; front ends may lay them out on lines.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        self.what, self.where, self.why, self.hint = what, where, why, hint
        text = what
        if where:
            text += f" in {where}"
        if why:
            text += f": {why}"
        if hint:
            text += f" ({hint})"
        super().__init__(text)


class ConfigError(RtpError, ValueError):
    """A bad option, sampling value or engine setting."""


class ModelError(RtpError):
    """The model, or one of its files, cannot be used."""


class CheckpointError(ModelError):
    """A file is missing, truncated, or says something impossible about itself."""


class UnsupportedModelError(ModelError):
    """A well-formed model with an architecture or a setting that rtp cannot run."""


class RequestError(RtpError, ValueError):
    """One request cannot be served; other requests are not touched."""


class DeviceError(RtpError):
    """A device cannot be used."""


class DeviceUnavailableError(DeviceError):
    """The chosen plugin is not AVAILABLE; `__cause__` has the traceback of what it raised, as text."""


class ContractError(DeviceError, TypeError):
    """A plugin breaks the device contract; the message says what was expected and got."""


class DeviceFailedError(DeviceError):
    """An opened device is lost: in this process nothing that uses it works again."""

    def again(self) -> DeviceFailedError:
        """The same, without the way it came: that holds frames, and with them buffers."""
        return DeviceFailedError(self.what, where=self.where, why=self.why, hint=self.hint)


class PlanError(RtpError):
    """A check of the plan failed: it is not the locked one, or lacks an override that was required."""


class OutOfMemoryError(RtpError, MemoryError):
    """An arena cannot serve an allocation; `table` lists what holds the memory, `arena` is the one that has it.

    `beside`: bytes that the device's libraries hold beside it, by what holds them, as far as they were asked.
    """

    def __init__(
        self,
        what: str,
        *,
        table: str = "",
        arena: object = None,
        beside: Mapping[str, int] | None = None,
        where: str = "",
        why: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.table, self.arena = table, arena
        self.beside: Mapping[str, int] = beside or {}


class LibraryMemoryError(OutOfMemoryError):
    """A library that a device calls found no memory beside the arena; `table` and `arena` are those of the arena."""


class SnapshotError(RtpError):
    """A saved memory snapshot is not there, or lies about itself."""


class CacheError(RtpError, OSError):
    """The cache folder, or a file that was asked for, cannot be written."""


class NetworkError(RtpError):
    """A download failed."""


class MemorySpaceError(RtpError, TypeError):
    """The host touched memory that it cannot address."""


class DoubleFreeError(RtpError, RuntimeError):
    """Memory was given back twice, or was never taken."""
