"""The images of the bed: pause, CoreDNS, and those that upstream's suite asks for by name.

They are made of Debian's programs with their libraries and of programs built from Go modules, and
kept beside those (``builds.cache``). A missing image would cost its spec's whole time-out.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from clustermesh.certs import Authority
from mesh.core.files import replace_file
from mesh.lab.kube import builds
from mesh.lab.kube.oci import Entry, Image, Link, archive
from mesh.lab.places import LabError

_SUITE = "registry.k8s.io/e2e-test-images"
PAUSE = "registry.k8s.io/pause:3.10.2"
COREDNS = "registry.k8s.io/coredns/coredns:lab"
AGNHOST = f"{_SUITE}/agnhost:2.63.0"
BUSYBOX = f"{_SUITE}/busybox:1.37.0-1"
#: Programs of Debian that specs call in agnhost's image, and what busybox there would hide.
_TOOLS = (
    *("bash", "curl", "wget", "nc.openbsd", "dig", "nslookup", "iperf", "getent"),
    *("conntrack", "ip", "ss"),
)
_USERS = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
user-defined-in-image:x:1000:1000::/home:/bin/sh
"""
_GROUPS = """root:x:0:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
"""
_NAMES = "hosts: files dns\n"
_LIBRARY = re.compile(r"(/\S+) \(0x")

Tree = dict[str, Entry]


def ready() -> list[Path]:
    """The archives of all images; those that are missing are made first.

    Raises:
        LabError: a program that an image needs cannot be had.

    """
    programs = builds.programs("agnhost", "regression-issue-74839", "coredns")
    kept = builds.cache() / "images"
    kept.mkdir(exist_ok=True)
    found = []
    for name, image in _images(programs, kept).items():
        path = kept / f"{name}-{_key(image)}.tar"
        if not path.exists():
            for former in kept.glob(f"{name}-*.tar"):
                former.unlink()
            replace_file(path, archive(image), mode=0o644)
        found.append(path)
    return found


def _images(programs: Mapping[str, Path], kept: Path) -> dict[str, Image]:
    base = _busybox_tree()
    regression, coredns = programs["regression-issue-74839"], programs["coredns"]
    return {
        "pause": Image((PAUSE,), {"/pause": _pause(kept)}, ("/pause",), user="65535:65535"),
        "coredns": Image((COREDNS,), {"/coredns": coredns}, ("/coredns",)),
        "busybox": Image(
            (BUSYBOX, "docker.io/library/busybox:lab"), base, command=("sh",), modes=_MODES
        ),
        "agnhost": Image(
            (
                AGNHOST,
                f"{_SUITE}/agnhost:2.55",
                f"{_SUITE}/glibc-dns-testing:2.0.0",
                "registry.k8s.io/build-image/distroless-iptables:v0.9.6",
            ),
            base | _agnhost_tree(programs),
            ("/agnhost",),
            ("pause",),
            modes=_MODES,
        ),
        "regression": Image(
            (f"{_SUITE}/regression-issue-74839:1.4",),
            {"/regression-issue-74839": regression},
            ("/regression-issue-74839",),
        ),
    }


_MODES = {"/tmp": 0o1777}  # noqa: S108 - the image's, not ours


def _busybox_tree() -> Tree:
    """Busybox with a link for each of its commands, and the files that a C library reads."""
    busybox = _host_program("busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    folders = ("/etc", "/home", "/proc", "/root", "/sys", "/dev", "/tmp", "/var/run", "/usr/bin")  # noqa: S108
    tree: Tree = dict.fromkeys(folders)
    tree |= {f"/bin/{command}": Link("busybox") for command in listed.stdout.split()}
    tree |= {"/etc/passwd": _USERS, "/etc/group": _GROUPS, "/etc/nsswitch.conf": _NAMES}
    return tree | {"/bin/busybox": busybox}


def _agnhost_tree(programs: Mapping[str, Path]) -> Tree:
    """What specs call beside agnhost itself.

    Debian's busybox shell runs its own applets before PATH, so /bin/sh must be bash; its wget does
    not survive ``-T``.
    """
    tree: Tree = {"/agnhost": programs["agnhost"], "/agnhost-2": Link("agnhost"), "/uploads": None}
    tree |= {"/coredns": programs["coredns"]}
    for name in _TOOLS:
        program = _host_program(name)
        seen = name.removesuffix(".openbsd")
        tree |= {f"/usr/bin/{seen}": program, f"/bin/{seen}": program}
        tree |= {str(library): library.resolve() for library in _libraries(program)}
    tree["/bin/sh"] = Link("bash")
    served = Authority.create("agnhost").issue_server("localhost")
    return tree | {"/localhost.crt": served.cert.decode(), "/localhost.key": served.key.decode()}


def _host_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed: `deploy/install.sh kube`")
    return Path(found).resolve()


def _libraries(program: Path) -> Iterable[Path]:
    """The shared libraries of a program, and its loader."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    return [Path(found) for found in _LIBRARY.findall(listed.stdout)]


def _pause(kept: Path) -> Path:
    """The sandbox's first process, compiled."""
    built = kept / "pause"
    source = builds.MODULES / "pause.c"
    command = ["clang", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s", "-o"]
    try:
        subprocess.run([*command, built, source], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"pause.c: {error}") from error
    return built


def _key(image: Image) -> str:
    """Another one when the image changes; contents are told by name and size, keys not at all."""
    words = [repr(image.names), repr(image.entrypoint), repr(image.command), repr(image.user)]
    for path, entry in sorted(image.files.items()):
        told = f"{entry} {entry.stat().st_size}" if isinstance(entry, Path) else repr(entry)
        words.append(f"{path} {'' if path.startswith('/localhost') else told}")
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
