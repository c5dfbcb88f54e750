"""Container images without a registry and without a container engine.

An image is one layer, made from a tree of files in memory, in an OCI layout that
``ctr images import`` takes (image-spec 1.1, image-layout.md). Equal trees make equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to ``target``."""

    target: str


#: A file of the tree: a path on this machine, its text, a link, or None for a folder.
Entry = Path | str | Link | None


@dataclass(frozen=True, slots=True)
class Image:
    """An image, and the names under which a node knows it."""

    names: tuple[str, ...]
    files: Mapping[str, Entry]
    """By absolute path; folders on the way need no entry."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    modes: Mapping[str, int] = field(default_factory=dict)
    """Modes other than 0755."""


def archive(image: Image) -> bytes:
    """The image's OCI layout as a tar file. Raises OSError when a file cannot be read."""
    layer = _layer(image)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": [_PATH],
                "Entrypoint": image.entrypoint,
                "Cmd": image.command,
                "WorkingDir": "/",
                "User": image.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, layer)],
        }
    )
    listed = [_named(_descriptor(_MANIFEST, manifest), name) for name in image.names]
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"})}
    files["index.json"] = _json({"schemaVersion": 2, "manifests": listed})
    for blob in (layer, config, manifest):
        files[f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}"] = blob
    return _tar([(name, content, 0o644) for name, content in files.items()])


def _layer(image: Image) -> bytes:
    members: list[tuple[str, bytes | Link | None, int]] = []
    for path in _with_parents(image.files):
        entry = image.files.get(path)
        content = entry.read_bytes() if isinstance(entry, Path) else entry
        given = content.encode() if isinstance(content, str) else content
        members.append((path.lstrip("/"), given, image.modes.get(path, 0o755)))
    return _tar(members)


def _with_parents(files: Mapping[str, Entry]) -> list[str]:
    """All paths, and all folders above them, in order."""
    paths = set(files)
    for path in files:
        paths |= {str(parent) for parent in Path(path).parents}
    return sorted(paths - {"/"})


def _tar(members: Sequence[tuple[str, bytes | Link | None, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content, mode in members:
            row = tarfile.TarInfo(name)  # owner root, time 0
            row.mode = mode
            if content is None:
                row.type = tarfile.DIRTYPE
            elif isinstance(content, Link):
                row.type, row.linkname = tarfile.SYMTYPE, content.target
            else:
                row.size = len(content)
            tar.addfile(row, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def _descriptor(kind: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _named(descriptor: dict[str, object], name: str) -> dict[str, object]:
    notes = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    platform = {"architecture": "amd64", "os": "linux"}
    return {**descriptor, "platform": platform, "annotations": notes}


def _json(tree: object) -> bytes:
    return json.dumps(tree, sort_keys=True).encode()


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
