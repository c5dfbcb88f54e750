"""A room's words and modules stand in the room, and outside of it only in the lists of features."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("mesh", "gateway", "srv6", "bgp", "clustermesh", "bpf")
ROOMS: Mapping[str, str] = {
    "egress": "gateway",
    "services": "mesh/services",
    "pods": "mesh/pods",
    "cni": "mesh/cni",
    "nodes": "mesh/nodes",
    "identity": "mesh/identity",
    "locators": "srv6",
    "peers": "bgp",
    "clustermesh": "clustermesh",
}
#: The lists of features: one for each process, and of kinds, nouns, and sections.
LISTS = (
    "mesh/agent.py", "mesh/controller.py", "mesh/speaker.py", "mesh/feed.py",
    "mesh/objects/kinds.py", "mesh/nouns.py", "mesh/config.py",
)  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def files(folder: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*.py") if not p.name.endswith("_pb2.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# --- What a room declares -------------------------------------------------------------------------


def declared(module: ast.Module) -> Iterator[str]:
    """Kinds, row classes, tables, maps, claim nouns, sections, marks, facts, nouns of the CLI."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and is_declaration(node):
            yield node.name
        elif isinstance(node, ast.Call):
            yield from of_call(node)
        elif isinstance(node, ast.Assign):
            yield from of_assignment(node)
        elif text_of(node).startswith("mg_"):
            yield text_of(node)


def is_declaration(node: ast.ClassDef) -> bool:
    """A row class or a section of the configuration, for others to see."""
    marks = [ast.unparse(one) for one in (*node.decorator_list, *node.bases)]
    row = any(one.startswith("dataclass(frozen=True") for one in marks)
    return (row or "Section" in marks) and not node.name.startswith("_")


def of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func).partition("[")[0]
    arguments = [text_of(one) for one in node.args]
    if called == "Kind":
        yield arguments[1]
    elif called in ("Table", "ColumnTable", "Mark", "ObjectNoun", "noun") and arguments:
        yield arguments[0]


def of_assignment(node: ast.Assign) -> Iterator[str]:
    targets = [ast.unparse(one) for one in node.targets]
    if targets in (["NOUN"], ["ADVERTISED"], ["NOUN, POOL"], ["(NOUN, POOL)"]):
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        yield text_of(values[0])


def words(room: str) -> set[str]:
    found = {word for path in files(ROOMS[room]) for word in declared(tree(path))}
    return {word for word in found if word}


# --- Where a word stands --------------------------------------------------------------------------

#: Words of the wire and of the kernel, by word and file; "" stands for every file.
EXCLUDED: Mapping[tuple[str, str], str] = {
    ("egress", "clustermesh/store/own.py"): "of the store's keys: where agents speak of drains",
    ("feed", ""): "the process of the room: its role, its user, its socket",
    ("device", ""): "of the kernel: a network device",
    ("netns", ""): "of the kernel: a network namespace",
    ("services", ""): "of Kubernetes: objects of the kind, which many rooms have tables of",
    ("bfd", "srv6/vrf/maps.py"): "of the wire: the BFD session (RFC 5880) that a path names",
    ("bfd", "srv6/vrf/rows.py"): "of the wire: likewise",
    ("bfd", "srv6/vrf/imports.py"): "of the wire: likewise",
    ("bfd", "srv6/vrf/speaker.py"): "of the wire: likewise",
    ("next hop", ""): "of the wire: NEXT_HOP of a BGP route (RFC 4271)",
    ("peer", "srv6/vrf/imports.py"): "of the wire: the router that has sent a route",
    ("peer", "srv6/vrf/speaker.py"): "of the wire: the router that has sent a route",
    ("peer", "srv6/vrf/nouns.py"): "a column of `route list`",
    ("sid", ""): "of the wire: the SID of a VPN route (RFC 9252)",
    ("SID", ""): "of the wire: an SRv6 segment identifier (RFC 8986)",
    ("block", "srv6/sids.py"): "of the wire: the locator block of a SID (RFC 8986 3.1)",
    ("block", "srv6/vrf/rows.py"): "of the wire: the locator block of a SID",
    ("block", "srv6/vrf/maps.py"): "of the wire: the locator block of a SID",
    ("block", "srv6/vrf/agent.py"): "of the wire: the locator block of a SID",
    ("peer", "clustermesh/issuer.py"): "of gRPC: the address of a caller",
    ("peer", "mesh/core/received.py"): "of BGP (RFC 4271): who has sent a route that rooms share",
    ("gateway", "mesh/kernel.py"): "of the kernel: RTA_GATEWAY",
    ("gateway", "mesh/cni/results.py"): "of the wire: the next hop in a result of CNI",
    ("gateway", "mesh/orders.py"): "of the kernel: RTA_GATEWAY",
    ("gateway", "mesh/netlink.py"): "of the kernel: RTA_GATEWAY",
    ("gateway", "mesh/route_table.py"): "of the kernel: RTA_GATEWAY",
    ("gateway", "mesh/pods/links.py"): "of the kernel: RTA_GATEWAY of the pod's default route",
    ("route", "mesh/kernel.py"): "of the kernel: RTM_NEWROUTE",
    ("route", "mesh/netlink.py"): "of the kernel: RTM_NEWROUTE",
    ("peer", "mesh/kernel.py"): "of the kernel: the other end of a veth",
    ("peer", "mesh/orders.py"): "of the kernel: the other end of a veth",
    ("podCIDRs", "mesh/objects/kubernetes.py"): "of the document: spec.podCIDRs of a Node",
    ("podCIDRs", "clustermesh/contract.py"): "of the document: what ClusterPeer gives",
    ("podCIDRs", "clustermesh/remote/terms.py"): "of the document: the field that does not give it",
}
#: Nouns that several rooms share: their rows stand in ``mesh/core/model.py`` (DESIGN, vocabulary).
SHARED = {
    "Service", "service", "backend", "pod", "node", "address", "identity", "locator", "cluster",
    "attachment", "vrf",
}  # fmt: skip
#: Folders that use the product as an operator does: they write its files and read its answers.
CONSUMERS = ("mesh/lab", "mesh/install")
#: The layer of identity, below all features: what a selector, or an address, of any room looks at.
LAYER = {
    "mesh.identity.labels", "mesh.identity.selectors", "mesh.identity.matching",
    "mesh.identity.addresses", "mesh.identity.counted", "mesh.identity.holders",
    "mesh.identity.findings",
}  # fmt: skip


