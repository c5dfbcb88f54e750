"""Configuration of the processes: one strict YAML file each, loaded once at the start.

An unknown or wrong field, or a file that is not there, is a ``ConfigError`` that names the
configuration file and the path of the field. Keys are camelCase in the file. One file serves all
nodes: what differs comes from the environment (``_NAMED``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, TypeVar

import msgspec

from bgp.learned.settings import BGPSettings
from bpf.privileges import UnknownUserError, User
from clustermesh.etcd.channel import EtcdAddress
from gateway.feed.settings import FeedTLS, FirewallSettings, firewall_problems, listen_problems
from gateway.ipfix.settings import IPFIXSettings
from gateway.settings import EgressSettings
from mesh.cni.settings import CNISettings
from mesh.core.model import OVERLAY_PORT
from mesh.core.section import Section
from mesh.core.strict import Wrong, convert, parse_yaml
from mesh.datapath.settings import DatapathSettings, Size, size_problems
from mesh.k8s.settings import Kubernetes
from mesh.masquerade.settings import MasqueradeSettings
from mesh.nodes.settings import PodCIDRPools
from mesh.pools.settings import Pool
from mesh.services.settings import ServicesSettings
from srv6.settings import SRv6Settings, pool_problems

C = TypeVar("C", "AgentConfig", "ControllerConfig", "SpeakerConfig", "FeedConfig")

#: Variables of the environment that stand in for a field that the file does not have.
_NAMED: Mapping[str, str] = {"node": "MESHGATE_NODE", "instance": "MESHGATE_INSTANCE"}
_ETCD = "MESHGATE_ETCD"
_POD_NETNS = frozenset({"cluster", "namespace", "name"})

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z", max_length=253)]
_ClusterName = Annotated[
    str, msgspec.Meta(pattern=r"^([a-z0-9][-a-z0-9]*)?[a-z0-9]\Z", max_length=32)
]
Mode = Literal["whole", "beside"]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
#: Ports of the overlay: beside another CNI that CNI may have its own device on 8472.
_DEFAULT_PORTS: dict[Mode, int] = {"whole": OVERLAY_PORT, "beside": 8473}
_Device = Annotated[str, msgspec.Meta(pattern=r"^[^/\s:]+\Z", max_length=15)]


def _endpoints() -> tuple[str, ...]:
    """Those of the environment: a chart does not know the address of its own etcd."""
    return tuple(filter(None, os.environ.get(_ETCD, "").split(",")))


class ConfigError(Exception):
    """A configuration that cannot be used; the text names file, path and mistake."""


class Cluster(Section, frozen=True):
    """Which cluster the process belongs to."""

    name: _ClusterName
    """Name in every etcd key and label: at most 32 of a-z, 0-9, ``-``; not ``default``."""
    id: Annotated[int, msgspec.Meta(ge=1, le=255)]
    """Top 8 of an identity's 24 bits; unique in the mesh, fixed for the cluster's life."""


class Etcd(Section, frozen=True):
    """The shared etcd."""

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=_endpoints
    )
    """``https://host:port`` (or ``http://`` without certificates), tried in turn. Absent:
    ``MESHGATE_ETCD`` of the environment, with a comma between them."""
    ca: Path | None = None
    """PEM file of the authority that signed etcd's certificate; absent only with ``http://``."""
    cert: Path | None = None
    """PEM file of our client certificate; its common name is our etcd user."""
    key: Path | None = None
    """PEM file of the certificate's private key."""
    quota_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """``--quota-backend-bytes`` of an etcd before 3.6, which does not tell it; 0: 2 GiB."""

    @property
    def address(self) -> EtcdAddress:
        """Where the store is, and with which certificates."""
        return EtcdAddress(self.endpoints, self.ca, self.cert, self.key)


