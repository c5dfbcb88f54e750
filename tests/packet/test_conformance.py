"""The conformance runner: a part of its cases here, all of them in the soak."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.rows import Binding
from mesh.lab.conformance import matrix
from mesh.lab.conformance.case import Level
from mesh.lab.conformance.judge import with_stacks
from mesh.lab.conformance.matrix import FAIL, FAMILIES, NONE, PASS, RFCS
from mesh.lab.conformance.meshgate import GATE_MACS, Meshgate
from mesh.lab.conformance.packets import UDP, Packet
from mesh.lab.conformance.shared import fragments, joined
from mesh.lab.conformance.verbs import measure
from mesh.lab.conformance.wire import Wire

SOAK = bool(os.environ.get("MESHGATE_SOAK"))
#: Requirements that the normal run looks at: each takes less than a second.
SHORT = {
    4787: ("REQ-3", "REQ-5", "REQ-6", "REQ-12", "REQ-12a"),
    5382: ("REQ-2", "REQ-2a", "REQ-5"),
    5508: ("REQ-2", "REQ-3b", "REQ-4", "REQ-5", "REQ-10"),
    7857: ("section 2.2",),
}


@pytest.fixture(scope="module")
def meshgate() -> Iterator[Meshgate]:
    with ExitStack() as stack:
        yield Meshgate(stack)


@pytest.fixture(scope="module")
def two_gateways() -> Iterator[Meshgate]:
    with ExitStack() as stack:
        yield Meshgate(stack, gateways=2)


@pytest.mark.parametrize(
    "case",
    [case for rfc, names in SHORT.items() for case in RFCS[rfc] if case.requirement in names],
    ids=lambda case: f"{case.id}: {case.how}",
)
def test_a_requirement_is_met(meshgate: Meshgate, case: matrix.Case) -> None:
    for family in FAMILIES:
        result = matrix.judge(case, Wire(meshgate, family))
        assert result.verdict != FAIL, (family, result.remark)


def test_requirements_that_a_policy_chooses_are_shown_as_they_are(meshgate: Meshgate) -> None:
    mapping = RFCS[4787][0]
    result = matrix.judge(mapping, Wire(meshgate, 4))
    assert result == matrix.Result(FAIL, "address-and-port-dependent mapping")


@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "out of order"])
def test_pieces_that_come_to_two_gateways_make_one_datagram(
    two_gateways: Meshgate, family: int, *, backwards: bool
) -> None:
    wire, bed = Wire(two_gateways, family), two_gateways
    port, to = wire.port(), (wire.a, wire.port())
    seen = wire.udp(port, to)
    for ident in range(1, 9):
        body = wire.word(3000)
        l4 = UDP(to[1], seen.port)
        pieces = fragments(Packet(wire.a, seen.address, l4, body, df=False, id=ident))
        for number, piece in enumerate(reversed(pieces) if backwards else pieces):
            bed.server.towards = GATE_MACS[number % 2]
            bed.server.send(piece)
            time.sleep(0.02)  # the two ways are equally long
        assert joined(bed.pod, body), ident
    bed.server.towards = GATE_MACS[0]


if SOAK:  # some minutes, and coturn comes from Debian

    @pytest.mark.parametrize(
        ("binding", "mapping", "filtering"),
        [
            (Binding.NONE, "Address and Port Dependent", "Address and Port Dependent"),
            (Binding.FILTERED, "Endpoint Independent", "Address Dependent"),
            (Binding.OPEN, "Endpoint Independent", "Endpoint Independent"),
        ],
    )
    def test_an_independent_judge_sees_what_the_policy_says(
        family: int, binding: Binding, mapping: str, filtering: str
    ) -> None:
        with ExitStack() as stack:
            bed = Meshgate(stack)
            judge = with_stacks(bed)
            bed.mode(binding)
            with judge.server(family):
                assert judge.behaviour(family) == (mapping, filtering)

    def test_no_case_is_worse_than_nftables() -> None:
        found = measure([case for cases in RFCS.values() for case in cases])
        assert len(found) >= 45
        ours, _, theirs = found[0].results
        assert [row.case.id for row in found if row.worse(ours, theirs)] == []
        unmet = [
            row.case.id
            for row in found
            for result in row.results[ours].values()
            if row.case.level is Level.MUST and result.verdict not in (PASS, NONE)
        ]
        assert unmet == []