def modelled() -> set[str]:
    """Classes of ``mesh/core/model.py`` and their fields, as words."""
    model = tree(ROOT / "mesh/core/model.py")
    rows = [node for node in ast.walk(model) if isinstance(node, ast.ClassDef)]
    fields = [one.target for row in rows for one in row.body if isinstance(one, ast.AnnAssign)]
    names = [row.name for row in rows]
    return {*names, *(one.lower() for one in names), *map(ast.unparse, fields)}


def spellings(word: str) -> set[str]:
    """A word as it is declared, and as an identifier."""
    return {word, word.replace(" ", "_")}


def mentions(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each identifier and string constant."""
    for node in ast.walk(module):
        for field in ("id", "attr", "arg", "name", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str) and isinstance(node, _WITH_LINES):
                yield node.lineno, text


_WITH_LINES = (ast.expr, ast.stmt, ast.arg, ast.alias, ast.keyword)


def outside(room: str) -> Iterator[Path]:
    """Modules that are neither the room's, nor a list, nor a consumer's."""
    for path in (path for folder in SOURCES for path in files(folder)):
        if name(path) not in LISTS and not name(path).startswith((f"{ROOMS[room]}/", *CONSUMERS)):
            yield path


@cache
def mentions_in(path: Path) -> Sequence[tuple[int, str]]:
    return list(mentions(tree(path)))


@cache
def strays(room: str) -> Sequence[tuple[str, str, int]]:
    """Word, file and line of each mention outside of the room."""
    mine = defaultdict[str, list[str]](list)
    for word in words(room) - SHARED:
        for form in spellings(word):
            mine[form].append(word)
    return [
        (word, name(path), line)
        for path in outside(room)
        for line, text in mentions_in(path)
        for word in mine.get(text, ())
    ]


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{one.name}" for one in node.names)


def test_declarations_and_mentions_are_found_in_a_module() -> None:
    room = ast.parse(
        """NOUN = "fence"
@dataclass(frozen=True, slots=True)
class FenceRow: ...
class _Hidden: ...
class FenceSettings(Section, frozen=True): ...
KINDS = (Kind("v1", "Fence", FENCES, parse),)
mark, ours = Mark("fenced", numbers), (Table[Network, None]("fenced network"),)
maps.rows("mg_fence", encode, decode)
"""
    )
    assert set(declared(room)) == {
        "fence", "FenceRow", "FenceSettings", "Fence", "fenced", "fenced network", "mg_fence",
    }  # fmt: skip
    other = ast.parse("def f(fence, *, rows): return g(a.FenceRow, fenced=1, x='mg_fence')")
    texts = {text for _, text in mentions(other)}
    assert {"fence", "FenceRow", "fenced", "mg_fence"} <= texts


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_declares_words(room: str) -> None:
    assert words(room) - SHARED


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_words_stand_in_the_room_and_in_the_lists(room: str) -> None:
    found = [
        f"{place}:{line} {word}"
        for word, place, line in strays(room)
        if (word, place) not in EXCLUDED and (word, "") not in EXCLUDED
    ]
    assert found == []


def test_each_excluded_word_stands_where_it_is_excluded() -> None:
    met = {(word, place) for room in ROOMS for word, place, _ in strays(room)}
    met |= {(word, "") for word, _ in met}
    assert {f"{word} {place}" for word, place in EXCLUDED.keys() - met} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_only_the_lists_import_a_room(room: str) -> None:
    inside = ROOMS[room].replace("/", ".") + "."
    found = [
        f"{name(path)} {module}"
        for path in outside(room)
        for module in imported(tree(path))
        if f"{module}.".startswith(inside) and not in_layer(module)
    ]
    assert found == []


def in_layer(module: str) -> bool:
    """Whether a module, or what is imported from it, belongs to the layer."""
    return not LAYER.isdisjoint({module, module.rpartition(".")[0]})


def test_the_layer_of_identity_knows_nothing_of_its_processes() -> None:
    paths = {module: ROOT / f"{module.replace('.', '/')}.py" for module in LAYER}
    found = [
        f"{module} {other}"
        for module, path in paths.items()
        for other in imported(tree(path))
        if other.startswith("mesh.identity") and not in_layer(other)
    ]
    assert found == []


def test_each_shared_noun_is_one_of_the_model_and_of_a_room() -> None:
    everything = set().union(*map(words, ROOMS))
    assert everything & modelled() >= SHARED


def test_the_lists_are_at_most_seven_files() -> None:
    assert len(LISTS) <= 7
    assert all((ROOT / one).is_file() for one in LISTS)
