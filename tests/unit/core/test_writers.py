"""Everything that is written to disk goes through ``mesh/core/files.py`` (D77)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
TOPS = ("bpf", "mesh", "gateway", "srv6", "bgp", "clustermesh")
#: Who writes otherwise, and what.
OTHERS = {
    "mesh/core/files.py": "the one function",
    "mesh/host/grace.py": "a switch of the kernel",
    "mesh/host/ledger.py": "sysctls",
    "mesh/kernel.py": "sysctls",
    "mesh/lab/processes.py": "a cgroup's kill switch",
    "mesh/lab/conformance/bed.py": "sysctls of its own network namespaces",
    "mesh/lab/kube/cgroups.py": "a cgroup's processors and memory",
    "mesh/cli.py": "/dev/null",
    "mesh/objects/crds.py": "documents of this tree, for `make docs`",
    "bgp/exabgp/launcher.py": "a lock, in the speaker's own folder; it runs without the project",
    "bgp/exabgp/relay.py": "its pid, as ExaBGP's user; it runs without the project",
}


def writes(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that make or change a file."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, words = node.func.attr, ast.unparse(node)
        mode = next((a.value for a in node.args if isinstance(a, ast.Constant)), "")
        opens = name == "open" and isinstance(mode, str) and set(mode) & set("wax+")
        if name in ("write_text", "write_bytes") or opens or "O_CREAT" in words:
            yield node


def test_no_other_module_writes_files() -> None:
    found = {
        str(path.relative_to(ROOT))
        for top in TOPS
        for path in (ROOT / top).rglob("*.py")
        if any(writes(ast.parse(path.read_text())))
    }
    assert found <= OTHERS.keys()
