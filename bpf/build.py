"""Compile ``*.bpf.c`` to objects ahead of time: ``python -m bpf.build``.

``manifest.json`` beside the objects remembers what each was built from, so a process that starts
with current objects never needs clang.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from mesh.core.files import replace_file

HERE = Path(__file__).parent
INCLUDE = HERE / "include"
#: Multi-arch headers: asm/types.h stands there on Debian.
_SYSTEM = f"/usr/include/{platform.machine()}-linux-gnu"
FLAGS = (
    *("-O2", "-g", "-target", "bpf", "-mcpu=v3"),
    *("-Wall", "-Wextra", "-Werror"),
    "-fdebug-compilation-dir=.",  # equal sources give equal objects wherever they stand
    *("-idirafter", _SYSTEM),
)


class BuildError(Exception):
    """clang refused a source; the text is what it said."""


def build(directory: Path = HERE, objects: Path | None = None) -> None:
    """Make ``objects`` (``directory``/obj) hold a current object for every source."""
    objects = objects or directory / "obj"
    manifest = objects / "manifest.json"
    fingerprints: dict[str, str] = json.loads(manifest.read_text()) if manifest.exists() else {}
    for source in sorted(directory.glob("*.bpf.c")):
        target, wanted = objects / f"{source.name.removesuffix('.bpf.c')}.o", _fingerprint(source)
        if fingerprints.get(target.name) != wanted or not target.exists():
            objects.mkdir(parents=True, exist_ok=True)
            _compile(source, target)
            fingerprints[target.name] = wanted
            text = json.dumps(fingerprints, indent=1) + "\n"
            replace_file(manifest, text, mode=0o644)


def _include(source: Path) -> Path:
    """Headers beside the source; a source without headers of its own has ours."""
    own = source.parent / "include"
    return own if own.is_dir() else INCLUDE


def _fingerprint(source: Path) -> str:
    digest = hashlib.sha256(shlex.join(FLAGS).encode())
    headers = {*_include(source).rglob("*.h"), *source.parent.rglob("*.h")}
    for path in [source, *sorted(headers)]:
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _compile(source: Path, target: Path) -> None:
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    where = os.path.relpath(_include(source), source.parent)
    command = ["clang", *FLAGS, "-I", where, "-c", source.name, "-o", str(fresh.resolve())]
    result = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if result.returncode:
        fresh.unlink(missing_ok=True)
        raise BuildError(f"{shlex.join(command)}\n{result.stderr}")
    fresh.replace(target)


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        sys.exit(str(error))
