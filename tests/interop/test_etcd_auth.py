"""Certificate users of a real etcd: what each may write, and rejected certificates in words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from etcd_server import Etcd, client_of, running, task_of, until

from clustermesh.certs import Authority, KeyPair
from clustermesh.etcd.auth import CONTROLLER, NODE, SPEAKER, EtcdUser, bootstrap_auth
from clustermesh.etcd.client import Client, Denied, EtcdAddress, Unavailable
from clustermesh.issued import Pki, write_pki
from clustermesh.publish import PREFIXES

CLUSTERS = ("east", "east2", "west")
#: Two nodes whose names begin alike, of each cluster, with a speaker; a controller.
USERS = [
    EtcdUser(cluster, role, f"{cluster}-{name}")
    for cluster in CLUSTERS
    for role, name in ((CONTROLLER, "a"), (NODE, "1"), (NODE, "10"), (SPEAKER, "1"))
]
WEST = EtcdUser("west", NODE, "west-1").cn
EAST = EtcdUser("east", NODE, "east-1").cn

#: Keys that the users of east may write; nobody else may, but for the heartbeat.
OF_THE_CONTROLLER = (
    "meshgate/v1/east/leader",
    "meshgate/v1/east/identity/labels/number/65537",
    "meshgate/v1/east/synced",
    "cilium/cache/nodes/v1/east/n1",
    "cilium/cache/services/v1/east/shop/web",
    "cilium/cache/ip/v1/east/10.1.0.1",
    "cilium/cache/identities/v1/east/id/65537",
    "cilium/cluster-config/east",
    "cilium/synced/east/cilium/cache/ip/v1",
    "cilium/.heartbeat",
)
OF_ALL_CONTROLLERS = "cilium/.heartbeat"
#: Of the agent of east-1, and of no other.
OF_THE_AGENT = (
    "meshgate/v1/east/pod/east-1/shop/web-1",
    "meshgate/v1/east/pod/east-1/synced",
    "meshgate/v1/east/lent/east-1/20261130/198.51.100.10/18-1",
    "meshgate/v1/east/demand/east-1",
    "meshgate/v1/east/programmed/east-1",
    "meshgate/v1/east/status/node/east-1/x",
)
OF_THE_OTHER = (
    "meshgate/v1/east/pod/east-10/shop/web-1",
    "meshgate/v1/east/lent/east-10/20261130/198.51.100.10/18-1",
    "meshgate/v1/east/demand/east-10",
    "meshgate/v1/east/programmed/east-10",
)
OF_THE_SPEAKER = (
    "meshgate/v1/east/status/speaker/east-1/x",
    "meshgate/v1/east/learned/east-1/labels",
)
OF_WEST = "meshgate/v1/west/pod/east-1/shop/web-1"
OF_NOBODY = (
    "cilium/cluster-config/east2",
    "cilium/cluster-config/east/x",
    "cilium/cache/nodes/v1/east2/n1",
    "meshgate/v1/east2/leader",
    "meshgate/v1/east",
    OF_WEST,
    "cilium/state/nodes/v1/east/n1",
    "cilium/.heartbeat/x",
    "other",
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return write_pki(
        tmp_path_factory.mktemp("pki"),
        ["root", *(user.cn for user in USERS), "stranger"],
        ["127.0.0.1"],
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Etcd]:
    async def prepare(server: Etcd) -> None:
        async with client_of(server.endpoint) as client:
            for _ in range(2):  # a second time, as root, changes nothing
                await bootstrap_auth(client, USERS, PREFIXES)

    with running(tmp_path_factory.mktemp("etcd"), pki) as server:
        asyncio.run(prepare(server))
        yield server


async def may_write(client: Client, key: str) -> bool:
    try:
        await client.put(key, b"x")
    except Denied as error:
        return f"put {key}" not in str(error)
    return True


def test_each_user_writes_its_own_keys_and_no_other(guarded: Etcd) -> None:
    async def run() -> None:
        pods = {*OF_THE_AGENT, *OF_THE_OTHER, *OF_THE_SPEAKER}
        allowed = {
            "east:controller:east-a": {*OF_THE_CONTROLLER, *pods},
            "east:node:east-1": set(OF_THE_AGENT),
            "east:node:east-10": set(OF_THE_OTHER),
            "east:speaker:east-1": set(OF_THE_SPEAKER),
            "west:controller:west-a": {
                OF_ALL_CONTROLLERS,
                "meshgate/v1/west/pod/east-1/shop/web-1",
            },
        }
        keys = (*OF_THE_CONTROLLER, *pods, *OF_NOBODY)
        for user in [user.cn for user in USERS if user.cluster != "east2"]:
            async with client_of(guarded.endpoint_of(user)) as client:
                written = {key for key in keys if await may_write(client, key)}
                assert written == allowed.get(user, set()), user

    asyncio.run(run())


def test_a_user_reads_both_subtrees_of_all_clusters_and_nothing_else(guarded: Etcd) -> None:
    async def run() -> None:
        async with client_of(guarded.endpoint_of(WEST)) as client:
            await client.list("cilium/")
            await client.list("meshgate/v1/")
            with pytest.raises(Denied, match="Range other/: "):
                await client.list("other/")
            with pytest.raises(Denied, match="Range cilium: "):
                await client.list("cilium")  # without its slash a prefix is more than granted

    asyncio.run(run())


def test_a_speaker_reads_its_cluster_alone(guarded: Etcd) -> None:
    async def run() -> None:
        async with client_of(guarded.endpoint_of("west:speaker:west-1")) as client:
            await client.list("meshgate/v1/west/")
            for prefix in ("meshgate/v1/", "meshgate/v1/east/", "cilium/"):
                with pytest.raises(Denied):
                    await client.list(prefix)

    asyncio.run(run())


def test_a_denied_watch_raises_at_once(guarded: Etcd) -> None:
    async def run() -> None:
        async with client_of(guarded.endpoint_of(EAST)) as client:
            watch = client.watch("other/")
            with pytest.raises(Denied, match="watch of other/: "):
                await asyncio.wait_for(anext(watch), 2)

    asyncio.run(run())


def test_a_certificate_that_is_no_user_is_denied(guarded: Etcd) -> None:
    async def run() -> None:
        async with client_of(guarded.endpoint_of("stranger")) as client:
            with pytest.raises(Denied, match="Range cilium/: "):
                await client.list("cilium/")

    asyncio.run(run())


def test_putting_on_a_foreign_lease_is_denied(guarded: Etcd) -> None:
    """A lease with somebody else's keys takes none of ours, and is not ours to revoke."""

    async def run() -> None:
        east, west = (
            guarded.endpoint_of("east:controller:east-a"),
            guarded.endpoint_of("west:controller:west-a"),
        )
        async with client_of(east) as one, client_of(west) as other:
            lease = (await one.grant(60)).ID
            await one.put("cilium/cluster-config/east", b"{}", lease)
            with pytest.raises(Denied):
                await other.put("cilium/cluster-config/west", b"{}", lease)
            with pytest.raises(Denied):
                await other.revoke(lease)

    asyncio.run(run())