class Hubble(Section, frozen=True):
    """A listener with mutual FeedTLS; without the section an agent serves its unix socket only."""

    listen: str
    """``address:port`` of the node, ``[address]:port`` for IPv6; 4244 by convention."""
    ca: Path
    """PEM file of the authority that signs the certificates of relays."""
    cert: Path
    """PEM file of our certificate, for the names ``*.<cluster>.hubble-grpc.cilium.io``.

    A relay asks for a node by its name, and for the list of nodes by the name ``hubble-peer``.
    """
    key: Path
    """PEM file of the certificate's private key. Changed files count for new connections."""

    @property
    def port(self) -> int:
        """The port, which is that of all agents."""
        return int(self.listen.rpartition(":")[2])

    def problems(self, path: str) -> Iterator[Wrong]:
        host, _, port = self.listen.rpartition(":")
        if not (port.isdecimal() and 0 < int(port) < 1 << 16 and _is_address(host)):
            yield Wrong(f"{path}.listen", f"expected address:port, got {self.listen!r}")
        for name in ("ca", "cert", "key"):
            file: Path = getattr(self, name)
            if not file.is_file():
                yield Wrong(f"{path}.{name}", f"no such file: {file}")


class AgentConfig(Section, frozen=True):
    """``meshgate agent``."""

    cluster: Cluster
    """The cluster of the node."""
    node: _Name
    """Name of the Node object that this host is; absent: ``MESHGATE_NODE`` of the environment."""
    etcd: Etcd
    """The shared etcd, as user ``<cluster>:node:<node>``."""
    bpffs: Path
    """Directory below a bpffs in which links and maps are pinned; one per host."""
    cgroup: Path
    """cgroup2 directory whose sockets get service translation; one per host."""
    uplink: _Device
    """Device towards the other nodes and the router; ``auto``: the one that has the InternalIP of
    the Node object."""
    socket: Path
    """Unix socket on which tables and flows are served."""
    state_dir: Path
    """Directory that outlives the process: last good manifests, attachments of CNI."""
    manifests: Path | None = None
    """Folder of the cluster's objects; need not exist yet. This or ``kubernetes`` is there."""
    kubernetes: Kubernetes | None = None
    """API server with the cluster's objects; of an object that is in both the folder's counts."""
    pod_netns: str = ""
    """Path of a pod's network namespace, with ``{cluster}``, ``{namespace}``, ``{name}``; an
    underscore stands between the latter two, so that no two pods have the same path. Absent: pods
    are connected when a container runtime asks for it (``cni``). Beside another CNI pods are found
    by their addresses, in /run/netns."""
    cni: CNISettings | None = None
    """How a container runtime asks; absent: it does not, and pods are found by ``podNetns``."""
    hosts: Literal["overlay", "native"] = "overlay"
    """How hosts and pods of other nodes reach each other: ``native`` where the fabric knows the pod
    CIDRs of the cluster, by BGP; else by the overlay, as far as the kernel has no route to them."""
    egress: EgressSettings = EgressSettings()
    """Port blocks."""
    mode: Mode = "whole"
    """``whole``: Meshgate is the CNI. ``beside``: another CNI has the pods, and Meshgate takes only
    what an egress policy, a global service or an address of another cluster covers."""
    overlay_port: _Port | None = None
    """UDP port on which this node takes the overlay, one for the cluster; absent: 8472, beside
    another CNI 8473."""
    datapath: DatapathSettings = DatapathSettings()
    """How programs are attached."""
    limits: tuple[Size, ...] = ()
    """Sizes of maps, where a node needs more or fewer entries than the defaults."""
    hubble: Hubble | None = None
    """Where a Hubble relay finds this agent; absent: on the unix socket only."""
    services: ServicesSettings = ServicesSettings()
    """Who translates the addresses of services."""
    masquerade: MasqueradeSettings | None = None
    """What pods send to the world carries the node's address; absent: their own. Beside another CNI
    that one decides: ``auto`` is off."""
    bgp: BGPSettings = BGPSettings()
    """Where the datapath finds routes that the speaker has learned."""
    srv6: SRv6Settings = SRv6Settings()
    """From where packets for SIDs may come."""

    @property
    def port(self) -> int:
        """UDP port on which this node takes the overlay."""
        return self.overlay_port or _DEFAULT_PORTS[self.mode]

    @property
    def masquerading(self) -> MasqueradeSettings | None:
        """``masquerade``, where the pods are ours."""
        return self.masquerade if self.mode == "whole" else None

    @property
    def private(self) -> tuple[Path, ...]:
        """Folders that nobody else may write to."""
        return (self.state_dir,)


