"""Which VRFs are used, and what is wrong with the others. Pure, but for the table."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.core.model import Finding
from mesh.core.reconcile import Loop
from mesh.core.table import Table
from mesh.objects.tables import Objects
from srv6.vrf.findings import DISTINGUISHER_TWICE, TARGET_TWICE
from srv6.vrf.kind import VRF, VRFS


class AcceptedVRFs:
    """``table`` has the VRFs that are used; agent, controller and speaker have one."""

    def __init__(self, objects: Objects) -> None:
        self.table: Table[str, VRF] = Table("VRF in use")
        self._objects = objects[VRFS]
        self._findings: list[Finding] = []

    def derive(self, loop: Loop) -> None:
        """Add the derivation: VRFs are few."""
        loop.derive([self._objects], self._judge)

    def findings(self) -> Iterable[Finding]:
        """Why the others are not used."""
        return self._findings

    def _judge(self) -> None:
        rows, self._findings = accepted(self._objects.rows.values())
        self.table.replace(rows)


def by_precedence(vrfs: Iterable[VRF]) -> list[VRF]:
    """Oldest first, then by name; one without a creation time counts as new."""
    return sorted(vrfs, key=lambda one: (not one.created, one.created, one.name))


def accepted(vrfs: Iterable[VRF]) -> tuple[dict[str, VRF], list[Finding]]:
    """The VRFs that share neither distinguisher nor route target with an older one."""
    rows: dict[str, VRF] = {}
    findings: list[Finding] = []
    owner: dict[tuple[str, str], VRF] = {}
    for vrf in by_precedence(vrfs):
        marks = [("rd", vrf.rd)] if vrf.rd else []
        marks += [("rt", target) for target in dict.fromkeys((*vrf.imports, *vrf.exports))]
        clashes = [(mark, owner[mark]) for mark in marks if mark in owner]
        if clashes:
            findings += [_clash(vrf, kind, value, other) for (kind, value), other in clashes]
            continue
        owner.update(dict.fromkeys(marks, vrf))
        rows[vrf.name] = vrf
    return rows, findings


def _clash(vrf: VRF, kind: str, value: str, other: VRF) -> Finding:
    about = (f"vrf/{vrf.name}", f"vrf/{other.name}")
    tail = f"{value} belongs to the older VRF {other.name} ({other.origin})"
    if kind == "rd":
        field = "spec.routeDistinguisher"
        return Finding(DISTINGUISHER_TWICE, vrf.origin, field, f"distinguisher {tail}", about)
    field = f"spec.import {value}" if value in vrf.imports else f"spec.export {value}"
    return Finding(TARGET_TWICE, vrf.origin, field, f"route target {tail}", about)
