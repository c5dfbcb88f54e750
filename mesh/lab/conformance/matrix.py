"""The matrix: every case in every column, in both families; printed as Markdown or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from mesh.lab.conformance import carrier, icmp, tcp, udp, update
from mesh.lab.conformance.bed import Bed
from mesh.lab.conformance.case import Case
from mesh.lab.conformance.wire import Failed, Impossible, Wire

RFCS = {
    cases.rfc: cases.all
    for cases in (udp.CASES, tcp.CASES, icmp.CASES, carrier.CASES, update.CASES)
}
PASS, FAIL, NONE = "pass", "FAIL", "n/a"
FAMILIES = (4, 6)


@dataclass(frozen=True, slots=True)
class Result:
    """What a case found in one column and family: a verdict and a remark."""

    verdict: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A case with its results by column."""

    case: Case
    results: dict[str, dict[int, Result]]

    def worse(self, ours: str, theirs: str) -> bool:
        """Whether a column fails where another one passes."""
        return any(
            self.results[ours][family].verdict == FAIL
            and self.results[theirs][family].verdict == PASS
            for family in self.results[ours]
        )


def judge(case: Case, wire: Wire) -> Result:
    """Run a case once."""
    wire.bed.settle()
    try:
        return Result(PASS, case.run(wire) or "")
    except Failed as failed:
        return Result(FAIL, str(failed))
    except Impossible as why:
        return Result(NONE, str(why))


def rows(
    cases: Iterable[Case],
    beds: Sequence[tuple[str, Bed, Callable[[], None]]],
    families: Sequence[int] = FAMILIES,
) -> Iterator[Row]:
    """Each case in each column; a column has a heading, a bed, and what makes the bed ready."""
    wires = {(name, family): Wire(bed, family) for name, bed, _ in beds for family in families}
    for case in cases:
        results: dict[str, dict[int, Result]] = {}
        for name, _, ready in beds:
            ready()
            results[name] = {family: judge(case, wires[name, family]) for family in families}
        yield Row(case, results)


def cell(results: dict[int, Result]) -> str:
    """A column of a row: one verdict for both families where they agree."""
    if len({result.verdict for result in results.values()}) == 1:
        remarks = list(dict.fromkeys(r.remark for r in results.values() if r.remark))
        verdict = next(iter(results.values())).verdict
        return _said(verdict, "; ".join(remarks[:1]))
    return "; ".join(f"IPv{family}: {_said(r.verdict, r.remark)}" for family, r in results.items())


def _said(verdict: str, remark: str) -> str:
    shown = {PASS: "pass", FAIL: "**no**", NONE: "n/a"}[verdict]
    return f"{shown}: {remark}" if remark else shown


def markdown(found: Sequence[Row]) -> Iterator[str]:
    """Lines of the matrix."""
    columns = list(found[0].results)
    yield f"| RFC | requirement | level | case | {' | '.join(columns)} |"
    yield "|" + "---|" * (4 + len(columns))
    for row in found:
        case = row.case
        cells = " | ".join(cell(row.results[column]) for column in columns)
        yield f"| {case.rfc} | {case.requirement} | {case.level} | {case.how} | {cells} |"
    yield ""
    yield from summary(found)


def summary(found: Sequence[Row]) -> Iterator[str]:
    """How many cases pass in each column, and where a column is worse than the last one."""
    columns = list(found[0].results)
    for column in columns:
        verdicts = [r.verdict for row in found for r in row.results[column].values()]
        counts = {verdict: verdicts.count(verdict) for verdict in (PASS, FAIL, NONE)}
        yield (
            f"- {column}: {counts[PASS]} pass, {counts[FAIL]} do not, "
            f"{counts[NONE]} cannot be judged (each family counts)"
        )


def tree(found: Iterable[Row]) -> list[dict[str, object]]:
    """Rows as JSON has them."""
    return [
        {
            "rfc": row.case.rfc,
            "requirement": row.case.requirement,
            "level": str(row.case.level),
            "case": row.case.how,
            "results": {
                column: {f"ipv{family}": asdict(r) for family, r in results.items()}
                for column, results in row.results.items()
            },
        }
        for row in found
    ]