def test_role_changes_while_connected_cost_nothing(guarded: Etcd) -> None:
    """`revision of auth store is old` is tried again: 200 puts during bootstraps, no error."""

    async def run() -> None:
        async def churn(root: Client) -> None:
            for _ in range(3):
                await bootstrap_auth(
                    root, [one for one in USERS if one.cluster == "west"], PREFIXES
                )

        async with (
            client_of(guarded.endpoint_of("root")) as root,
            client_of(guarded.endpoint_of(WEST)) as client,
            task_of(churn(root)) as churning,
        ):
            written = 0
            while not churning.done() or written < 200:
                await client.put("meshgate/v1/west/pod/west-1/x/y", b"%d" % written)
                written += 1

    asyncio.run(run())


def endpoint_with(
    guarded: Etcd, pair: KeyPair, directory: Path, ca: Path | None = None
) -> EtcdAddress:
    assert guarded.pki is not None
    cert, key = directory / "own.crt", directory / "own.key"
    cert.write_bytes(pair.cert)
    key.write_bytes(pair.key)
    return EtcdAddress((guarded.address,), ca or guarded.pki.ca, cert, key)


def authority(guarded: Etcd) -> Authority:
    assert guarded.pki is not None
    ca = guarded.pki.ca
    return Authority(KeyPair(ca.read_bytes(), ca.with_suffix(".key").read_bytes()))


