"""Programs of the bed, each built once per machine from a pinned Go module of ``tests/tools/kube``.

Versions and checksums stand in each module's go.mod and go.sum. The programs are kept in
``~/.cache/meshgate``, outside of the work tree. A cold build of all takes 10 to 15 minutes on two
cores, and 8 GB of Go's own cache; nothing of ``make test`` needs any of them.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.core.files import open_private
from mesh.lab.places import LabError

#: The Go modules, in a checkout.
MODULES = Path(__file__).resolve().parents[3] / "tests" / "tools" / "kube"


@dataclass(frozen=True, slots=True)
class Module:
    """One go.mod, and the programs that are built from it."""

    folder: str
    pinned: str
    """The required module whose version the programs bear."""
    packages: Mapping[str, str]
    """Package of each program, below ``pinned`` unless it begins with a dot."""
    stamp: str = ""
    """Linker flags; ``{version}`` is ``v1.2.3``, ``{number}`` is ``1.2.3``, and its parts."""
    test: str = ""
    """The program that is a test binary, if one is."""

    @property
    def directory(self) -> Path:
        """Where its go.mod is."""
        return MODULES / self.folder

    def version(self) -> str:
        """The pinned version. Raises LabError."""
        try:
            return pinned_version((self.directory / "go.mod").read_text(), self.pinned)
        except OSError as error:
            raise LabError(f"the bed is built from a checkout: {error}") from error


_COMPONENT = "k8s.io/component-base/version"
KUBERNETES = Module(
    ".",
    "k8s.io/kubernetes",
    {
        name: f"cmd/{name}"
        for name in (
            *("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
            *("kubelet", "kube-proxy", "kubectl"),
        )
    }
    | {name: f"test/images/{name}" for name in ("agnhost", "regression-issue-74839")},
    f"-X {_COMPONENT}.gitVersion={{version}} -X {_COMPONENT}.gitMajor={{major}}"
    f" -X {_COMPONENT}.gitMinor={{minor}} -X {_COMPONENT}.gitTreeState=clean",
)
CONTAINERD = Module(
    "containerd",
    "github.com/containerd/containerd/v2",
    {name: f"cmd/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
    "-X github.com/containerd/containerd/v2/version.Version={number}",
)
PLUGINS = Module(
    "plugins",
    "github.com/containernetworking/plugins",
    {
        "bridge": "plugins/main/bridge",
        "host-local": "plugins/ipam/host-local",
        "loopback": "plugins/main/loopback",
        "portmap": "plugins/meta/portmap",
    },
    "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}",
)
COREDNS = Module("coredns", "github.com/coredns/coredns", {"coredns": "."})
SUITE = Module("e2e", "k8s.io/kubernetes", {"e2e.test": "."}, KUBERNETES.stamp, test="e2e.test")
GINKGO = Module("e2e", "github.com/onsi/ginkgo/v2", {"ginkgo": "ginkgo"})
KUBE_ROUTER = Module(
    "router", "github.com/cloudnativelabs/kube-router/v2", {"kube-router": "cmd/kube-router"}
)
ALL = (KUBERNETES, CONTAINERD, PLUGINS, COREDNS, SUITE, GINKGO, KUBE_ROUTER)


def cache() -> Path:
    """Where programs and images are kept, outside of the work tree."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshgate"
    place.mkdir(parents=True, exist_ok=True)
    return place


def pinned_version(go_mod: str, module: str) -> str:
    """The version of ``module`` in the text of a go.mod. Raises LabError."""
    found = re.search(rf"^(?:require )?\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise LabError(f"go.mod does not require {module}")
    return found[1]


def programs(*names: str) -> dict[str, Path]:
    """Path of each program; those that are missing are built first, module by module.

    Raises:
        LabError: there is no Go toolchain, or a build failed.

    """
    found: dict[str, Path] = {}
    for module in ALL:
        wanted = [name for name in names if name in module.packages]
        found |= {name: _path(module, name) for name in wanted}
        if not all(_path(module, name).exists() for name in wanted):
            with _locked():
                _build(module, [name for name in wanted if not _path(module, name).exists()])
    if missing := set(names) - found.keys():
        raise LabError(f"no module builds {', '.join(sorted(missing))}")
    return found


def _path(module: Module, name: str) -> Path:
    return cache() / f"{name}-{module.version()}"


def _build(module: Module, names: Sequence[str]) -> None:
    """One command for all programs of a module: what they share is compiled once."""
    if not names:
        return
    print(f"building {', '.join(names)} {module.version()}", flush=True)
    fresh = cache() / f"build.{os.getpid()}"
    fresh.mkdir()
    try:
        for command in commands(module, names, fresh):
            _run(command, module.directory)
        for name in names:
            (fresh / _built_as(module, name)).rename(_path(module, name))
    finally:
        shutil.rmtree(fresh)


def commands(module: Module, names: Sequence[str], target: Path) -> Iterator[list[str]]:
    """The Go commands that put these programs of a module into the folder ``target``."""
    version = module.version()
    number = version.removeprefix("v")
    major, minor = number.split(".")[:2]
    stamp = module.stamp.format(version=version, number=number, major=major, minor=minor)
    flags = ["-buildvcs=false", "-ldflags", f"-s -w {stamp}".strip()]
    if module.test in names:
        # Vet would read every package of Kubernetes once more.
        yield ["go", "test", "-c", "-vet=off", *flags, "-o", str(target / module.test), "."]
    if plain := [module.packages[name] for name in names if name != module.test]:
        paths = [name if name == "." else f"{module.pinned}/{name}" for name in plain]
        yield ["go", "build", *flags, "-o", f"{target}/", *paths]


def _built_as(module: Module, name: str) -> str:
    """Go names a program after the last element of its package's path."""
    package = module.packages[name]
    return name if name == module.test or package == "." else package.rpartition("/")[2]


def _run(command: list[str], directory: Path) -> None:
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    try:
        subprocess.run(
            command, cwd=directory, env={**os.environ, **settings}, check=True, stdout=sys.stderr
        )
    except FileNotFoundError as error:
        raise LabError("the bed needs a Go toolchain (`go` on PATH)") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{' '.join(command[:3])} in {directory} failed") from error


@contextmanager
def _locked() -> Iterator[None]:
    """Nobody else builds meanwhile: two builds at once would do the work twice."""
    with os.fdopen(open_private(cache() / "build.lock"), "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build what is missing; the programs' names may be given."""
    everything = [name for module in ALL for name in module.packages]
    for name, path in programs(*(sys.argv[1:] or everything)).items():
        print(name, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