class Pools(PodCIDRPools, frozen=True):
    """What the controller gives to nodes."""

    locators: tuple[Pool, ...] = ()
    """SRv6 locators (IPv6); empty: nodes have none."""

    def problems(self, path: str) -> Iterator[Wrong]:
        yield from pool_problems(f"{path}.locators", self.locators)
        yield from super().problems(path)


class ControllerConfig(Section, frozen=True):
    """``meshgate controller``."""

    cluster: Cluster
    """The cluster that is published."""
    instance: _Name
    """Name of this replica; a predecessor of the same name is replaced at once. Absent:
    ``MESHGATE_INSTANCE`` of the environment."""
    etcd: Etcd
    """The shared etcd, as user ``<cluster>:controller:<instance>``."""
    pools: Pools
    """What nodes get; the same in all replicas."""
    state_dir: Path
    """Directory that outlives the process: last good manifests, claims."""
    socket: Path
    """Unix socket on which tables are served."""
    manifests: Path | None = None
    """Folder of the cluster's objects; need not exist yet. This or ``kubernetes`` is there."""
    kubernetes: Kubernetes | None = None
    """API server with the cluster's objects; of an object that is in both the folder's counts."""
    egress: EgressSettings = EgressSettings()
    """Port blocks."""
    ipfix: IPFIXSettings | None = None
    """Who is told which node holds which port block; absent: nobody."""
    lease_seconds: Annotated[int, msgspec.Meta(ge=2, le=86400)] = 900
    """Life of what is published once the controller is away; 15 minutes outlast an upgrade."""
    mode: Mode = "whole"
    """As the agents of the cluster."""
    overlay_port: _Port | None = None
    """UDP port on which the nodes of the cluster take the overlay, which others read from the
    store; absent: 8472, beside another CNI 8473."""

    @property
    def port(self) -> int:
        """UDP port on which the nodes of the cluster take the overlay."""
        return self.overlay_port or _DEFAULT_PORTS[self.mode]

    @property
    def private(self) -> tuple[Path, ...]:
        """Folders that nobody else may write to."""
        return (self.state_dir,)


class SpeakerConfig(Section, frozen=True):
    """``meshgate speaker``."""

    cluster: Cluster
    """The cluster of the node."""
    node: _Name
    """Name of the Node object that this host is; absent: ``MESHGATE_NODE`` of the environment."""
    etcd: Etcd
    """The shared etcd, as user ``<cluster>:speaker:<node>``."""
    run_dir: Path
    """ExaBGP's configuration and log, the relay's socket, pid files, last good manifests."""
    socket: Path
    """Unix socket on which tables are served."""
    manifests: Path | None = None
    """Folder of the cluster's objects; need not exist yet. This or ``kubernetes`` is there."""
    kubernetes: Kubernetes | None = None
    """API server with the cluster's objects; of an object that is in both the folder's counts."""
    router_id: IPv4Address | None = msgspec.field(name="routerID", default=None)
    """BGP identifier, unique among the router's peers; absent: the first IPv4 InternalIP that the
    Node object had when the speaker started."""
    secrets_namespace: _Name = "meshgate"
    """Namespace of the Secret ``meshgate-bgp`` with passwords of BGP sessions, the only one that is
    read of an API server."""
    guard_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    """A step that withdraws a larger share of a router's routes, and at least ten, is held when it
    comes from what a list lacks; 100: none is."""
    exabgp_user: str = "meshgate-bgp"
    """User as which ExaBGP speaks with routers, by name or number; none of another program, as it
    gets what that user may. Its group is the user's."""
    bgp: BGPSettings = BGPSettings()
    """Where learned routes go; as the agent of the node."""
    bpffs: Path | None = None
    """The agent's directory of BPF maps: identities of learned networks go there, and the speaker
    reads there whether the way to a router stands. Absent: learned networks have no identities, and
    no session is closed that BFD has found down."""
    mode: Mode = "whole"
    """As the agents of the cluster; beside another CNI only egress takes learned routes."""

    @property
    def bgp_user(self) -> User:
        """``exabgp_user`` by numbers; raises ``UnknownUserError``."""
        return User.find(self.exabgp_user)

    @property
    def private(self) -> tuple[Path, ...]:
        """Folders that nobody else may write to."""
        return (self.run_dir,)


