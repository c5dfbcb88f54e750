"""Each violation of the import checks: one finding that names the key, and no map changes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running import Lab, wait

NODE, ADDRESS, IDENTITY, SERVICE = (
    f"cilium/cache/{kind}/v1/west/" for kind in ("nodes", "ip", "identities", "services")
)
CONFIG = "cilium/cluster-config/west"
#: Seconds after which keys that have had no effect are written again.
AGAIN_S = 8.0
LABELS = "k8s:app=evil;k8s:io.cilium.k8s.policy.cluster=west;"
PREFIXES = {
    "IPv4AllocCIDR": {"IP": "10.2.7.0", "Mask": "////AA=="},
    "IPv6AllocCIDR": None,
    "Annotations": {},
}
PUBLIC_4 = {"IP": "192.0.2.0", "Mask": "////AA=="}
PUBLIC_6 = {"IP": "2001:db8:2::", "Mask": "//////////8AAAAAAAAAAA=="}
EVIL = {"Name": "evil", "IPAddresses": [{"Type": "InternalIP", "IP": "10.99.0.77"}], **PREFIXES}


def maps(lab: Lab) -> dict[str, str]:
    """Every map that holds addresses, dumped, by pin."""
    found = {}
    for host in lab.shown["hosts"].values():
        for pin in sorted(Path(host["bpffs"] or "/nowhere").glob("*addr*")):
            command = ["bpftool", "-j", "map", "dump", "pinned", str(pin)]
            dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[str(pin)] = "\n".join(sorted(json.dumps(entry) for entry in json.loads(dump)))
    assert len(found) == 36
    return found


def violations(there: dict[str, tuple[str, int]]) -> dict[str, tuple[str, str]]:
    """Code and value by key; each is another key, so that all can be there at once."""

    def changed(key: str, **fields: Any) -> str:
        return json.dumps(json.loads(there[key][0]) | fields)

    def node(name: str, **fields: Any) -> tuple[str, str]:
        return NODE + name, changed(f"{NODE}west-1", **EVIL | {"Name": name} | fields)

    def address(text: str, **fields: Any) -> tuple[str, str]:
        return ADDRESS + text, changed(f"{ADDRESS}10.2.0.3", **{"IP": text} | fields)

    def service(name: str, **fields: Any) -> tuple[str, str]:
        return f"{SERVICE}shop/{name}", changed(f"{SERVICE}shop/web", **{"name": name} | fields)

    def at(*addresses: str) -> list[dict[str, str]]:
        return [{"Type": "InternalIP", "IP": text} for text in addresses]

    def frontend(text: str) -> dict[str, Any]:
        return {text: {"http": {"Protocol": "TCP", "Port": 80}}}

    def bank() -> tuple[str, str]:
        return f"{SERVICE}bank/web", changed(f"{SERVICE}shop/web", namespace="bank")

    own_node = at("10.99.0.11")
    cidr = {"IP": "10.2.0.0", "Mask": "////AA=="}
    backends = {"10.1.0.3": {"http": {"Protocol": "TCP", "Port": 8080}}}
    rows = [
        ("M123", node("id", ClusterID=1)),
        ("M122", node("name", Cluster="east")),
        ("M128", node("own-address", IPAddresses=own_node)),
        ("M129", node("overlap", IPv4AllocCIDR=cidr)),
        ("M132", node("large", BootID="x" * 100_000)),
        ("M133", (f"{NODE}unreadable", "{")),
        ("M133", (f"{NODE}west-1", "unreadable")),
        ("M127", address("10.3.0.9")),
        ("M127", address("10.1.0.2")),
        ("M128", address("10.99.0.12")),
        ("M126", address("10.2.0.91", ID=2)),
        ("M125", address("10.2.0.92", ID=65537)),
        ("M135", address("10.2.0.93", HostIP="10.99.0.11")),
        ("M125", address("10.2.0.3", ID=65538)),
        ("M126", (f"{IDENTITY}id/2", LABELS)),
        ("M125", (f"{IDENTITY}id/65599", LABELS)),
        ("M136", (f"{IDENTITY}id/131099", LABELS.replace("west", "east"))),
        ("M131", service("evil", backends=backends)),
        ("M131", service("web", backends=backends)),
        ("M123", (CONFIG, '{"id":1}')),
        # what the contract does not give: 192.0.2.0/24 is a destination of our egress policy
        ("M177", node("public-4", IPv4AllocCIDR=PUBLIC_4)),
        ("M177", node("public-6", IPv4AllocCIDR=None, IPv6AllocCIDR=PUBLIC_6)),
        ("M177", node("endpoint-4", IPAddresses=at("203.0.113.7"))),
        ("M177", node("endpoint-6", IPAddresses=at("10.99.0.77", "2001:db8:7::7"))),
        ("M177", service("frontend-4", frontends=frontend("10.97.1.99"))),
        ("M177", service("frontend-6", frontends=frontend("fd97:1::99"))),
        ("M177", bank()),
        ("M177", (f"{IDENTITY}id/131098", LABELS + "k8s:io.kubernetes.pod.namespace=bank;")),
    ]
    return {key: (code, value) for code, (key, value) in rows}


#: Runs etcdctl for each [arguments, value] of its input.
WRITER = """
import json, subprocess, sys
for arguments, value in json.load(sys.stdin):
    subprocess.run(sys.argv[1:] + arguments, input=value, text=True, check=True)
