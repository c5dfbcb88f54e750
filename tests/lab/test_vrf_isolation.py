"""Two tenants with the same addresses in both clusters, while processes are killed one by one.

::

    blue:  east client-1 client-2, west client-1 client-2, host blue behind the edge
    green: east web-1 web-2,       west web-1 web-2,       host green    the same addresses

Each of the ten asks the other four of its tenant, by both families, and counts whose words it has
got: one word of the other tenant is one too many. Within a cluster routes go by etcd and stand in
maps, so nothing is lost there; between clusters and to the hosts they go by BGP, which loses VPN
routes with their session (ARCHITECTURE.md, D132).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import Lab, wait

APPS = {"blue": "client", "green": "web"}
CLUSTERS = {"east": 1, "west": 2}
PORT = 7200
#: Words that may be on their way when a process ends: of one round, there and back.
ON_THE_WAY = 2
#: Seconds for which each process stays dead.
DEAD_S = 1.0
TALK = """
import json, select, signal, socket, sys, time
word, port = sys.argv[1].encode(), int(sys.argv[2])
own, others = sys.argv[3].split(","), sys.argv[4].split(",")
socks = {}
for address in own:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socks[":" in address] = sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.setblocking(False)
heard, sent, answered = {}, dict.fromkeys(others, 0), dict.fromkeys(others, 0)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
due, said = 0.0, False
while not ended:
    if time.monotonic() >= due:
        due = time.monotonic() + 0.05
        for other in others:
            try:
                socks[":" in other].sendto(b"?" + word, (other, port))
            except OSError:
                pass
            if said:
                sent[other] += 1
    for sock in select.select(list(socks.values()), [], [], 0.02)[0]:
        try:
            data, peer = sock.recvfrom(99)
        except OSError:
            continue
        heard[data[1:].decode()] = heard.get(data[1:].decode(), 0) + 1
        if data[:1] == b"?":
            try:
                sock.sendto(b"!" + word, peer)
            except OSError:
                pass
        elif peer[0] in answered:
            answered[peer[0]] += 1
    if not said and all(answered.values()):
        said, answered = True, dict.fromkeys(others, 0)
        print("reaches all", flush=True)
lost = {other: sent[other] - answered[other] for other in others}
print(json.dumps({"heard": heard, "lost": lost, "sent": sent}), flush=True)
"""


def vrf(lab: Lab, tenant: str, cluster: str) -> dict[str, Any]:
    """Both tenants of a cluster have the same addresses; the clusters have different ones."""
    shown, number = lab.shown["tenants"][tenant], CLUSTERS[cluster]
    spec = {
        "pods": [{"podSelector": {"matchLabels": {"app": APPS[tenant]}}}],
        "destinations": [*shown["networks"], "10.60.0.0/16", "fd60::/48"],
        "import": [shown["target"]],
        "addresses": [f"10.60.{number}.0/24", f"fd60:0:0:{number}::/64"],
    }
    head = {"apiVersion": "meshgate.io/v1alpha1", "kind": "VRF", "metadata": {"name": tenant}}
    return head | {"spec": spec}


def pods(tenant: str) -> list[str]:
    return [f"{c}/shop/{APPS[tenant]}-{number}" for c in CLUSTERS for number in (1, 2)]


def addresses(lab: Lab, pod: str) -> list[str]:
    """The tenant addresses of a pod."""
    found = lab.output(pod, "ip", "-o", "addr", "show", "dev", "eth0").split()
    texts = [text.partition("/")[0] for text in found]
    return sorted(text for text in texts if text.startswith(("10.60.", "fd60:")))


def is_back(lab: Lab, role: str) -> bool:
    """It runs, and what VRFs need from it is there."""
    counts = {row["name"]: row["routes"]["imported"] for row in lab.json("vrf", "list")}
    return f"east-1/{role}" in lab.processes() and all(counts.get(tenant) for tenant in APPS)


@pytest.fixture
def tenants(lab: Lab) -> Iterator[dict[str, dict[str, list[str]]]]:
    """Addresses by endpoint, of each tenant."""
    run = Path(lab.environment.get("MESHGATE_RUN", "/run/meshgate"))
    files = {cluster: run / "manifests" / cluster / "vrfs-both.yaml" for cluster in CLUSTERS}
    for cluster, file in files.items():
        file.write_text(yaml.safe_dump_all([vrf(lab, one, cluster) for one in APPS]))
    try:
        wait(lambda: all(len(addresses(lab, pod)) == 2 for t in APPS for pod in pods(t)), 30, "up")
        yield {
            tenant: {pod: addresses(lab, pod) for pod in pods(tenant)}
            | {tenant: lab.shown["tenants"][tenant]["addresses"]}
            for tenant in APPS
        }
    finally:
        for file in files.values():
            file.unlink()
        wait(lambda: not {r["name"] for r in lab.json("vrf", "list")} & {*APPS}, 20, "gone")


def talk(lab: Lab, tenant: str, ends: dict[str, list[str]], one: str) -> subprocess.Popen[str]:
    """One endpoint asks the others of its tenant."""
    others = [address for other, found in ends.items() if other != one for address in found]
    words = (tenant, PORT, ",".join(ends[one]), ",".join(others))
    return lab.start(one, sys.executable, "-c", TALK, *words)


def test_no_packet_crosses_while_processes_are_killed(
    lab: Lab, tenants: dict[str, dict[str, list[str]]]
) -> None:
    flat = [sorted(map(sorted, ends.values())) for ends in tenants.values()]
    assert flat[0] == flat[1], "both tenants have the same addresses"
    talks = {
        (tenant, one): talk(lab, tenant, ends, one)
        for tenant, ends in tenants.items()
        for one in ends
    }
    try:
        for name, process in talks.items():
            assert process.stdout
            assert process.stdout.readline() == "reaches all\n", name
        for role in ("agent", "speaker", "exabgp"):
            lab.kill(f"east-1/{role}")
            time.sleep(DEAD_S)
            if role != "exabgp":  # its speaker starts it again
                lab.revive(f"east-1/{role}")
            wait(partial(is_back, lab, role), 20, f"{role} is back")
        for process in talks.values():
            process.send_signal(signal.SIGTERM)
        found = {name: json.loads(p.communicate(timeout=10)[0]) for name, p in talks.items()}
    finally:
        for process in talks.values():
            process.kill()
            process.wait()
    for (tenant, one), said in found.items():
        assert set(said["heard"]) == {tenant}, f"{one} of {tenant} has got words of another"
        cluster = one.partition("/")[0]
        ends = tenants[tenant].items()
        near = {a for other, own in ends for a in own if other.startswith(f"{cluster}/")}
        lost = {a: n for a, n in said["lost"].items() if a in near}
        assert all(n <= ON_THE_WAY for n in lost.values()), (one, lost, said["sent"])
