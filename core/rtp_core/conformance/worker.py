"""The process in which a device is checked.

    python -m rtp_core.conformance.worker DESCRIPTOR

The order is one line of JSON on standard input, and every event one on the given file descriptor: standard output
belongs to whatever the device prints.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import astuple
from typing import Any

from rtp_core.conformance.case import Case, Outcome
from rtp_core.conformance.subject import Subject
from rtp_core.conformance.suite import run


def work(descriptor: int, order: dict[str, Any]) -> None:
    """Run what is ordered, telling each case before and after."""
    with os.fdopen(descriptor, "w", encoding="utf-8") as channel:

        def tell(event: str, *values: Any) -> None:
            channel.write(json.dumps([event, *values]) + "\n")
            channel.flush()

        def begin(case: Case) -> None:
            tell("begin", case.group, case.name)

        subject = Subject.named(order["device"], order["replay"])
        past = [Outcome(*values) for values in order["past"]]
        for outcome in run(subject, order["level"], begin=begin, past=past):
            tell("end", *astuple(outcome))
        tell("done", [] if subject.opening_error else sorted(subject.device.borrowed))
        subject.close()


if __name__ == "__main__":
    work(int(sys.argv[1]), json.loads(sys.stdin.readline()))
