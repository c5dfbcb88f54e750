"""Debian's and Python's packages: the root of the image without our tree.

No script of a package runs. pip installs the lock inside that root, with its own Python, since this
machine's may be another. Made once for the same versions, lock and recipe, and kept in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from deploy.image.archive import Layer, packed, tree
from deploy.lock import settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(__file__).with_name("packages.txt")
#: Where the Python packages and our tree lie in the image.
PLACE = "usr/lib/meshgate"
#: The lock, while pip runs.
LOCK = "root/requirements.lock"
#: As in docs/security.md: who needs no root has a user of its own; the chart knows the numbers.
USERS = {"meshgate-controller": 65532, "meshgate-bgp": 65533}
#: Packages with libraries in C; one that Debian's packages lack shows here, and not on a node.
_IMPORTED = ("grpc", "numpy", "cryptography.x509", "msgspec", "yaml", "zstandard", "ssl")
#: Debian's own layout: these are links into /usr, and packages unpack through them.
_LINKS = ("bin", "lib", "lib64", "sbin")
#: What nobody reads in a container, and what the build has brought.
_NOT_KEPT = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian",
    "usr/share/python-wheels", "usr/share/bash-completion", "usr/share/zoneinfo", "var/lib/apt",
    "var/cache", "etc/init.d", "etc/default", "usr/lib/systemd",
)  # fmt: skip
#: Debian's base needs these for scripts of packages, none of which runs here.
_SCRIPTS = re.compile(
    r"(dpkg|debconf|adduser|usrmerge|init-system-helpers|perl|libperl[.\d]+)(-|=)|lib\S+-perl="
)


def wanted() -> list[str]:
    """The Debian packages by name."""
    lines = PACKAGES.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def chosen(simulation: str) -> list[str]:
    """``name=version`` of each package that apt-get would install into an empty system."""
    found = re.findall(r"^Inst (\S+) \((\S+) .*?\)", simulation, re.MULTILINE)
    return [f"{name.partition(':')[0]}={version}" for name, version in found]


def system_layer() -> Layer:
    """Debian's and Python's packages; made once for the same versions."""
    with tempfile.TemporaryDirectory() as place:
        empty = Path(place) / "status"
        empty.touch()
        words = ["apt-get", "-o", f"Dir::State::status={empty}", "-o", "Debug::NoLocking=1"]
        words += ["--no-install-recommends", "-s", "install", *wanted()]
        packages = [one for one in chosen(_output(words)) if not _SCRIPTS.match(one)]
        digest = sha256("\n".join(packages).encode())
        for path in (ROOT / "requirements.lock", Path(__file__), PACKAGES):
            digest.update(path.read_bytes())
        kept = _cache() / f"image-{digest.hexdigest()[:16]}.tar.gz"
        if not kept.exists():
            fresh = kept.with_suffix(f".{os.getpid()}")
            fresh.write_bytes(packed(_system(Path(place), packages)))
            fresh.rename(kept)
    return Layer.of(kept.read_bytes())


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
    _inside(root, "/usr/bin/python3", "-I", "-c", f"import {', '.join(_IMPORTED)}")
    _compile(root)
    yield from tree(root, "")


def _unpack(package: Path, root: Path) -> None:
    """Through the links of the root, which ``dpkg-deb -x`` would replace by folders."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as read:
        words = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
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
    # containerd names network namespaces by the old path.
    (root / "run").mkdir(exist_ok=True)
    shutil.rmtree(root / "var/run", ignore_errors=True)
    (root / "var/run").symlink_to("../run")
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
    shutil.copy(ROOT / "requirements.lock", root / LOCK)
    (wheel,) = (root / "usr/share/python-wheels").glob("pip-*.whl")
    _inside(
        root, "/usr/bin/python3", f"/{wheel.relative_to(root)}/pip", "install", "-q",
        "--disable-pip-version-check", "--no-cache-dir", "--root-user-action=ignore",
        "--require-hashes", "--target", f"/{PLACE}", "-r", f"/{LOCK}",
        environment=_reach(),
    )  # fmt: skip
    for path in lent:
        (root / path.relative_to("/")).unlink()
    null.unlink()
    (root / LOCK).unlink()


def _compile(root: Path) -> None:
    """Byte code that is good whatever the age of its source, which is the epoch in a layer.

    Nothing is written in a container, so each start of a process would compile everything anew.
    """
    words = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    places = [f"/{path.relative_to(root)}" for path in (root / "usr/lib").glob("python3*")]
    _inside(root, "/usr/bin/python3", "-I", *words, f"/{PLACE}", *places)


def _reach() -> Mapping[str, str]:
    """How this machine's pip gets to its index, as variables."""
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


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshgate"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _output(words: Sequence[str]) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


def _say(text: str) -> None:
    sys.stdout.write(f"image: {text}\n")
    sys.stdout.flush()
