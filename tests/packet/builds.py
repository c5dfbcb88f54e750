"""Objects of other builds: an older commit, or this tree with a changed text."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from bgp.bfd import layouts as bfd
from bgp.learned import layouts as learned
from bpf.build import HERE, build
from bpf.migrate import Added
from gateway import layouts as egress
from mesh.core.feature import Mark
from mesh.core.table import Table
from mesh.datapath import layouts as datapath
from mesh.identity import layouts as identity
from mesh.masquerade import layouts as masquerade
from mesh.nodes import layouts as nodes
from mesh.pods import layouts as pods
from mesh.services import layouts as services
from srv6 import layouts as srv6

ROOT = HERE.parent
#: The last commit that knew nothing of migrations.
FORMER = "727237a"
_PROTOCOL = "\t__u8 protocol;\n\t__u8 pad;\n\t__u16 zone;\n};"
#: A field in the middle of ``struct connection``, and wider tuples.
WIDER = (
    ("conntrack.h", "\t__u32 flags;  /* enum", "\t__u32 added;\n\t__u32 flags;  /* enum"),
    ("conntrack.h", _PROTOCOL, _PROTOCOL.replace("};", "\t__u64 wide;\n};")),
    ("conntrack.h", "\t} narrow;", "\t} narrow = {};"),
    ("packet.h", "reversed->pad = 0;", "reversed->pad = 0;\n\treversed->wide = 0;"),
    ("types.h", _PROTOCOL, _PROTOCOL.replace("};", "\t__u64 wide;\n};")),
)
TUPLES = ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6")
#: What the wider build declares of them, and all that the builds declare.
ADDED = (
    *(Added(name, ("key.wide",)) for name in TUPLES),
    *(Added(name, ("value.added",)) for name in TUPLES[:2]),
)
DECLARED = (
    *datapath.DECLARED,
    *identity.DECLARED,
    *nodes.DECLARED,
    *services.DECLARED,
    *egress.DECLARED,
    *masquerade.DECLARED,
    *bfd.DECLARED,
    *learned.DECLARED,
    *srv6.DECLARED,
    *pods.declared(
        [Mark("egress_class", Table("class"), former="egress"), Mark("vrf", Table("vrf"))]
    ),
    *ADDED,
)


def edited(directory: Path, edits: Iterable[tuple[str, str, str]]) -> Path:
    """Objects of this tree's sources after the edits (file, old text, new text)."""
    sources = _flat(directory, HERE)
    for name, old, new in edits:
        path = sources / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new))
    return _built(sources)


def of_commit(directory: Path, commit: str) -> Path:
    """Objects of the sources of a commit."""
    git = ["git", "-C", str(ROOT), "archive", commit, "bpf"]
    archive = subprocess.run(git, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-xC", str(directory)], check=True, input=archive)
    return _built(_flat(directory / "flat", directory / "bpf"))


def _flat(directory: Path, tree: Path) -> Path:
    """All sources in one folder: there a header is found before one of this tree."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in [*tree.glob("*.bpf.c"), *tree.glob("include/*.h")]:
        (directory / path.name).write_text(path.read_text())
    return directory


def _built(sources: Path) -> Path:
    build(sources, sources / "obj")
    return sources / "obj"
