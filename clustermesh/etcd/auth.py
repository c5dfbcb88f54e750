"""Users, roles and grants of the shared etcd: a node speaks for itself, a cluster for its subtree.

Users are certificate CNs without password: ``<cluster>:node:<node>`` for an agent,
``<cluster>:speaker:<node>``, ``<cluster>:controller:<instance>``, ``<cluster>:feed:<instance>``
(D63). Each has a role of its own
name, so that one of them can be taken away while all others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from google.protobuf.message import Message

from clustermesh.etcd import etcd_pb2 as pb
from clustermesh.etcd.client import Client
from clustermesh.etcd.errors import BadRequest
from clustermesh.etcd.names import key_bytes
from clustermesh.etcd.requests import prefix_end

NODE, SPEAKER, CONTROLLER, FEED = "node", "speaker", "controller", "feed"
#: Below it stands what the speaker of each node says of the routes that it has learned.
LEARNED = "learned/"
#: Below it stands which runs of ports each node has lent (``gateway/history.py``), and how many
#: blocks of ports it uses.
LENT, DEMAND = "lent/", "demand/"
#: Below it stands which generations of objects the agent of each node holds.
PROGRAMMED = "programmed/"
#: Not a cluster's own: every controller puts it (``clustermesh/store/heartbeat.py``).
_HEARTBEAT = "cilium/.heartbeat"
#: X.520 allows no longer common name; hexadecimal digits that stand for the rest of a longer one.
_LONGEST, _DIGITS = 64, 16


@dataclass(frozen=True, slots=True, order=True)
class EtcdUser:
    """A process of a cluster; ``name`` is its node, or the instance of a controller or feed."""

    cluster: str
    role: str
    name: str

    @property
    def cn(self) -> str:
        """The user's name in etcd, which is the common name of its certificate.

        A longer name than a certificate may hold is cut; a tilde, which no name of an object has,
        and a hash of the whole name follow.
        """
        whole = f"{self.cluster}:{self.role}:{self.name}"
        if len(whole) <= _LONGEST:
            return whole
        return f"{whole[: _LONGEST - _DIGITS - 1]}~{sha256(whole.encode()).hexdigest()[:_DIGITS]}"


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


async def bootstrap_auth(
    client: Client, users: Iterable[EtcdUser], published: Sequence[str]
) -> None:
    """Create users, roles and grants, and switch authentication on.

    ``published`` are the prefixes of the nouns that clusters publish. May be repeated, then as
    ``root``.
    """
    await _role(client, "root", ())
    await _user(client, "root", "root")
    for user in users:
        await add_user(client, user.cn, user_grants(user, published))
    await client.auth("AuthEnable", pb.AuthEnableRequest(), pb.AuthEnableResponse)


def user_grants(user: EtcdUser, published: Sequence[str]) -> Sequence[Grant]:
    """The rights of a process in etcd."""
    own = f"meshgate/v1/{user.cluster}/"
    mine = Grant(f"{own}status/{user.role}/{user.name}/", write=True)
    if user.role == SPEAKER:
        return (Grant(own), Grant(f"{own}{LEARNED}{user.name}/", write=True), mine)
    if user.role == FEED:
        return (Grant(own), Grant(f"{own}feed/", write=True), mine)
    reads = (Grant("cilium/"), Grant("meshgate/v1/"))
    if user.role == NODE:
        said = [f"{own}{place}{user.name}" for place in ("pod/", LENT)]
        keys = [f"{prefix}/" for prefix in said]
        keys += [f"{own}{place}{user.name}" for place in (DEMAND, PROGRAMMED)]
        return (*reads, *(Grant(key, write=True) for key in keys), mine)
    copies = [f"{prefix}{user.cluster}/" for prefix in published]
    writes = [own, f"cilium/synced/{user.cluster}/", *copies]
    # Exact: as a prefix it would let cluster `east` write `east2`.
    writes += [f"cilium/cluster-config/{user.cluster}", _HEARTBEAT]
    return (*reads, *(Grant(key, write=True) for key in writes))


async def add_user(client: Client, name: str, grants: Sequence[Grant]) -> None:
    """One user with a role of its own; may be repeated."""
    await _role(client, name, grants)
    await _user(client, name, name)


async def remove_user(client: Client, name: str) -> None:
    """Take a user and its role away; one that is not there is no error.

    Every call and every new watch of the user is refused from then on. A watch that is open goes
    on: etcd judges a watch when it is made (D64).
    """
    user, role = pb.AuthUserDeleteRequest(name=name), pb.AuthRoleDeleteRequest(role=name)
    await _unless(client, "UserDelete", user, pb.AuthUserDeleteResponse, "user name not found")
    await _unless(client, "RoleDelete", role, pb.AuthRoleDeleteResponse, "role name not found")


async def _role(client: Client, name: str, grants: Sequence[Grant]) -> None:
    request = pb.AuthRoleAddRequest(name=name)
    await _unless(client, "RoleAdd", request, pb.AuthRoleAddResponse, "already exists")
    for grant in grants:
        permission = pb.Permission(
            permType=pb.Permission.READWRITE if grant.write else pb.Permission.READ,
            key=key_bytes(grant.key),
            range_end=grant.end,
        )
        given = pb.AuthRoleGrantPermissionRequest(name=name, perm=permission)
        await client.auth("RoleGrantPermission", given, pb.AuthRoleGrantPermissionResponse)


async def _user(client: Client, name: str, role: str) -> None:
    request = pb.AuthUserAddRequest(name=name, options=pb.UserAddOptions(no_password=True))
    await _unless(client, "UserAdd", request, pb.AuthUserAddResponse, "already exists")
    grant = pb.AuthUserGrantRoleRequest(user=name, role=role)
    await client.auth("UserGrantRole", grant, pb.AuthUserGrantRoleResponse)


async def _unless(
    client: Client, method: str, request: Message, reply: type[Message], done: str
) -> None:
    """One call; an answer with the words ``done`` says that nothing was left to do."""
    try:
        await client.auth(method, request, reply)
    except BadRequest as error:
        if done not in str(error):
            raise
