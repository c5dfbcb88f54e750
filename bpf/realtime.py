"""Whether the kernel is one on which programs of one CPU may interrupt each other.

A packet and its way lie in per-CPU memory (``bpf/include/leave.h``) while a program runs. With
PREEMPT_RT softirqs are threads, and a program may be stopped in its middle by another one of the
same CPU. Until the slot is guarded there, the datapath is not loaded.
"""

import os
from pathlib import Path

FLAG = Path("/sys/kernel/realtime")
_WORD = "PREEMPT_RT"


class RealtimeKernelError(Exception):
    """The kernel is built with PREEMPT_RT; the text says what to do."""


def is_realtime(version: str, flag: str) -> bool:
    """``version`` is uname's, ``flag`` the content of ``FLAG``, empty where there is none."""
    return _WORD in version.replace("-", " ").split() or flag.strip() == "1"


def refuse_realtime(flag: Path = FLAG) -> None:
    """Raise ``RealtimeKernelError`` on a PREEMPT_RT kernel."""
    about = os.uname()
    if is_realtime(about.version, flag.read_text() if flag.exists() else ""):
        raise RealtimeKernelError(
            f"kernel {about.release} is a {_WORD} kernel, on which the datapath is not safe:"
            " start a kernel without it"
        )
