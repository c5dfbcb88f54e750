"""``make image``: ``build/meshgate-image.tar``, an OCI archive, made with no container engine.

Debian packages are fetched by ``apt-get download`` and unpacked by ``dpkg-deb``; no script of theirs
runs. pip installs the lock inside that root, with its own Python, since this machine's may be
another. Both are one layer, which is kept in the cache as long as packages and lock are the same.
Our tree is the other layer, so an upgrade of Meshgate moves few bytes. Needs root (chroot).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
OUT = ROOT / "build/meshgate-image.tar"
#: What `meshgate --version` reads; made here, since no build of a package runs.
METADATA = ROOT / "build/METADATA"
PLACE = "usr/lib/meshgate"
PLUGIN = "build/meshgate-cni"
#: As in docs/security.md: who needs no root has a user of its own; the chart knows the numbers.
USERS = {"meshgate-controller": 65532, "meshgate-bgp": 65533}
PACKAGES = ("bpf", "mesh", "gateway", "srv6", "bgp", "clustermesh")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: Debian's own layout: these are links into /usr, and packages unpack through them.
_LINKS = ("bin", "lib", "lib64", "sbin")
#: What nobody reads in a container, and what the build has brought.
_NOT_KEPT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian",
             "usr/share/python-wheels", "usr/share/bash-completion", "var/lib/apt", "var/cache",
             "usr/share/zoneinfo", "etc/init.d", "etc/default", "usr/lib/systemd")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's bytes, and the digests of its packed and unpacked form."""

    packed: bytes
    digest: str
    diff_id: str


def main() -> int:
    """Write the archive."""
    if os.geteuid():
        sys.stderr.write("image: needs root, because it installs inside a root of its own\n")
        return 1
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    OUT.parent.mkdir(exist_ok=True)
    METADATA.write_text(f"Metadata-Version: 2.1\nName: meshgate\nVersion: {version}\n")
    layers = [system_layer(), _packed(own_files(version))]
    fresh = OUT.with_suffix(".fresh")
    with fresh.open("wb") as out:
        write_archive(out, f"docker.io/library/meshgate:{version}", layers)
    fresh.rename(OUT)
    sizes = ", ".join(f"{len(layer.packed) / 1e6:.0f} MB" for layer in layers)
    sys.stdout.write(f"{OUT.relative_to(ROOT)}: {OUT.stat().st_size / 1e6:.0f} MB ({sizes})\n")
    return 0


def wanted() -> list[str]:
    """The Debian packages by name."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def chosen(simulation: str) -> list[str]:
    """``name=version`` of each package that apt-get would install into an empty system."""
    found = re.findall(r"^Inst (\S+) \((\S+) .*?\)", simulation, re.MULTILINE)
    return [f"{name.partition(':')[0]}={version}" for name, version in found]


# The system


def system_layer() -> Layer:
    """Debian's and Python's packages; made once for the same versions."""
    with tempfile.TemporaryDirectory() as place:
        empty = Path(place) / "status"
        empty.touch()
        words = ["apt-get", "-o", f"Dir::State::status={empty}", "-o", "Debug::NoLocking=1"]
        words += ["--no-install-recommends", "-s", "install", *wanted()]
        packages = chosen(_output(words))
        digest = sha256("\n".join(packages).encode())
        for path in (ROOT / "requirements.lock", Path(__file__), HERE / "packages.txt"):
            digest.update(path.read_bytes())
        kept = _cache() / f"image-{digest.hexdigest()[:16]}.tar.gz"
        if not kept.exists():
            fresh = kept.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(_packed(_system(Path(place), packages)).packed)
            fresh.rename(kept)
    packed = kept.read_bytes()
    return Layer(packed, _digest(packed), _digest(gzip.decompress(packed)))


def _system(place: Path, packages: Sequence[str]) -> Iterator[tuple[Path, str]]:
    root, fetched = place / "root", place / "debs"
    fetched.mkdir()
    _say(f"{len(packages)} Debian packages")
    # The user _apt may not write here.
    subprocess.run(
        ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages],
        cwd=fetched,
        check=True,
    )
    for name in _LINKS:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(fetched.iterdir()):
        _unpack(package, root)
    shutil.rmtree(fetched)
    _finish(root)
    _say("Python packages")
    _install_python(root)
    for name in _NOT_KEPT:
        shutil.rmtree(root / name, ignore_errors=True)
    for folder in [*(root / PLACE).glob("**/tests"), root / PLACE / "bin"]:
        shutil.rmtree(folder, ignore_errors=True)
    (root / "usr/lib/python3/dist-packages").mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/python3/dist-packages/meshgate.pth").write_text(f"/{PLACE}\n")
    yield from _tree(root, "")


def _unpack(package: Path, root: Path) -> None:
    """Through the links of the root, which ``dpkg-deb -x`` would replace by folders."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as read:
        words = ["tar", "--extract", "--keep-directory-symlink", "--directory", root]
        subprocess.run(words, stdin=read.stdout, check=True)
    if read.returncode:
        raise subprocess.CalledProcessError(read.returncode, "dpkg-deb")