async def words(endpoint: EtcdAddress) -> str:
    async with client_of(endpoint) as client:
        with pytest.raises(Unavailable):
            await client.put("meshgate/v1/east/pod/east-1/b/c", b"")
        return client.problem


def test_rejected_certificates_in_words(guarded: Etcd, tmp_path: Path) -> None:
    """TLS says only that the connection is lost; the client finds out why."""
    ours, other = authority(guarded), Authority.create("other CA")
    good = ours.issue_user(EAST)
    expired = ours.issue_user(EAST, lifetime=timedelta(minutes=-1))
    swapped = KeyPair(good.cert, ours.issue_user(EAST).key)
    other_ca = tmp_path / "other.crt"
    other_ca.write_bytes(other.pair.cert)
    cases = {
        "expired": (
            endpoint_with(guarded, expired, new(tmp_path, "a")),
            f"'{EAST}' has expired",
        ),
        "foreign": (
            endpoint_with(guarded, other.issue_user(EAST), new(tmp_path, "b")),
            f"'{EAST}' is not signed by the configured CA",
        ),
        "swapped": (endpoint_with(guarded, swapped, new(tmp_path, "c")), "key does not belong to"),
        "server": (
            endpoint_with(guarded, good, new(tmp_path, "d"), other_ca),
            f"its certificate is not signed by the CA in {other_ca}",
        ),
        "none": (EtcdAddress((guarded.address,), guarded.pki and guarded.pki.ca), "no certificate"),
        "missing": (
            EtcdAddress((guarded.address,), tmp_path / "x.crt", tmp_path / "x.crt", tmp_path / "k"),
            "x.crt",
        ),
        "name": (
            EtcdAddress(
                (guarded.address,), guarded.pki and guarded.pki.ca, server_name="etcd.test"
            ),
            "its certificate does not hold the name etcd.test",
        ),
    }

    async def run() -> None:
        for (name, (_, expected)), said in zip(
            cases.items(),
            await asyncio.gather(*(words(endpoint) for endpoint, _ in cases.values())),
            strict=True,
        ):
            assert expected in said, f"{name}: {said}"
            assert guarded.address in said

    asyncio.run(run())


def new(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_a_renewed_certificate_needs_no_restart_of_the_client(
    guarded: Etcd, tmp_path: Path
) -> None:
    """Expired, refused; replaced on disk; the same client goes on."""
    ours = authority(guarded)
    endpoint = endpoint_with(
        guarded, ours.issue_user(EAST, lifetime=timedelta(minutes=-1)), tmp_path
    )

    async def run() -> None:
        async with client_of(endpoint) as client:
            writing = asyncio.create_task(client.put(OF_THE_AGENT[0], b"new"))
            await until(lambda: "expired" in client.problem, "the refusal")
            endpoint_with(guarded, ours.issue_user(EAST), tmp_path)
            assert await writing > 0
            assert client.problem == ""

    asyncio.run(run())


def test_two_addresses_share_one_certificate(guarded: Etcd) -> None:
    """With several addresses in the target the host check needs a name given."""

    async def run() -> None:
        one = guarded.endpoint_of(WEST)
        two = EtcdAddress((f"https://{guarded.address}", "127.0.0.2:1"), one.ca, one.cert, one.key)
        for _ in range(3):
            async with client_of(two) as client:
                assert await client.put("meshgate/v1/west/pod/west-1/x/y", b"") > 0

    asyncio.run(run())
