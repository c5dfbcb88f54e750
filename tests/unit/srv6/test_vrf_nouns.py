"""VRFs as the command line prints them, from the rows of several processes."""

from __future__ import annotations

from pathlib import Path

from mesh.core.noun import Row
from mesh.observe.listing import merge
from mesh.observe.tables import Answer, Process
from srv6.vrf import nouns

ASKED: Row = {"cluster": "east", "name": "blue", "rd": "auto", "import": [], "export": []}


def answer(role: str, host: str, row: Row) -> Answer:
    """What one process says of VRF blue."""
    process = Process(host, role, Path("/nowhere"))
    return Answer(process, {"cluster": "east"}, {"vrf": [ASKED | row]})


def routes(imported: int, exported: int, unusable: int) -> Row:
    return {"routes": dict(zip(nouns.ROUTES, (imported, exported, unusable), strict=True))}


def test_routes_of_a_vrf_are_those_of_all_nodes() -> None:
    """Each node announces its own; what routers announce comes to each, as far as it has them."""
    known = {"number": 7, "pods": 2, "sids": []}
    [row] = merge(
        nouns.VRF_NOUN,
        [
            answer("controller", "c1", known),
            answer("speaker", "n1", routes(0, 2, 0)),
            answer("speaker", "n2", routes(4, 2, 1)),
        ],
    )
    assert row["routes"] == {"imported": 4, "exported": 4, "unusable": 1}
    assert (row["number"], row["pods"]) == (7, 2)


def test_a_table_has_sids_in_short() -> None:
    sid = {"node": "n1", "sid": "fcbb:bb01:1:e000::", "behaviour": "End.DT46", "state": "active"}
    row = {"sids": [sid, sid | {"node": "n2", "state": "resting"}]}
    assert nouns.VRF_NOUN.noted is not None
    shown = nouns.VRF_NOUN.noted(row, lambda _: "")
    assert shown["sids"] == ["n1 fcbb:bb01:1:e000::", "n2 fcbb:bb01:1:e000:: (resting)"]
