"""``meshgate egress conformance``: the matrix of the NAT RFCs, measured on this machine."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Callable, Sequence

    from mesh.lab.conformance.bed import Bed
    from mesh.lab.conformance.case import Case
    from mesh.lab.conformance.matrix import Row

    Subparsers = _SubParsersAction[argparse.ArgumentParser]
    Column = tuple[str, Bed, Callable[[], None]]

_RFCS = "4787,5382,5508,6888,7857"


def add(verbs: Subparsers) -> None:
    """Register the verb."""
    text = "run the cases of the NAT RFCs against Meshgate and nftables, print the matrix"
    parser = verbs.add_parser("conformance", help=text, description=f"{text}. It needs root.")
    parser.add_argument("--rfc", default=_RFCS, metavar="N,N…", help=f"by default {_RFCS}")
    parser.add_argument("--quick", action="store_true", help="without cases that wait for seconds")
    parser.add_argument("--only", default="", metavar="REQUIREMENT", help="cases of this one")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from mesh.lab.conformance.matrix import FAIL
    from mesh.lab.places import LabError

    try:
        found = measure(_cases(options))
    except (LabError, OSError) as error:
        print(f"meshgate egress conformance: {error}", file=sys.stderr)
        return 1
    _print(found, options.output)
    ours = next(iter(found[0].results))
    return int(
        any(
            result.verdict == FAIL and row.case.level == "MUST"
            for row in found
            for result in row.results[ours].values()
        )
    )


def _cases(options: argparse.Namespace) -> list[Case]:
    from mesh.lab.conformance.matrix import RFCS
    from mesh.lab.places import LabError

    wanted = options.rfc.split(",")
    unknown = [name for name in wanted if not name.isdecimal() or int(name) not in RFCS]
    if unknown:
        raise LabError(f"--rfc: {', '.join(unknown)}: expected of {_RFCS}")
    cases = [case for name in wanted for case in RFCS[int(name)]]
    if options.only:
        cases = [case for case in cases if case.requirement == options.only]
    cases = [case for case in cases if not (options.quick and case.slow)]
    if not cases:
        raise LabError(f"--only: {options.only}: no case of this requirement")
    return cases


def measure(cases: Sequence[Case]) -> list[Row]:
    """Every case in the three columns. Raises LabError and OSError."""
    from gateway.rows import Binding
    from mesh.lab.conformance import matrix
    from mesh.lab.conformance.meshgate import Meshgate
    from mesh.lab.conformance.nftables import Nftables

    with ExitStack() as stack:
        ours, theirs = Meshgate(stack), Nftables(stack)
        columns: list[Column] = [
            ("endpoint-independent", ours, lambda: ours.mode(Binding.FILTERED)),
            ("endpoint-dependent", ours, ours.mode),
            ("nftables", theirs, lambda: None),
        ]
        return list(matrix.rows(cases, columns))


def _print(found: Sequence[Row], output: str) -> None:
    import json

    from mesh.lab.conformance import matrix

    if output == "json":
        print(json.dumps(matrix.tree(found), indent=2))
        return
    for line in matrix.markdown(found):
        print(line)
