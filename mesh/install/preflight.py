"""``meshgate verify``: whether a node and a cluster will do, before anything is changed.

``look`` reads what a host is like, ``judged`` says what follows, one ``Check`` for each point with
its mend. ``judged`` is pure. What a node cannot know of itself is not judged: which sources the
fabric checks (docs/fabric.md).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.cni.conflist import BESIDE, ENDINGS, WHOLE

GOOD, NOTE, BAD = "good", "note", "bad"
#: tcx, and iterators as the datapath uses them.
KERNEL = (6, 6)
#: An IPv6 link has at least 1280 bytes (RFC 8200, section 5), and the overlay takes 50.
LEAST_MTU = 1330
#: The API server's: tokens that name the node of their pod.
KUBERNETES = (1, 32)
#: Certificates begin an hour before they are made (``clustermesh/certs.py``).
NOTED_SKEW_S, WORST_SKEW_S = 30.0, 3000.0
_OURS = (BESIDE, WHOLE)
_DEVICE = "mg_vxlan"


@dataclass(frozen=True, slots=True)
class Check:
    """One point: ``mend`` is what to do, empty where there is nothing to do."""

    name: str
    verdict: str
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How Meshgate is to run on the host."""

    mode: str = "whole"
    overlay_port: int = 8472
    uplink: str = "auto"
    bpffs: Path = Path("/sys/fs/bpf")
    cgroup: Path = Path("/sys/fs/cgroup")
    conf: Path = Path("/etc/cni/net.d")


@dataclass(frozen=True, slots=True)
class Lists:
    """A CNI list of the runtime's folder: file name, and types of its plugins."""

    file: str
    plugins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Host:
    """What a host is like. ``uplink``: empty where there is no default route."""

    kernel: str
    btf: bool
    tcx: bool
    bpffs: bool
    cgroup2: bool
    uplink: str
    mtu: int
    rp_filter: Mapping[str, int]
    sysctls: bool
    lists: tuple[Lists, ...]
    udp_ports: frozenset[int]
    devices: frozenset[str]


