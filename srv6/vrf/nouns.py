"""VRFs and SIDs as ``meshgate vrf list`` and ``meshgate sid list`` print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mesh.core.noun import Problem, Row, Shown, noun
from srv6.vrf.findings import UNEXPLAINED

if TYPE_CHECKING:
    from mesh.core.model import FurtherAddresses, PodKey
    from srv6.sids import SID
    from srv6.vrf.imports import Imported, ImportKey
    from srv6.vrf.kind import VRF
    from srv6.vrf.members import VRFMember


def _title(vrfs: Sequence[Row]) -> str:
    return f"VRFs: {len(vrfs)}"


def _problem(vrf: Row) -> Problem | None:
    if vrf["number"]:
        return None
    name = vrf["name"]
    text = "it has no number: its pods send nothing to its destinations"
    return Problem(UNEXPLAINED, f"VRF/{name}", "number", text, (f"vrf/{name}",))


def _counted(vrf: Row) -> Row:
    """In a table: how many SIDs, and the routes in short."""
    routes = vrf["routes"]
    text = "/".join(str(routes[name]) for name in ROUTES) if isinstance(routes, dict) else routes
    sids = vrf["sids"]
    return vrf | {"sids": len(sids) if isinstance(sids, list) else sids, "routes": text}


def _in_short(row: Row, _: Callable[[object], str]) -> Row:
    """In a table: the SIDs without what nearly all have."""
    sids = row["sids"]
    if not isinstance(sids, list):
        return row
    resting = {True: "", False: " (resting)"}
    texts = [f"{one['node']} {one['sid']}{resting[one['state'] == 'active']}" for one in sids]
    return row | {"sids": texts}


def _of_all_nodes(these: Row, those: Row) -> Row:
    """Routes of a VRF: each node announces its own, and what routers announce comes to each."""
    summed = {"exported": these["exported"] + those["exported"]}
    return {name: max(these[name], those[name]) for name in ROUTES} | summed


#: Counts of routes in a row: how many come in, how many go out, how many that came are not used.
ROUTES = ("imported", "exported", "unusable")
_COLUMNS = ("name", "number", "rd", "import", "export", "pods", "sids", "routes")
VRF_NOUN = noun(
    "vrf",
    "VRFs with their pods, SIDs and routes",
    " ".join(_COLUMNS),
    "cluster name",
    Shown(_title, _COLUMNS, _problem, _counted),
    noted=_in_short,
    joined={"routes": _of_all_nodes},
    verbs="srv6.vrf.verbs",
)
#: What ``meshgate vrf ping`` asks agents for.
TENANT = noun(
    "tenant",
    "pods of VRFs, and their addresses there",
    "cluster namespace name vrf addresses",
    "cluster namespace name",
)
SID_NOUN = noun(
    "sid", "SIDs of nodes, and the VRFs behind them", "sid node behaviour vrf state", "sid"
)


def sid_rows(sids: Iterable[SID]) -> list[Row]:
    """``sid list``."""
    return [
        {
            "sid": str(one.sid),
            "node": one.node,
            "behaviour": one.behaviour,
            "vrf": one.vrf,
            "state": str(one.state),
        }
        for one in sorted(sids)
    ]


def tenant_rows(
    vrfs: Mapping[PodKey, str], further: Mapping[PodKey, FurtherAddresses]
) -> list[Row]:
    """The pods of this node that are in a VRF."""
    return [
        {
            "cluster": key.cluster,
            "namespace": key.namespace,
            "name": key.name,
            "vrf": vrf,
            "addresses": [str(a) for a in further[key].addresses] if key in further else [],
        }
        for key, vrf in sorted(vrfs.items())
    ]


def vrf_rows(
    cluster: str,
    vrfs: Mapping[str, VRF],
    numbers: Mapping[str, int],
    sids: Iterable[SID],
    members: Mapping[PodKey, VRFMember],
) -> list[Row]:
    """``vrf list``; counts of routes come from the speakers."""
    by_vrf: dict[str, list[SID]] = {}
    for sid in sids:
        by_vrf.setdefault(sid.vrf, []).append(sid)
    pods: dict[str, int] = {}
    for member in members.values():
        pods[member.vrf] = pods.get(member.vrf, 0) + 1
    return [
        vrf_row(cluster, vrf)
        | {
            "number": numbers.get(name),
            "pods": pods.get(name, 0),
            "sids": [
                {key: row[key] for key in ("node", "sid", "behaviour", "state")}
                for row in sid_rows(by_vrf.get(name, ()))
            ],
        }
        for name, vrf in sorted(vrfs.items())
    ]


def imported_row(node: str, key: ImportKey, row: Imported) -> Row:
    """A route of a router in a VRF, as ``meshgate route list`` prints it."""
    return {
        "node": node,
        "vrf": key.vrf,
        "peer": key.peer,
        "prefix": key.prefix,
        "nextHop": row.next_hop,
        "sid": row.sid or "",
        "communities": row.communities,
        "labels": (),
        "announced": False,
        "used": row.used,
        "reason": row.reason,
        "origin": "peer",
    }


def vrf_row(cluster: str, vrf: VRF) -> Row:
    """What the object says; two clusters may have a VRF of one name."""
    return {
        "cluster": cluster,
        "name": vrf.name,
        "rd": vrf.rd or "auto",
        "import": list(vrf.imports),
        "export": list(vrf.exports),
    }
