"""The feed as a process: a real etcd with its rights, real TLS, firewalls as clients."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from controllers import REPOSITORY, Row, egress_policy, manifest, node
from etcd_server import Etcd, client_of, free_port, running

from clustermesh.certs import Authority, KeyPair
from clustermesh.etcd.auth import CONTROLLER, FEED, EtcdUser, bootstrap_auth
from clustermesh.etcd.names import key_text
from clustermesh.issued import Pki, write_pair, write_pki
from clustermesh.publish import PREFIXES
from clustermesh.store.claims import encode_number, number_key
from clustermesh.store.own import listed_of
from gateway.claims import draining_want, egress_want, named_number
from mesh.cli import main
from mesh.core.feature import Want
from mesh.core.model import ClaimKey, Listed
from mesh.observe.tables import Process, ask
from tests.patience import wait

USER, OPERATOR = EtcdUser("east", FEED, "feed"), EtcdUser("east", CONTROLLER, "a")
FOUR, SIX = "198.51.100.10", "2001:db8:100::10"
OWN = "meshgate/v1/east/"


@dataclass
class Reply:
    status: int
    body: str
    etag: str


@dataclass
class Running:
    """A feed process, and what surrounds it."""

    directory: Path
    etcd: Etcd
    pki: Pki
    port: int
    firewalls: list[Row]
    process: subprocess.Popen[bytes] | None = None
    fields: Row = field(default_factory=dict)

    def start(self) -> None:
        path = self.directory / "feed.yaml"
        path.write_text(yaml.safe_dump(self._config()))
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mesh.cli", "feed", "--config", str(path)],
                stdout=log, stderr=log, cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )  # fmt: skip

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def _config(self) -> Row:
        user, served = self.pki.users[USER.cn], self.directory / "served"
        return {
            "cluster": {"name": "east", "id": 1},
            "instance": "feed",
            "manifests": str(self.directory / "manifests"),
            "etcd": {
                "endpoints": [f"https://{self.etcd.address}"],
                "ca": str(self.pki.ca),
                "cert": str(user.cert),
                "key": str(user.key),
            },
            "stateDir": str(self.directory / "state"),
            "socket": str(self.directory / "feed.sock"),
            "listen": f"[::]:{self.port}",
            "tls": {
                "cert": str(served / "feed.crt"),
                "key": str(served / "feed.key"),
                "clientCA": str(self.pki.ca),
            },
            "firewalls": self.firewalls,
            **self.fields,
        }

    def apply(self, *objects: Row) -> None:
        folder = self.directory / "manifests"
        folder.mkdir(exist_ok=True)
        (folder / "egress.new").write_text(yaml.safe_dump_all(objects))
        (folder / "egress.new").replace(folder / "egress.yaml")

    def get(
        self, path: str, *, word: str = "word", user: str = "pan", tag: str = "", cn: str = ""
    ) -> Reply:
        """A request as a firewall makes it; with ``cn`` by its certificate alone."""
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        headers = {"If-None-Match": tag} if tag else {}
        if cn:
            files = self.pki.users[cn]
            context.load_cert_chain(files.cert, files.key)
        else:
            basic = base64.b64encode(f"{user}:{word}".encode()).decode()
            headers["Authorization"] = f"Basic {basic}"
        client = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        with contextlib.closing(client):
            client.request("GET", f"/feeds/{path}", headers=headers)
            reply = client.getresponse()
            return Reply(reply.status, reply.read().decode(), reply.headers.get("ETag", ""))

    def certificate(self) -> str:
        """The certificate that the server shows."""
        return ssl.get_server_certificate(("127.0.0.1", self.port))

    def status_of(self, path: str, **more: Any) -> int:
        """The status of an answer; 0: nobody answers."""
        try:
            return self.get(path, **more).status
        except OSError:
            return 0

    def rows(self) -> list[Row]:
        answer = ask([Process("", "feed", self.directory / "feed.sock")], ["feed"])[0]
        return list(answer.rows.get("feed", ()))

    def findings(self) -> list[tuple[str, str]]:
        answer = ask([Process("", "feed", self.directory / "feed.sock")])[0]
        return sorted((one["code"], one["field"]) for one in answer.status.get("findings", ()))

    def keys(self, place: str) -> dict[str, bytes]:
        async def read() -> dict[str, bytes]:
            async with client_of(self.etcd.endpoint) as client:
                kvs = (await client.list(f"{OWN}feed/{place}/")).kvs
                start = f"{OWN}feed/{place}/"
                return {key_text(one.key).removeprefix(start): one.value for one in kvs}

        return asyncio.run(read())

    def listed(self) -> dict[str, Listed]:
        return {name: listed_of(value) for name, value in self.keys("address").items()}

    def put(self, key: str, value: bytes) -> int:
        """The revision of the key."""

        async def write() -> int:
            async with client_of(self.etcd.endpoint) as client:
                await client.put(f"{OWN}{key}", value)
                found = await client.get(f"{OWN}{key}")
                return found.mod_revision if found else 0

        return asyncio.run(write())

    def put_claim(self, want: Want) -> int:
        """A number that is claimed, as by a controller; its epoch."""
        number = named_number(want) if want.noun == "egress" else 0
        key = number_key("east", ClaimKey(want.noun, want.pool, number or 0))
        return self.put(key.removeprefix(OWN), encode_number(want.owner))

    def verb(self, *arguments: str) -> int:
        path = self.directory / "controller.yaml"
        user = self.pki.users[OPERATOR.cn]
        etcd = {
            "endpoints": [f"https://{self.etcd.address}"],
            "ca": str(self.pki.ca),
            "cert": str(user.cert),
            "key": str(user.key),
        }
        path.write_text(yaml.safe_dump({"cluster": {"name": "east", "id": 1}, "etcd": etcd}))
        return main(["egress", *arguments, "--yes", "--config", str(path)])


def policy(name: str, *addresses: str) -> Row:
    one = egress_policy("east")
    one["metadata"]["name"] = name
    one["spec"]["addresses"] = list(addresses)
    return one


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Running]:
    pki = write_pki(tmp_path / "pki", ["root", "cp.example"], ["127.0.0.1"], [USER.cn, OPERATOR.cn])
    authority = Authority(KeyPair(pki.ca.read_bytes(), (tmp_path / "pki/ca.key").read_bytes()))
    (tmp_path / "served").mkdir()
    write_pair(tmp_path / "served", "feed", authority.issue_server("feed", ["127.0.0.1"]))
    (tmp_path / "word").write_text("word\n")
    firewalls = [
        {
            "name": "pan",
            "groups": ["*"],
            "credentials": {"user": "pan", "passwordFile": str(tmp_path / "word")},
            "settleSeconds": 3600,
        },
        {
            "name": "cp",
            "groups": ["erp"],
            "credentials": {"certificate": "cp.example"},
            "settleSeconds": 0,
        },
    ]
    with running(tmp_path / "etcd", pki) as etcd:

        async def prepare() -> None:
            async with client_of(etcd.endpoint) as client:
                await bootstrap_auth(client, [USER, OPERATOR], PREFIXES)

        asyncio.run(prepare())
        one = Running(tmp_path, etcd, pki, free_port(), firewalls)
        try:
            yield one
        finally:
            if one.process and one.process.poll() is None:
                one.kill()


@pytest.fixture
def served(feed: Running) -> Running:
    """It serves the group erp."""
    feed.put("synced", b'{"store":"one"}')
    feed.apply(policy("erp", FOUR, SIX))
    feed.start()
    wait(lambda: feed.status_of("erp.txt") == 200, 30)
    return feed


def test_before_the_first_sync_there_is_no_list(feed: Running) -> None:
    feed.apply(policy("erp", FOUR, SIX))
    feed.start()  # no leader has written the mark of the store
    wait(lambda: feed.status_of("erp.txt") == 503, 30)
    assert feed.status_of("other.txt") == 503
    assert feed.status_of("erp.txt", word="wrong") == 401
    feed.put("synced", b'{"store":"one"}')
    wait(lambda: feed.status_of("erp.txt") == 200, 30)
    assert feed.get("erp.txt").body == f"{FOUR}\n{SIX}\n"
    assert feed.status_of("other.txt") == 404


def test_a_restart_serves_the_same_bytes(served: Running) -> None:
    before = {form: served.get(f"erp.{form}") for form in ("forti", "cp.json", "cisco.md5")}
    assert served.get("erp.forti", tag=before["forti"].etag).status == 304
    wait(lambda: all(b'"settled":1' in one for one in served.keys("fetched").values()), 30)
    served.kill()
    served.start()
    wait(lambda: served.status_of("erp.txt") == 200, 30)
    assert {form: served.get(f"erp.{form}") for form in before} == before
    fetched = {row["firewall"]: (row["fetched"], row["settled"]) for row in served.rows()}
    assert fetched == {"pan": (1, 1), "cp": (None, None)}


def test_an_address_waits_for_every_firewall(served: Running) -> None:
    wait(lambda: served.listed().get(FOUR), 30)
    assert served.listed()[FOUR] == Listed(("erp",), waits=("cp", "pan"))
    tag = served.get("erp.pan").etag  # pan needs an hour, or to come again with the ETag
    assert served.get("erp.pan").status == 200
    assert served.get("v4/erp.cp.json", cn="cp.example").status == 200
    wait(lambda: served.listed()[FOUR].waits == ("pan",), 30)
    assert served.listed()[SIX].waits == ("cp", "pan")
    assert served.get("erp.pan", tag=tag).status == 304
    wait(lambda: served.listed()[FOUR].acknowledged, 30)
    assert served.listed()[SIX].waits == ("cp",)
    served.kill()
    served.start()
    wait(lambda: served.status_of("erp.txt") == 200, 30)
    assert served.listed()[FOUR].acknowledged
    assert served.listed()[SIX].waits == ("cp",)


def test_an_operator_activates(served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    wait(lambda: served.listed().get(FOUR), 30)
    assert served.verb("activate", FOUR, "--without", "asa") == 1
    assert "it does not wait for asa, but for cp, pan" in capsys.readouterr().err
    assert served.verb("activate", "192.0.2.1", "--without", "pan") == 1
    assert served.verb("activate", FOUR, "--without", "pan") == 0
    assert "waits for cp only" in capsys.readouterr().out
    wait(lambda: served.listed()[FOUR] == Listed(("erp",), waits=("cp",), without=("pan",)), 30)
    assert served.get("erp.txt", cn="cp.example").status == 200
    wait(lambda: served.listed()[FOUR] == Listed(("erp",), acknowledged=True, without=("pan",)), 30)
    wait(lambda: not served.keys("override"), 30)
    served.get("erp.txt", tag=served.get("erp.txt").etag)
    wait(lambda: served.listed()[FOUR] == Listed(("erp",), acknowledged=True), 30)


def test_what_no_policy_wants_leaves_and_is_free_when_all_have_fetched_that(
    served: Running,
) -> None:
    served.apply(policy("erp", SIX))
    wait(lambda: served.get("erp.txt").body == f"{SIX}\n", 30)
    wait(lambda: served.listed()[FOUR] == Listed(("erp",), waits=("cp",), leaving=True), 30)
    assert served.get("v4/erp.txt").status == 404
    served.get("erp.txt", cn="cp.example")
    wait(lambda: FOUR not in served.listed(), 30)


def test_what_is_in_use_stays_listed(served: Running) -> None:
    """Until every node has said, in this drain, that nothing of it is in use."""
    served.put_claim(egress_want(ip_address(FOUR), ""))
    time.sleep(1)  # until the feed has heard of it
    drain = draining_want(ip_address(FOUR))
    here = node("east", 1)
    served.apply(policy("erp", SIX), here)
    served.put("feed/override/192.0.2.9", b'{"without":[]}')
    wait(lambda: not served.keys("override"), 30)  # it has looked, and nothing says that it is free
    assert served.get("erp.txt").body == f"{FOUR}\n{SIX}\n"
    epoch = served.put_claim(drain)
    for ports, of in ((3, epoch), (0, epoch - 1)):
        served.put(f"status/node/east-1/egress/{FOUR}", b'{"ports":%d,"epoch":%d}' % (ports, of))
        time.sleep(1)
        assert served.get("erp.txt").body == f"{FOUR}\n{SIX}\n"
    served.put(f"status/node/east-1/egress/{FOUR}", b'{"ports":0,"epoch":%d}' % epoch)
    wait(lambda: served.get("erp.txt").body == f"{SIX}\n", 30)
    assert served.listed()[FOUR].leaving


def test_a_pool_is_a_group(served: Running) -> None:
    pool = manifest(
        "EgressPool", "dc", api="meshgate.io/v1alpha1", spec={"cidrs": ["198.51.100.64/28"]}
    )
    one = policy("crm")
    del one["spec"]["addresses"]
    one["spec"]["pool"] = "dc"
    served.apply(policy("erp", FOUR, SIX), pool, one)
    wait(lambda: served.status_of("dc.txt") == 503, 30)  # it has no address yet
    served.put_claim(egress_want(ip_address("198.51.100.65"), "crm"))
    wait(lambda: served.status_of("dc.txt") == 200, 30)
    assert served.get("dc.txt").body == "198.51.100.65\n"
    assert served.status_of("crm.txt") == 404


def test_a_group_that_has_gone_rests_until_its_release(served: Running) -> None:
    served.apply(policy("crm", "198.51.100.11"))
    wait(lambda: served.status_of("erp.txt") == 410, 30)
    assert served.status_of("crm.txt") == 200
    assert served.listed()[FOUR] == Listed(("erp",), leaving=True)
    served.kill()
    served.start()
    wait(lambda: served.status_of("crm.txt") == 200, 30)
    assert served.status_of("erp.txt") == 410
    assert served.verb("release", "crm") == 1
    assert served.verb("release", "erp") == 0
    wait(lambda: served.status_of("erp.txt") == 404, 30)
    wait(lambda: FOUR not in served.listed() and not served.keys("release"), 30)
    served.kill()
    served.start()
    wait(lambda: served.status_of("crm.txt") == 200, 30)
    assert served.status_of("erp.txt") == 404


def test_another_store_gets_no_epoch_twice(served: Running) -> None:
    served.apply(policy("erp", FOUR))
    wait(lambda: served.get("erp.cp.json").body.startswith('{"epoch":2'), 30)
    before = served.get("erp.forti")
    served.kill()

    async def lose() -> None:
        async with client_of(served.etcd.endpoint) as client:
            for place in ("group", "fetched", "address"):
                for kv in (await client.list(f"{OWN}feed/{place}/")).kvs:
                    await client.delete(key_text(kv.key))

    asyncio.run(lose())
    served.start()
    wait(lambda: served.status_of("erp.txt") == 200, 30)
    assert served.get("erp.forti") == before
    assert json.loads(served.keys("group")["erp"])["epoch"] == 2


def test_wrong_credentials_are_a_finding(served: Running) -> None:
    assert served.findings() == []
    assert served.status_of("erp.txt", word="wrong") == 401
    assert served.status_of("erp.txt", user="asa") == 401
    assert served.status_of("crm.txt", cn="cp.example") == 403
    wait(lambda: ("M237", "firewalls 127.0.0.1") in served.findings(), 30)


def test_what_cannot_be_used_is_a_finding_and_the_rest_goes_on(feed: Running) -> None:
    feed.put("synced", b'{"store":"one"}')
    feed.apply(policy("erp", FOUR, SIX))
    feed.firewalls[1]["groups"] = ["erq"]
    (feed.directory / "word").unlink()
    feed.start()
    wrong = [("M238", "firewalls[0].credentials.passwordFile"), ("M238", "firewalls[1].groups[0]")]
    wait(lambda: feed.findings() == wrong, 30)
    assert feed.status_of("erp.txt") == 401
    (feed.directory / "word").write_text("word\n")
    wait(lambda: feed.status_of("erp.txt") == 200, 30)
    feed.kill()
    (feed.directory / "served" / "feed.crt").rename(feed.directory / "away")
    feed.start()
    wait(lambda: ("M238", "tls") in feed.findings(), 30)
    (feed.directory / "away").rename(feed.directory / "served" / "feed.crt")
    wait(lambda: feed.status_of("erp.txt") == 200, 30)


def test_a_renewed_certificate_counts_for_new_connections(served: Running) -> None:
    before = served.certificate()
    folder = served.directory / "pki"
    authority = Authority(KeyPair(served.pki.ca.read_bytes(), (folder / "ca.key").read_bytes()))
    pair = authority.issue_server("feed", ["127.0.0.1"])
    write_pair(served.directory / "served", "feed", pair)
    wait(lambda: served.certificate() != before, 30)
    assert served.status_of("erp.txt") == 200
    (served.directory / "served" / "feed.crt").write_text("none")
    wait(lambda: ("M238", "tls") in served.findings(), 30)
    assert served.status_of("erp.txt") == 200  # with the certificate that it has


def test_the_store_away_changes_nothing_that_is_served(served: Running) -> None:
    served.etcd.signal(signal.SIGSTOP)
    served.apply(policy("erp", SIX))
    time.sleep(1)
    assert served.get("erp.txt").body == f"{FOUR}\n{SIX}\n"
    served.etcd.signal(signal.SIGCONT)
    wait(lambda: served.get("erp.txt").body == f"{SIX}\n", 20)