class FeedConfig(Section, frozen=True):
    """``meshgate feed``."""

    cluster: Cluster
    """The cluster whose egress addresses are listed."""
    instance: _Name
    """Name of this process, one of a cluster. Absent: ``MESHGATE_INSTANCE`` of the environment."""
    etcd: Etcd
    """The shared etcd, as user ``<cluster>:feed:<instance>``."""
    state_dir: Path
    """Directory that outlives the process: last good manifests, the epochs of all lists."""
    socket: Path
    """Unix socket on which tables are served."""
    listen: str
    """``address:port`` on which firewalls fetch, ``[address]:port`` for IPv6; ``[::]`` for all."""
    tls: FeedTLS
    """Certificates of the feed."""
    firewalls: tuple[FirewallSettings, ...] = ()
    """The firewalls that fetch; who is not here gets nothing."""
    manifests: Path | None = None
    """Folder of the cluster's objects; need not exist yet. This or ``kubernetes`` is there."""
    kubernetes: Kubernetes | None = None
    """API server with the cluster's objects; of an object that is in both the folder's counts."""

    @property
    def private(self) -> tuple[Path, ...]:
        """Folders that nobody else may write to."""
        return (self.state_dir,)


def load_agent(path: Path) -> AgentConfig:
    """The agent's configuration. Raises ``ConfigError``."""
    return _load(path, AgentConfig)


def load_controller(path: Path) -> ControllerConfig:
    """The controller's configuration. Raises ``ConfigError``."""
    return _load(path, ControllerConfig)


def load_speaker(path: Path) -> SpeakerConfig:
    """The speaker's configuration. Raises ``ConfigError``."""
    return _load(path, SpeakerConfig)


def load_feed(path: Path) -> FeedConfig:
    """The feed's configuration. Raises ``ConfigError``."""
    return _load(path, FeedConfig)


def _load(path: Path, kind: type[C]) -> C:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason}") from error
    try:
        config = convert(_completed(_single(parse_yaml(text)), kind, os.environ), kind)
        for problem in _problems(config):
            raise problem
    except Wrong as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _single(documents: list[object]) -> object:
    if len(documents) != 1:
        raise Wrong("", f"expected one YAML document, got {len(documents)}")
    return documents[0]


def _completed(document: object, kind: type[C], environ: Mapping[str, str]) -> object:
    """The document with the fields that the environment has in its place."""
    if not isinstance(document, dict):
        return document
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}
    found = dict(document)
    for field, variable in _NAMED.items():
        if field in fields and field not in found:
            if not environ.get(variable):
                raise Wrong(field, f"required, here or in the environment variable {variable}")
            found[field] = environ[variable]
    return found