"""


def store(lab: Lab) -> dict[str, tuple[str, int]]:
    """Value and lease by key, of what the clusters publish as text: slices are packed."""
    kvs = json.loads(lab.etcdctl("root", "get", "-w", "json", "--prefix", "cilium/").stdout)["kvs"]
    return {
        b64decode(kv["key"]).decode(): (b64decode(kv["value"]).decode(), kv.get("lease", 0))
        for kv in kvs
        if b"/endpointslices/" not in b64decode(kv["key"])
    }


def write(lab: Lab, values: dict[str, str | None], before: dict[str, tuple[str, int]]) -> None:
    """Put or delete keys; those that stood there stay on their lease."""
    lines = [
        (["del", key], None)
        if value is None
        else (["put", f"--lease={before.get(key, ('', 0))[1]:x}", key], value)
        for key, value in values.items()
    ]
    command = (sys.executable, "-c", WRITER, *lab.etcdctl_command("root"))
    answer = lab.run("lab", "exec", "etcd", *command, text=json.dumps(lines))
    assert answer.returncode == 0, answer.stderr


def write_until(
    lab: Lab,
    values: dict[str, str | None],
    before: dict[str, tuple[str, int]],
    holds: Callable[[], bool],
    what: str,
) -> None:
    """Put or delete keys until a fact holds.

    West's leader compares all keys of its own once a minute and puts right what others have
    written, so they are written again.
    """
    again = 0.0

    def held() -> bool:
        nonlocal again
        if time.monotonic() > again:
            write(lab, values, before)
            again = time.monotonic() + AGAIN_S
        return holds()

    wait(held, 3 * AGAIN_S, what)


def findings(lab: Lab) -> dict[str, set[str]]:
    """Codes by object."""
    found: dict[str, set[str]] = {}
    for row in lab.json("status")["findings"]:
        found.setdefault(row["object"], set()).add(row["code"])
    return found


def test_what_a_peer_may_not_claim_is_a_finding_and_changes_no_map(lab: Lab) -> None:
    """All at once; keys that stood there keep their rows. All findings vanish with the keys."""
    lab.settle()
    there, before = store(lab), maps(lab)
    bad = violations(there)
    wanted = {key: {code} for key, (code, _) in bad.items()}
    try:
        values: dict[str, str | None] = {key: value for key, (_, value) in bad.items()}
        write_until(lab, values, there, lambda: findings(lab) == wanted, "one finding each")
        assert maps(lab) == before
    finally:
        write(lab, {key: there.get(key, (None,))[0] for key in bad}, there)
    wait(lab.healthy, 10, "healthy after")
    assert maps(lab) == before


def test_a_clusters_users_write_only_their_clusters_keys(lab: Lab) -> None:
    keys = f"{NODE}x {CONFIG} cilium/synced/west/x meshgate/v1/west/pod/west-1/shop/x"
    for user in ("east:controller:east-1-controller", "east:node:east-1", "east:speaker:east-1"):
        put = shlex.join([*lab.etcdctl_command(user), "put"])
        loop = f'for key in {keys}; do {put} "$key" x; done'
        answer = lab.exec("etcd", "bash", "-c", loop)
        assert answer.stderr.count("Error: etcdserver: permission denied") == 4, answer
        assert not answer.stdout
