"""``make image``: ``build/meshgate-image.tar``, an OCI archive, made with no container engine.

Two layers: Debian's and Python's packages (``system.py``), and our tree, so an upgrade of Meshgate
moves few bytes. Needs root (chroot).
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from deploy.image.archive import Layer, packed, tree, write
from deploy.image.system import PLACE, ROOT, system_layer

HERE = Path(__file__).parent
OUT = ROOT / "build/meshgate-image.tar"
PLUGIN = "build/meshgate-cni"
#: What `meshgate --version` reads; made here, since no build of a package runs.
METADATA = ROOT / "build/METADATA"
#: Where the byte code of our tree is written, by the path of its source.
COMPILED = ROOT / "build/compiled"
PACKAGES = ("bpf", "mesh", "gateway", "srv6", "bgp", "clustermesh")


def main() -> int:
    """Write the archive."""
    if os.geteuid():
        sys.stderr.write("image: needs root, because it installs inside a root of its own\n")
        return 1
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    OUT.parent.mkdir(exist_ok=True)
    METADATA.write_text(f"Metadata-Version: 2.1\nName: meshgate\nVersion: {version}\n")
    layers = [system_layer(), Layer.of(packed(own_files(version)))]
    fresh = OUT.with_suffix(".fresh")
    with fresh.open("wb") as out:
        write(out, f"docker.io/library/meshgate:{version}", layers)
    fresh.rename(OUT)
    sizes = ", ".join(f"{len(layer.packed) / 1e6:.0f} MB" for layer in layers)
    sys.stdout.write(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size / 1e6:.0f} MB ({sizes})\n")
    return 0


def own_files(version: str) -> Iterator[tuple[Path, str]]:
    """Files of this tree with their places: packages, BPF objects, plugin, chart and kinds."""
    for package in PACKAGES:
        for path, name in tree(ROOT / package, f"{PLACE}/{package}"):
            if "__pycache__" not in path.parts and path.suffix != ".pyi":
                yield path, name
                if path.suffix == ".py":
                    yield compiled(path, name)
    yield from tree(ROOT / "deploy/crds", f"{PLACE}/deploy/crds")
    yield from tree(ROOT / "deploy/helm", f"{PLACE}/deploy/helm")
    yield METADATA, f"{PLACE}/meshgate-{version}.dist-info/METADATA"
    for name in ("meshgate", "meshgate-probe", "meshgate-sweep"):
        yield HERE / name, f"usr/bin/{name}"
    if (ROOT / PLUGIN).exists():
        yield ROOT / PLUGIN, f"{PLACE}/{PLUGIN}"


def compiled(source: Path, name: str) -> tuple[Path, str]:
    """Byte code of a file with its place; another version of Python than ours passes it over.

    It is good whatever the age of its source, since all files of a layer are as old as the epoch.
    """
    place = importlib.util.cache_from_source(f"/{name}").lstrip("/")
    target = COMPILED / place
    py_compile.compile(
        str(source),
        str(target),
        dfile=f"/{name}",
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    return target, place


if __name__ == "__main__":
    sys.exit(main())
