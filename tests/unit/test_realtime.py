"""The datapath is not loaded on a PREEMPT_RT kernel."""

from pathlib import Path

import pytest

from bpf.realtime import RealtimeKernelError, is_realtime, refuse_realtime


@pytest.mark.parametrize(
    ("version", "flag", "realtime"),
    [
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1 (2025-01-10)", "", False),
        ("#1 SMP PREEMPT_RT Debian 6.12.9-1 (2025-01-10)", "", True),
        ("#1 SMP PREEMPT RT 6.1", "1\n", True),
        ("#1 SMP", "0\n", False),
    ],
)
def test_the_kernels_own_report(version: str, flag: str, *, realtime: bool) -> None:
    assert is_realtime(version, flag) is realtime


def test_the_refusal_names_the_kernel_and_the_reason(tmp_path: Path) -> None:
    flag = tmp_path / "realtime"
    refuse_realtime(flag)
    flag.write_text("1\n")
    with pytest.raises(RealtimeKernelError, match="is a PREEMPT_RT kernel"):
        refuse_realtime(flag)
