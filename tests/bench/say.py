"""Progress on the terminal."""

from __future__ import annotations

import sys
import time

_BEGIN = time.monotonic()


def say(text: str) -> None:
    """One line with the seconds since the start."""
    sys.stdout.write(f"[{time.monotonic() - _BEGIN:5.1f} s] {text}\n")
    sys.stdout.flush()


def seconds() -> float:
    """Since the start."""
    return time.monotonic() - _BEGIN
