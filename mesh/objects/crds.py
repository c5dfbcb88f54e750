"""``deploy/crds/``: one file for each kind of ours, written from its document Struct.

Run as a program it writes the files into the folder that it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mesh.objects.definition import definition
from mesh.objects.kinds import KINDS


def definitions() -> Iterator[Mapping[str, Any]]:
    """The CustomResourceDefinition of each kind of ours."""
    for kind in KINDS:
        if kind.definition:
            group, _, version = kind.api_version.rpartition("/")
            yield definition(group, version, kind.kind, kind.definition, namespaced=kind.namespaced)


def texts() -> Mapping[str, str]:
    """File name -> text."""
    return {
        f"{one['metadata']['name']}.yaml": yaml.safe_dump(
            one, sort_keys=False, allow_unicode=True, width=100
        )
        for one in definitions()
    }


def main() -> None:
    """Write the files, and take away those of kinds that are no more."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    wanted = texts()
    for path in folder.glob("*.yaml"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
