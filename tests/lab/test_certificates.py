"""Certificates of a running lab expire, are renewed and revoked; a stolen one redirects nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from running import Lab, wait
from transfers import losses, transfers

from tests.patience import patient

NODE = "east:node:east-1"
KEY = "meshgate/v1/east/pod/east-1/shop/thief"
OF_OTHERS = "meshgate/v1/east/secret"
FAR = ("8.8.8.8", "2001:4860:4860::8888")


def cluster(lab: Lab, *arguments: object) -> str:
    """``meshgate cluster ARGUMENTS…`` where the CA and etcd are."""
    return lab.output("etcd", sys.executable, "-m", "mesh.cli", "cluster", *arguments)


def says(lab: Lab, code: str, words: str = "") -> bool:
    """Whether a finding of this code has these words."""
    found = lab.json("status")["findings"]
    return any(row["code"] == code and words in row["text"] for row in found)


def settled(lab: Lab, seconds: float, what: str) -> None:
    """Wait until nothing is wrong; say otherwise what is."""
    end = time.monotonic() + patient(seconds)
    while found := lab.json("status")["findings"]:
        words = [f"{row['code']} {row['object']} {row['text']}" for row in found]
        assert time.monotonic() < end, f"{what}: not within {seconds} s: {words}"
        time.sleep(0.1)


def of_pods(lab: Lab) -> set[str]:
    """Addresses of pods, of the legacy host and of the world."""
    pods = {address for row in lab.table("pod") for address in row["addresses"]}
    return {*pods, *lab.shown["legacy"]["addresses"], *FAR}


def rows(lab: Lab, wanted: set[str]) -> dict[str, Any]:
    """What agents know of these addresses."""
    return {row["address"]: row for row in lab.table("address") if row["address"] in wanted}


@contextmanager
def watching(lab: Lab) -> Iterator[list[str]]:
    """A watch with the certificate of east-1, over its own connection; its lines at the end."""
    lines: list[str] = []
    watch = lab.start("etcd", *lab.etcdctl_command(NODE), "watch", "--prefix", "meshgate/v1/")
    try:
        yield lines
    finally:
        watch.terminate()
        lines += watch.communicate(timeout=10)[0].splitlines()


def refused(lab: Lab) -> bool:
    """Whether the certificate can neither read nor write."""
    limits = ("--command-timeout", "1s", "--dial-timeout", "1s")
    calls = (("get", KEY), ("put", KEY, "{}"))
    return all(lab.etcdctl(NODE, *limits, *call).returncode != 0 for call in calls)


def until_refused(lab: Lab) -> float:
    """When the first call was sent that was refused: to refuse takes as long as etcdctl waits."""
    asked = time.monotonic()
    end = asked + 20
    while not refused(lab):
        assert asked < end, "not within 20 s: it is refused"
        asked = time.monotonic()
    return asked


def test_expired_renewed_and_revoked_while_traffic_flows(lab: Lab) -> None:
    """No packet is lost. Revoked, the node reads and writes nothing within ten seconds."""
    settled(lab, 30, "before")
    pki = f"{lab.environment['MESHGATE_RUN']}/pki"
    wanted = of_pods(lab)
    before = rows(lab, wanted)
    with transfers(lab, 24) as reports:
        assert lab.run("lab", "stop", "lab/renewing").returncode == 0
        cluster(lab, "node", "east-1", "--issue", "--hours", 2 / 3600, "--into", pki)
        wait(lambda: says(lab, "M182", "has ended"), 10, "its end is shown")
        lab.output("etcd", "ss", "--kill", "state", "established", "( sport = :2379 )")
        wait(lambda: says(lab, "M151", "has expired"), 10, "etcd refuses it")
        assert NODE in cluster(lab, "renew", "--hours", 168)
        settled(lab, 15, "renewed in place")
        assert lab.run("lab", "start", "lab/renewing").returncode == 0
        with watching(lab) as lines:
            begin = time.monotonic()
            cluster(lab, "node", "east-1", "--revoke")
            assert until_refused(lab) - begin < 10
            assert lab.etcdctl("root", "put", OF_OTHERS, "of others").returncode == 0
            wait(lambda: says(lab, "M183", "revoked"), 10, "it is shown")
        lab.etcdctl("root", "del", OF_OTHERS)
        assert "of others" not in lines
        cluster(lab, "node", "east-1", "--issue", "--into", pki)
        settled(lab, 15, "issued again")
    assert not losses(reports), "\n".join(losses(reports))
    assert rows(lab, wanted) == before


def test_a_stolen_certificate_redirects_nothing_and_is_found(lab: Lab) -> None:
    """Its agent is dead, so nobody puts the key right. Addresses and labels are refused."""
    settled(lab, 30, "before")
    victim, wanted = lab.pod("east/shop/web-2"), of_pods(lab)
    before = rows(lab, wanted)
    value = {
        "addresses": [*victim["addresses"], *lab.shown["legacy"]["addresses"], *FAR],
        "labels": "k8s:app=admin;",
    }
    lab.kill("east-1/agent")
    try:
        assert lab.etcdctl(NODE, "put", KEY, json.dumps(value)).returncode == 0
        fields = {*value["addresses"], "labels"}
        wait(lambda: found(lab) == fields, 15, "each is a finding that names node, key, address")
        assert rows(lab, wanted) == before
    finally:
        lab.etcdctl("root", "del", KEY)
        lab.revive("east-1/agent")
    settled(lab, 20, "after")
    assert rows(lab, wanted) == before


def found(lab: Lab) -> set[str]:
    about = [row for row in lab.json("status")["findings"] if row["object"] == KEY]
    assert all(row["about"] == ["node/east-1"] for row in about)
    return {row["field"] for row in about}