def _finish(root: Path) -> None:
    """What the scripts of the packages would do, as far as processes of ours need it."""
    for name in ("passwd", "group"):
        text = (root / f"usr/share/base-passwd/{name}.master").read_text()
        for user, number in USERS.items():
            rest = f"{number}::/:/usr/sbin/nologin" if name == "passwd" else ""
            text += f"{user}:x:{number}:{rest}\n"
        (root / "etc" / name).write_text(text)
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    if not (root / "usr/bin/python3").exists():
        (python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")
        (root / "usr/bin/python3").symlink_to(python.name)
    (root / "tmp").mkdir(mode=0o1777, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    _inside(root, "/sbin/ldconfig")


def _install_python(root: Path) -> None:
    """The lock, with the settings of this machine's pip; what reaches the index goes again."""
    (root / "dev").mkdir(exist_ok=True)
    null = root / "dev/null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    lent = {Path("/etc/resolv.conf"), Path("/etc/hosts"), *_certificates()}
    for path in lent:
        inside = root / path.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, inside)
    shutil.copy(ROOT / "requirements.lock", root / "tmp/requirements.lock")
    (wheel,) = (root / "usr/share/python-wheels").glob("pip-*.whl")
    _inside(
        root, "/usr/bin/python3", f"/{wheel.relative_to(root)}/pip", "install", "-q",
        "--disable-pip-version-check", "--no-cache-dir", "--root-user-action=ignore",
        "--require-hashes", "--target", f"/{PLACE}", "-r", "/tmp/requirements.lock",
        environment=_reach(),
    )  # fmt: skip
    for path in lent:
        (root / path.relative_to("/")).unlink()
    null.unlink()
    (root / "tmp/requirements.lock").unlink()


def _reach() -> Mapping[str, str]:
    """How this machine's pip gets to its index, as variables."""
    from deploy.lock import settings  # noqa: PLC0415 - it needs no package of ours

    listed = _output([sys.executable, "-m", "pip", "config", "list"])
    return {
        f"PIP_{name.upper().replace('-', '_')}": value for name, value in settings(listed).items()
    }


def _certificates() -> Iterator[Path]:
    for name in ("PIP_CERT", "PIP_CLIENT_CERT"):
        if value := _reach().get(name):
            yield Path(value)


def _inside(root: Path, *words: str, environment: Mapping[str, str] | None = None) -> None:
    clean = {"PATH": "/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8", **(environment or {})}
    subprocess.run(["chroot", root, *words], env=clean, check=True)


# Our tree


def own_files(version: str) -> Iterator[tuple[Path, str]]:
    """Files of this tree and their places: packages, objects of BPF, the plugin, chart and kinds."""
    for package in PACKAGES:
        for path, name in _tree(ROOT / package, f"{PLACE}/{package}"):
            if "__pycache__" not in path.parts and path.suffix != ".pyi":
                yield path, name
    yield from _tree(ROOT / "deploy/crds", f"{PLACE}/deploy/crds")
    yield from _tree(ROOT / "deploy/helm", f"{PLACE}/deploy/helm")
    yield METADATA, f"{PLACE}/meshgate-{version}.dist-info/METADATA"
    for name in ("meshgate", "meshgate-probe"):
        yield HERE / name, f"usr/bin/{name}"
    if (ROOT / PLUGIN).exists():
        yield ROOT / PLUGIN, f"{PLACE}/meshgate-cni"


def _tree(folder: Path, place: str) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*")):
        yield path, f"{place}/{path.relative_to(folder)}".lstrip("/")


# The archive


def _packed(files: Iterator[tuple[Path, str]]) -> Layer:
    """One layer: everything is root's, and as old as the epoch, so the same content is the same
    digest."""
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
    whole = unpacked.getvalue()
    packed = gzip.compress(whole, compresslevel=6, mtime=0)
    return Layer(packed, _digest(packed), _digest(whole))


def write_archive(out: IO[bytes], name: str, layers: Sequence[Layer]) -> None:
    """An OCI image layout as a tar file. Source: OCI image-spec 1.1, "image-layout"."""
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
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshgate"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _output(words: Sequence[str]) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def _say(text: str) -> None:
    sys.stdout.write(f"image: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
