"""Users, roles and grants of the shared etcd: each cluster writes its own subtree only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client
from clustermesh.etcd.errors import BadRequest
from clustermesh.etcd.names import key_bytes
from clustermesh.etcd.requests import prefix_end


async def bootstrap_auth(client: Client, clusters: Sequence[str], published: Sequence[str]) -> None:
    """Create the clusters' users, roles and grants, and switch authentication on.

    Users are certificate CNs without password; ``published`` are the prefixes of the nouns that
    clusters publish. May be repeated, then as ``root``.
    """
    await _role(client, "root", ())
    await _user(client, "root", "root")
    for cluster in clusters:
        for user, grants in user_grants(cluster, published).items():
            await add_user(client, user, grants)
    await client.auth("AuthEnable", pb.AuthEnableRequest(), pb.AuthEnableResponse)


#: Not a cluster's own: every controller puts it (``clustermesh/store/heartbeat.py``).
_HEARTBEAT = "cilium/.heartbeat"


@dataclass(frozen=True, slots=True)
class Grant:
    """A key, or with a trailing slash a prefix, that a role may read, or also write."""

    key: str
    write: bool = False
    prefix: bool = False  # also without a slash

    @property
    def end(self) -> bytes:
        """First key after the granted ones; empty for a single key."""
        whole = self.prefix or self.key.endswith("/")
        return prefix_end(key_bytes(self.key)) if whole else b""


def user_grants(cluster: str, published: Sequence[str]) -> Mapping[str, Sequence[Grant]]:
    """What each user of a cluster may do, by certificate CN."""
    reads = (Grant("cilium/"), Grant("meshgate/v1/"))
    copies = [f"{prefix}{cluster}/" for prefix in published]
    own = [f"meshgate/v1/{cluster}/", f"cilium/synced/{cluster}/", *copies]
    # Exact: as a prefix it would let cluster `east` write `east2`.
    own += [f"cilium/cluster-config/{cluster}", _HEARTBEAT]
    return {
        f"{cluster}-controller": (*reads, *(Grant(key, write=True) for key in own)),
        f"{cluster}-agent": (*reads, Grant(f"meshgate/v1/{cluster}/pod/", write=True)),
        f"{cluster}-speaker": reads,
    }


async def add_user(client: Client, name: str, grants: Sequence[Grant]) -> None:
    """One user with a role of its own; may be repeated."""
    await _role(client, name, grants)
    await _user(client, name, name)


async def _role(client: Client, name: str, grants: Sequence[Grant]) -> None:
    await _create(client, "RoleAdd", pb.AuthRoleAddRequest(name=name), pb.AuthRoleAddResponse)
    for grant in grants:
        permission = pb.Permission(
            permType=pb.Permission.READWRITE if grant.write else pb.Permission.READ,
            key=key_bytes(grant.key),
            range_end=grant.end,
        )
        request = pb.AuthRoleGrantPermissionRequest(name=name, perm=permission)
        await client.auth("RoleGrantPermission", request, pb.AuthRoleGrantPermissionResponse)


async def _user(client: Client, name: str, role: str) -> None:
    request = pb.AuthUserAddRequest(name=name, options=pb.UserAddOptions(no_password=True))
    await _create(client, "UserAdd", request, pb.AuthUserAddResponse)
    grant = pb.AuthUserGrantRoleRequest(user=name, role=role)
    await client.auth("UserGrantRole", grant, pb.AuthUserGrantRoleResponse)


async def _create(client: Client, method: str, request: Message, reply: type[Message]) -> None:
    try:
        await client.auth(method, request, reply)
    except BadRequest as error:
        if "already exists" not in str(error):
            raise