def _problems(
    config: AgentConfig | ControllerConfig | SpeakerConfig | FeedConfig,
) -> Iterator[Wrong]:
    """What single fields cannot say."""
    if config.cluster.name == "default":
        yield Wrong("cluster.name", "'default' is reserved")
    if config.manifests is None and config.kubernetes is None:
        yield Wrong("manifests", "required, or else kubernetes: objects come from one of the two")
    yield from _etcd_problems(config.etcd)
    for field in msgspec.structs.fields(config):
        section = getattr(config, field.name)
        if isinstance(section, Section):
            yield from section.problems(field.encode_name)
    if isinstance(config, SpeakerConfig):
        yield from _user_problems(config)
    if isinstance(config, FeedConfig):
        yield from listen_problems("listen", config.listen)
        yield from firewall_problems("firewalls", config.firewalls)
    if isinstance(config, AgentConfig):
        yield from _agent_problems(config)


def _agent_problems(config: AgentConfig) -> Iterator[Wrong]:
    if config.pod_netns:
        yield from _netns_problems(config.pod_netns)
    elif config.cni is None and config.mode == "whole":
        yield Wrong("podNetns", "required without cni")
    if config.mode == "beside" and config.masquerade and config.masquerade.mode == "on":
        text = "on needs mode: whole; beside another CNI that one masquerades its pods"
        yield Wrong("masquerade.mode", text)
    yield from size_problems("limits", config.limits)


def _user_problems(config: SpeakerConfig) -> Iterator[Wrong]:
    try:
        user = config.bgp_user
    except UnknownUserError as error:
        text = f"{error}: make it as deploy/systemd/meshgate.sysusers does, or name another one"
        yield Wrong("exabgpUser", text)
        return
    if user.uid == 0 or user.gid == 0:
        yield Wrong("exabgpUser", "root must not speak with strangers: name a user of its own")


def _etcd_problems(etcd: Etcd) -> Iterator[Wrong]:
    if not etcd.endpoints:
        text = f"required, here or in the environment variable {_ETCD}"
        yield Wrong("etcd.endpoints", text)
    for number, endpoint in enumerate(etcd.endpoints):
        scheme, _, authority = endpoint.partition("://")
        host, _, port = authority.rpartition(":")
        valid = scheme in ("http", "https") and host and port.isdecimal() and int(port) < 1 << 16
        if not valid:
            text = f"expected https://host:port or http://host:port, got {endpoint!r}"
            yield Wrong(f"etcd.endpoints[{number}]", text)
    secure = any(endpoint.startswith("https:") for endpoint in etcd.endpoints)
    for name, file in (("ca", etcd.ca), ("cert", etcd.cert), ("key", etcd.key)):
        if file is None and secure:
            yield Wrong(f"etcd.{name}", "required with https://")
        if file is not None and not file.is_file():
            yield Wrong(f"etcd.{name}", f"no such file: {file}")


def _netns_problems(pattern: str) -> Iterator[Wrong]:
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        parts = [("", None, None, None)]
    fields = [field for _, field, _, _ in parts if field is not None]
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    if not fields or not plain or not set(fields) <= _POD_NETNS:
        text = f"expected only {{cluster}}, {{namespace}}, {{name}} in braces, got {pattern!r}"
        yield Wrong("podNetns", text)
    elif not {"namespace", "name"} <= set(fields):
        yield Wrong("podNetns", f"expected {{namespace}} and {{name}}, got {pattern!r}")
    elif shared := _shared_netns(parts):
        text = f"expected an underscore between {{namespace}} and {{name}}: {shared}"
        yield Wrong("podNetns", text)


def _shared_netns(parts: Sequence[tuple[str, str | None, str | None, str | None]]) -> str:
    """Whose pods would share a path: names have letters, digits, ``-`` and ``.``, and no ``_``."""
    known = ""
    for literal, field, _, _ in parts:
        if "_" in literal:
            known = ""
        if known and field in {"namespace", "name"} - {known}:
            return "pod c of namespace a-b and pod b-c of namespace a would be one"
        known = field if field in {"namespace", "name"} else known
    return ""


def _is_address(host: str) -> bool:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return (ip_address(bare).version == 6) == (bare != host)
    except ValueError:
        return False
