"""What a run of upstream's suite came to, judged by the committed list of its specs.

A list in ``specs/`` names the specs of a suite, one a line. ``specs/expected-skips.txt`` names
those that may be skipped, as ``<suite>: <spec>``, with ``#`` for comments. A spec of the list that
did not run, and a skip without its line, fail the suite.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SPECS = Path(__file__).with_name("specs")
EXPECTED_SKIPS = SPECS / "expected-skips.txt"
_IT = "[It] "
PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"


@dataclass(frozen=True, slots=True)
class Result:
    """One suite: what became of each of its specs, and the skips that nobody expected."""

    suite: str
    outcomes: Mapping[str, str]
    unexpected: Sequence[str] = ()

    @property
    def failed(self) -> list[str]:
        """The specs that failed or did not run."""
        return [name for name, found in self.outcomes.items() if found in (FAILED, NOT_RUN)]

    @property
    def is_good(self) -> bool:
        """Whether every spec passed or may be skipped."""
        return not self.failed and not self.unexpected

    def lines(self) -> list[str]:
        """What is printed: the counts, then each name that failed."""
        counts = {word: list(self.outcomes.values()).count(word) for word in (PASSED, SKIPPED)}
        passed, skipped = counts[PASSED], counts[SKIPPED]
        return [
            f"{self.suite} {passed} passed, {len(self.failed)} failed, {skipped} skipped",
            *(f"    {self.outcomes[name]}: {name}" for name in self.failed),
            *(f"    unexpected skip: {name}" for name in self.unexpected),
        ]


def specs(suite: str) -> list[str]:
    """The names of a suite's specs."""
    return _entries(SPECS / f"{suite}.txt")


def focus(names: Sequence[str]) -> str:
    """The regular expression (RE2) that selects specs by their whole names."""
    return "|".join(re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", name) + "$" for name in names)


def judged(suite: str, names: Sequence[str], junit: str, expected: Sequence[str]) -> Result:
    """The result of a suite from the text of Ginkgo's JUnit report.

    Raises xml.etree.ElementTree.ParseError for a report that is none.
    """
    found = outcomes(junit)
    rows = {name: found.get(name, NOT_RUN) for name in names}
    allowed = {line.removeprefix(f"{suite}: ") for line in expected}
    skips = [name for name, word in rows.items() if word == SKIPPED and name not in allowed]
    return Result(suite, rows, skips)


def outcomes(junit: str) -> dict[str, str]:
    """What became of each spec that was selected; Ginkgo lists all others as skipped, too."""
    found = {}
    for case in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - our own child wrote it
        name, word = case.get("name", ""), _outcome(case)
        if name.startswith(_IT) and word:
            found[_bare(name)] = word
    return found


def _outcome(case: ET.Element) -> str:
    """Empty for a spec that was not selected: Ginkgo gives a reason only for a skip by the spec."""
    status = case.get("status", "")
    if status == PASSED:
        return PASSED
    skip = case.find("skipped")
    if status in ("skipped", "pending"):
        reason = skip.get("message", "") if skip is not None else ""
        return SKIPPED if " - " in reason else ""
    return FAILED


def _bare(name: str) -> str:
    """The spec's name without the word for its kind and the list of labels that Ginkgo appends."""
    return re.sub(r" \[sig-[^\[\]]*\]$", "", name.removeprefix(_IT))


def expected_skips() -> list[str]:
    """The lines of the list of skips."""
    return _entries(EXPECTED_SKIPS)


def _entries(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
