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

NODE = "east:node:east-1"
KEY = "meshgate/v1/east/pod/east-1/shop/thief"
FAR = ("8.8.8.8", "2001:4860:4860::8888")


def cluster(lab: Lab, *arguments: object) -> str:
    """``meshgate cluster ARGUMENTS…`` where the CA and etcd are."""
    return lab.output("etcd", sys.executable, "-m", "mesh.cli", "cluster", *arguments)


def codes(lab: Lab, about: str) -> set[str]:
    return {row["code"] for row in lab.json("status")["findings"] if about in row["about"]}


def addresses(lab: Lab) -> list[dict[str, Any]]:
    return sorted(lab.table("address"), key=str)


@contextmanager
def watching(lab: Lab) -> Iterator[Any]:
    """A watch with the certificate of east-1, over a connection of its own."""
    command = [*lab.etcdctl_command(NODE), "watch", "--prefix", "meshgate/v1/"]
    watch = lab.start("etcd", *command)
    try:
        yield watch
    finally:
        watch.kill()


def settled(lab: Lab, seconds: float, what: str) -> None:
    """Wait until nothing is wrong; say otherwise what is."""
    end = time.monotonic() + seconds
    while found := lab.json("status")["findings"]:
        words = [f"{row['code']} {row['object']} {row['text']}" for row in found]
        assert time.monotonic() < end, f"{what}: not within {seconds} s: {words}"
        time.sleep(0.1)


def end_connections(lab: Lab) -> None:
    lab.output("etcd", "ss", "--kill", "state", "established", "( sport = :2379 )")


def test_expired_renewed_and_revoked_while_traffic_flows(lab: Lab) -> None:
    """No packet is lost. Revoked, the node reads and writes nothing within ten seconds."""
    settled(lab, 30, "before")
    pki = f"{lab.environment['MESHGATE_RUN']}/pki"
    before = addresses(lab)
    with transfers(lab, 24) as reports:
        assert lab.run("lab", "stop", "lab/renewing").returncode == 0
        cluster(lab, "node", "east-1", "--issue", "--hours", 2 / 3600, "--into", pki)
        wait(lambda: "M182" in codes(lab, "node/east-1"), 5, "its end is near")
        time.sleep(1)
        end_connections(lab)
        wait(lambda: "M151" in codes(lab, "store"), 10, "it has expired, and etcd refuses it")
        assert "east:node:east-1" in cluster(lab, "renew", "--hours", 168)
        settled(lab, 10, "renewed in place")
        assert lab.run("lab", "start", "lab/renewing").returncode == 0
        with watching(lab) as watch:
            begin = time.monotonic()
            cluster(lab, "node", "east-1", "--revoke")
            wait(lambda: watch.poll() is not None or refused(lab), 10, "it is refused")
            lab.etcdctl("root", "put", "meshgate/v1/east/secret", "of others")
            wait(lambda: "M183" in codes(lab, "node/east-1"), 10, "it is shown")
            assert time.monotonic() - begin < 10
            assert refused(lab)
        lab.etcdctl("root", "del", "meshgate/v1/east/secret")
        assert "of others" not in watch.communicate(timeout=10)[0]
        cluster(lab, "node", "east-1", "--issue", "--into", pki)
        settled(lab, 15, "issued again")
    assert not losses(reports), "\n".join(losses(reports))
    assert addresses(lab) == before


def refused(lab: Lab) -> bool:
    """Whether the certificate can neither read nor write."""
    calls = (("get", KEY), ("put", KEY, "{}"))
    limits = ("--command-timeout", "1s", "--dial-timeout", "1s")
    return all(lab.etcdctl(NODE, *limits, *call).returncode != 0 for call in calls)


def test_a_stolen_certificate_redirects_nothing_and_is_found(lab: Lab) -> None:
    """Its agent is dead, so nobody puts the key right. Addresses and labels are refused."""
    settled(lab, 30, "before")
    victim = lab.pod("east/shop/web-2")
    legacy = lab.shown["legacy"]["addresses"]
    before = addresses(lab)
    value = {"addresses": [*victim["addresses"], *legacy, *FAR], "labels": "k8s:app=admin;"}
    lab.kill("east-1/agent")
    try:
        assert lab.etcdctl(NODE, "put", KEY, json.dumps(value)).returncode == 0
        fields = {*value["addresses"], "labels"}
        wait(lambda: found(lab) == fields, 10, "each is a finding that names node, key, address")
        assert addresses(lab) == before
    finally:
        lab.etcdctl("root", "del", KEY)
        lab.revive("east-1/agent")
    settled(lab, 20, "after")
    assert addresses(lab) == before


def found(lab: Lab) -> set[str]:
    rows = [row for row in lab.json("status")["findings"] if row["object"] == KEY]
    assert all(row["about"] == ["node/east-1"] for row in rows)
    return {row["field"] for row in rows}
