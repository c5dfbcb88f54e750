"""What all levels share: a run that is told to end takes away what it has made."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """SIGTERM, as of ``timeout``, ends a run like Ctrl-C: pytest then tears its fixtures down."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