def look(wanted: Wanted, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Host:
    """Read it; nothing is changed, and what cannot be read is missing."""
    uplink = wanted.uplink if wanted.uplink != "auto" else _default_device(proc)
    conf = proc / "sys/net/ipv4/conf"
    filters = {name: _number(conf / name / "rp_filter") for name in ("all", uplink) if name}
    return Host(
        kernel=os.uname().release,
        btf=(sys / "kernel/btf/vmlinux").exists(),
        tcx=bool(re.search(r" tcx_prog_attach\b", _text(proc / "kallsyms"))),
        bpffs=_is_bpffs(proc, wanted.bpffs),
        cgroup2=(wanted.cgroup / "cgroup.procs").exists()
        and (wanted.cgroup / "cgroup.controllers").exists(),
        uplink=uplink,
        mtu=_number(sys / "class/net" / uplink / "mtu") if uplink else 0,
        rp_filter=filters,
        sysctls=os.access(conf / "all/forwarding", os.W_OK),
        lists=tuple(_lists(wanted.conf)),
        udp_ports=frozenset(_ports(proc, "udp") | _ports(proc, "udp6")),
        devices=frozenset(path.name for path in _entries(conf)),
    )


def judged(host: Host, wanted: Wanted) -> Iterator[Check]:
    """What of a host stands in the way of Meshgate."""
    yield _kernel(host)
    text = "the kernel describes its types" if host.btf else "/sys/kernel/btf/vmlinux is missing"
    mend = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; those of all distributions have it"
    yield _check("BTF", host.btf, text, mend)
    text = "programs attach by tcx" if host.tcx else "the kernel has no tcx"
    yield _check("tcx", host.tcx, text, "boot a kernel of 6.6 or newer with CONFIG_NET_XGRESS=y")
    if host.bpffs:
        yield Check("bpffs", GOOD, f"{wanted.bpffs} is mounted")
    else:
        text = f"{wanted.bpffs} is no bpffs; the agent's pod mounts it"
        mend = f"without a pod: mount -t bpf bpf {wanted.bpffs}"
        yield Check("bpffs", NOTE, text, mend)
    text = f"{wanted.cgroup} is {'' if host.cgroup2 else 'no '}cgroup2"
    mend = "mount cgroup2 and set host.cgroupRoot to its place, or boot with the unified hierarchy"
    yield _check("cgroup2", host.cgroup2, text, mend)
    yield _mtu(host)
    yield _rp_filter(host)
    text = (
        "sysctls of the network can be set" if host.sysctls else "/proc/sys/net is read-only here"
    )
    yield _check("forwarding", host.sysctls, text, "run as root of the host, or in the agent's pod")
    yield _cni(host, wanted)
    yield _port(host, wanted)


def _check(name: str, good: bool, text: str, mend: str) -> Check:  # noqa: FBT001 - the verdict
    return Check(name, GOOD, text) if good else Check(name, BAD, text, mend)


def _kernel(host: Host) -> Check:
    least = ".".join(map(str, KERNEL))
    good = _version(host.kernel) >= KERNEL
    text = host.kernel if good else f"{host.kernel} is older than {least}"
    return _check("kernel", good, text, f"boot a kernel of {least} or newer")


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _mtu(host: Host) -> Check:
    if not host.uplink:
        text = "no device has a default route, so none is the uplink"
        return Check("MTU", BAD, text, "set uplink to the device towards the other nodes")
    text = f"{host.uplink} has {host.mtu}, so pods have {max(host.mtu - 50, 1280)}"
    if host.mtu >= LEAST_MTU:
        return Check("MTU", GOOD, text)
    text = f"{host.uplink} has {host.mtu}; IPv6 of pods needs {LEAST_MTU}"
    return Check("MTU", BAD, text, f"ip link set {host.uplink} mtu {LEAST_MTU} or more")


def _rp_filter(host: Host) -> Check:
    strict = sorted(name for name, value in host.rp_filter.items() if value == 1)
    if not strict:
        return Check("rp_filter", GOOD, "no strict check of sources")
    names = " and ".join(f"net.ipv4.conf.{name}.rp_filter" for name in strict)
    text = f"{names} is 1: answers that come another way than packets go are dropped"
    return Check("rp_filter", NOTE, text, f"where paths differ: sysctl -w {names}=2")


def _cni(host: Host, wanted: Wanted) -> Check:
    others = [one for one in host.lists if one.file not in _OURS]
    if wanted.mode == "whole":
        if not others:
            return Check("CNI", GOOD, f"no other CNI in {wanted.conf}")
        text = f"{others[0].file} is another CNI's ({', '.join(others[0].plugins)})"
        return Check("CNI", BAD, text, "take that CNI away first, or use mode: beside")
    if not others:
        text = f"no CNI in {wanted.conf} to be beside"
        return Check("CNI", BAD, text, "install a CNI first, or use mode: whole")
    return Check("CNI", GOOD, f"beside {others[0].file} ({', '.join(others[0].plugins)})")


def _port(host: Host, wanted: Wanted) -> Check:
    port = wanted.overlay_port
    if port not in host.udp_ports or _DEVICE in host.devices:
        return Check("ports", GOOD, f"UDP port {port} is free for the overlay")
    text = f"UDP port {port} belongs to another program or device"
    return Check("ports", BAD, text, f"ss -ulnp 'sport = :{port}' names it; or set overlayPort")


# The cluster


def of_cluster(version: str, skew_s: float | None, denied: Sequence[str]) -> Iterator[Check]:
    """What of a cluster stands in the way: its version, its clock, and what we may not do there."""
    least = ".".join(map(str, KUBERNETES))
    good = _version(version) >= KUBERNETES
    text = f"Kubernetes {version}" if good else f"Kubernetes {version} is older than {least}"
    yield _check("API server", good, text, f"upgrade the cluster to {least} or newer")
    yield _clock(skew_s)
    text = (
        "everything of the chart may be made" if not denied else f"not allowed: {', '.join(denied)}"
    )
    mend = "use an account with the role cluster-admin for the install"
    yield _check("RBAC", not denied, text, mend)


def _clock(skew_s: float | None) -> Check:
    if skew_s is None:
        return Check("clock", NOTE, "the API server told no time", "")
    text = f"differs by {abs(skew_s):.0f} s from the API server's"
    if abs(skew_s) > WORST_SKEW_S:
        text += "; certificates would count as not valid yet, or as ended"
        return Check("clock", BAD, text, "run an NTP client on every node")
    if abs(skew_s) > NOTED_SKEW_S:
        return Check("clock", NOTE, text, "run an NTP client on every node")
    return Check("clock", GOOD, text)


def exclusive(found: Any) -> Iterator[Check]:
    """Whether Cilium's ConfigMap, where there is one, lets another list stand beside its own."""
    if not found:
        return
    if (found.get("data") or {}).get("cni-exclusive", "true") == "false":
        yield Check("Cilium", GOOD, "leaves other CNI lists alone")
        return
    text = "Cilium takes every other CNI list away (cni.exclusive)"
    mend = "helm upgrade cilium … --set cni.exclusive=false, and restart its agents"
    yield Check("Cilium", BAD, text, mend)


# Reading


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_bpffs(proc: Path, place: Path) -> bool:
    """Source: proc(5), ``mountinfo``: the mount point is field 5, the type follows the dash."""
    for line in _text(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4:5] == [str(place)] and after.split()[:1] == ["bpf"]:
            return True
    return False


def _default_device(proc: Path) -> str:
    """Source: ``/proc/net/route``: device, destination and, in field 8, mask in hexadecimal."""
    for line in _text(proc / "net/route").splitlines()[1:]:
        fields = line.split()
        if fields[1:2] == ["0" * 8] and fields[7:8] == ["0" * 8]:
            return fields[0]
    return ""


def _ports(proc: Path, protocol: str) -> set[int]:
    """Source: ``/proc/net/udp``: the local address and port are field 2, in hexadecimal."""
    lines = _text(proc / "net" / protocol).splitlines()[1:]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.strip()}


def _lists(folder: Path) -> Iterator[Lists]:
    """Source: libcni's ``ConfFiles``: these endings, by name."""
    for path in _entries(folder):
        if path.suffix in ENDINGS:
            with suppress(ValueError, AttributeError, TypeError):
                document = json.loads(_text(path))
                plugins = document.get("plugins", [document])
                yield Lists(path.name, tuple(str(one.get("type")) for one in plugins))
