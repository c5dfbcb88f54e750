"""A kube-proxy is found by its rules in the kernel, and by its port."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from contextlib import closing
from pathlib import Path

from bpf.netns import enter
from mesh.services.proxy import HEALTH_PORT, look


def nft(namespace: Path, rules: str) -> None:
    command = ["nsenter", f"--net={namespace}", "nft", "-f", "-"]
    subprocess.run(command, input=rules, text=True, check=True)


def found(namespace: Path) -> str:
    with enter(namespace):
        return asyncio.run(look())


def test_a_host_without_one_has_none(namespace: Path) -> None:
    """A kubelet's chains say nothing, nor do those of a firewall."""
    assert found(namespace) == ""
    nft(namespace, "add table ip mangle\nadd chain ip mangle KUBE-KUBELET-CANARY")
    nft(namespace, "table inet filter { chain in { type filter hook input priority 0; }\n}")
    assert found(namespace) == ""


def test_its_rules_are_seen(namespace: Path) -> None:
    nft(namespace, "add table ip6 kube-proxy\nadd chain ip6 kube-proxy services")
    assert found(namespace) == "table ip6 kube-proxy"
    nft(namespace, "delete table ip6 kube-proxy")
    nft(namespace, "add table ip nat\nadd chain ip nat KUBE-SERVICES")
    assert found(namespace) == "chain KUBE-SERVICES of table ip nat"
    nft(namespace, "delete table ip nat")
    assert found(namespace) == ""


def test_before_it_has_rules_its_port_is_seen(namespace: Path) -> None:
    with enter(namespace):
        server = socket.socket()
    with closing(server):
        server.bind(("127.0.0.1", HEALTH_PORT))
        server.listen()
        assert found(namespace) == f"port {HEALTH_PORT}"
    assert found(namespace) == ""
