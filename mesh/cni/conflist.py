"""The CNI list that a runtime reads: ours alone, or another CNI's with our plugin appended. Pure.

Source: CNI SPEC.md 1.1.0 section 1. A runtime takes the first file by name that it can use, of
those that end in .conflist (a list), .conf or .json (one plugin).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PLUGIN, PORTMAP = "meshgate-cni", "portmap"
NETWORK = "meshgate"
#: The list by which Meshgate is the CNI, and the one by which it stands beside another.
WHOLE, BESIDE = "05-meshgate.conflist", "00-meshgate.conflist"
_LIST, _SINGLE = ".conflist", (".conf", ".json")
#: How files end that a runtime reads. Source: libcni, ``ConfFiles``.
ENDINGS = (_LIST, *_SINGLE)


def whole(version: str, socket: Path, chained: Sequence[str]) -> str:
    """Our own list; ``chained`` are the plugins that come after ours."""
    known = {PORTMAP: {"type": PORTMAP, "capabilities": {"portMappings": True}}}
    plugins = [_ours(socket), *(known[name] for name in chained)]
    return _text({"cniVersion": version, "name": NETWORK, "plugins": plugins})


def beside(other: Mapping[str, Any], socket: Path) -> str:
    """Another's list with our plugin as its last one."""
    return _text({**other, "plugins": [*other["plugins"], _ours(socket)]})


def first(names: Iterable[str]) -> list[str]:
    """Names of files that a runtime looks at, in its order; ours are left out."""
    suffixes = (_LIST, *_SINGLE)
    return sorted(n for n in names if n.endswith(suffixes) and n not in (WHOLE, BESIDE))


def parse(name: str, text: bytes) -> dict[str, Any]:
    """A file as a list; a single plugin is wrapped. Raises ValueError for what no runtime takes."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - as the rest that no runtime takes
    if not name.endswith(_LIST):
        found = {
            "cniVersion": found.get("cniVersion", ""),
            "name": found.get("name", ""),
            "plugins": [found],
        }
    plugins = found.get("plugins")
    if not found.get("name"):
        raise ValueError("name: required")
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins: expected a list that is not empty")
    if not all(isinstance(one, dict) and one.get("type") for one in plugins):
        raise ValueError("plugins: each needs a type")
    if any(one["type"] == PLUGIN for one in plugins):
        raise ValueError(f"it has {PLUGIN} itself")
    return found


def _ours(socket: Path) -> dict[str, str]:
    return {"type": PLUGIN, "socket": str(socket)}


def _text(row: Mapping[str, object]) -> str:
    return json.dumps(row, indent=2) + "\n"
