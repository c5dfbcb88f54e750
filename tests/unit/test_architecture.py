"""The walks of ARCHITECTURE.md name files and functions that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
WALKS = TEXT[TEXT.index("## 5. Walks") : TEXT.index("## 6. Layers")]


def rows(title: str) -> list[list[str]]:
    """Cells of the table under a heading, without its head."""
    part = WALKS[WALKS.index(title) :].removeprefix("### ").split("\n### ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    body = []
    for line in lines[2:]:
        if re.match(r"\|-+", line):
            break
        body.append([cell.strip() for cell in line.strip("|").split("|")])
    return body


def sources(cell: str) -> list[Path]:
    """The files that a cell names; a bare header stands in bpf/include."""
    names = re.findall(r"`([\w/]+\.(?:bpf\.c|c|h|py))`", cell)
    return [ROOT / name if "/" in name else ROOT / "bpf/include" / name for name in names]


TITLES = re.findall(r"^### 5\.\d+ .*$", WALKS, re.MULTILINE)


def walks(head: str) -> list[list[str]]:
    """The rows of all walks whose last column has this head."""
    return [row for title in TITLES if heads(title)[-1] == head for row in rows(title)]


def heads(title: str) -> list[str]:
    part = WALKS[WALKS.index(title) :]
    line = next(line for line in part.splitlines() if line.startswith("|"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_each_walk_is_checked() -> None:
    assert {heads(title)[-1] for title in TITLES} == {"functions in order", "what"}


PACKETS = walks("functions in order")


@pytest.mark.parametrize("row", PACKETS, ids=lambda row: " ".join(row[1:2]))
def test_the_packet_walks_name_what_is_there(row: list[str]) -> None:
    files = sources(row[1])
    assert files
    text = "".join(path.read_text() for path in files)
    for name in re.findall(r"`([a-z_0-9]+)`(?!\.)", row[2]):
        if "_" in name and name != "redirect_peer":
            assert re.search(rf"\b{name}\(", text), f"{name} is not in {row[1]}"


WAYS = walks("what")


@pytest.mark.parametrize("row", WAYS, ids=lambda row: row[2])
def test_the_other_walks_name_what_is_there(row: list[str]) -> None:
    files = sources(row[2])
    assert files
    text = "".join(path.read_text() for path in files)
    for name in re.findall(r"`(?:\w+\.)?(\w+)`", row[2].replace("`bgp/", "")):
        assert re.search(rf"(def|class) {name}\b|\b{name}\(", text), f"{name} is not in {row[2]}"


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r"`((?:bpf|mesh|gateway|srv6|bgp|clustermesh|tests)/[\w/.]+)`", TEXT):
        assert (ROOT / name).exists(), name


def test_each_file_of_the_egress_room_is_in_one_row_of_its_table() -> None:
    part = TEXT[TEXT.index("### 4.3") : TEXT.index("## 5. Walks")]
    table = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")][2:]
    of_feature = [set(re.findall(r"`(\w+\.py)`", " ".join(cells[1:3]))) for cells in table]
    there = {path.name for path in (ROOT / "gateway").glob("[a-z]*.py")}
    processes = {"agent.py", "controller.py", "speaker.py"}
    assert set.union(*of_feature) == there
    for name in there - processes:
        assert sum(name in files for files in of_feature) == 1, name
    for name in re.findall(r"`(\w+\.h)`", part):
        assert (ROOT / "bpf/include" / name).exists(), name
