"""Files as a layer, and layers as an OCI archive. Source: OCI image-spec 1.1, "image-layout"."""

from __future__ import annotations

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's bytes, and the digest of its unpacked form."""

    packed: bytes
    diff_id: str

    @classmethod
    def of(cls, packed: bytes) -> Layer:
        """The layer that is packed as these bytes."""
        return cls(packed, digest_of(gzip.decompress(packed)))


def tree(folder: Path, place: str) -> Iterator[tuple[Path, str]]:
    """Everything below a folder, in order, with its place in the image."""
    for path in sorted(folder.rglob("*")):
        yield path, f"{place}/{path.relative_to(folder)}".lstrip("/")


def packed(files: Iterable[tuple[Path, str]]) -> bytes:
    """One layer. Everything is root's and as old as the epoch: same content, same digest."""
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, name in files:
            entry = tar.gettarinfo(path, name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = 0
            if entry.isreg():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)
    return gzip.compress(unpacked.getvalue(), compresslevel=6, mtime=0)


def write(out: IO[bytes], name: str, layers: Sequence[Layer]) -> None:
    """The image of this name as an archive that any runtime imports."""
    config = _json(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/bin:/usr/sbin", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1"],
                "Cmd": ["/usr/bin/meshgate", "--version"],
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                _described("application/vnd.oci.image.layer.v1.tar+gzip", layer.packed)
                for layer in layers
            ],
        }
    )
    tag = name.rpartition(":")[2]
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}
    described = _described("application/vnd.oci.image.manifest.v1+json", manifest)
    index = _json({"schemaVersion": 2, "manifests": [{**described, "annotations": names}]})
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (config, manifest, *(layer.packed for layer in layers)):
            _add(tar, f"blobs/sha256/{sha256(blob).hexdigest()}", blob)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _described(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def digest_of(content: bytes) -> str:
    """The digest as OCI writes it."""
    return f"sha256:{sha256(content).hexdigest()}"
