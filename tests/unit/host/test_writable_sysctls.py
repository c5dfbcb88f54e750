"""Where sysctls of the network are written: in a pod, at the place that the chart mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.host.ledger import ProcSys
from mesh.kernel import writable_sysctl


def test_on_a_host_it_is_proc_sys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHGATE_PROC_SYS_NET", raising=False)
    assert writable_sysctl("net/ipv4/ip_forward") == Path("/proc/sys/net/ipv4/ip_forward")


def test_in_a_pod_it_is_the_mounted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sysctls of other parts than the network stay where they are."""
    monkeypatch.setenv("MESHGATE_PROC_SYS_NET", str(tmp_path))
    (tmp_path / "ipv4").mkdir()
    ProcSys().write("net/ipv4/ip_forward", "1")
    assert (tmp_path / "ipv4/ip_forward").read_text() == "1"
    assert writable_sysctl("kernel/panic") == Path("/proc/sys/kernel/panic")
