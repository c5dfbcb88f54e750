"""Write the locks: every Python package at one version, with the hashes of its files.

``requirements.lock`` has what a node needs to build and run Meshgate, ``requirements-dev.lock``
what tests and checks need beside that, so no test tool gets onto a node. Run by ``make lock``,
which wants Debian's Python and nothing else. pip resolves all requirements of pyproject.toml in an
empty environment, and then those of a node within the same versions. The index then names all files
of each chosen version, so one lock serves x86-64 and aarch64. Local folders and caches are switched
off: a file that only this machine has would lock the others out. The locks name no index, so each
machine installs from the index that its own pip is configured for.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import subprocess
import sys
import tempfile
import tomllib
import venv
from base64 import b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPSHandler, Request, build_opener

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"
PYTHON = (3, 11)
#: Settings of pip that say where the index is and how to reach it; the lock uses no others.
REACH = ("index-url", "cert", "client-cert", "proxy", "timeout", "trusted-host", "retries")
HEAD = """\
# Written by `make lock` from pyproject.toml, for Python 3.11 on x86-64 and aarch64.
# Runtime in requirements.lock, tests and checks beside it in requirements-dev.lock.
# Wheels only: to build a package would run code that no hash here covers.
--only-binary :all:
"""
#: pip's own index, where none is configured.
_DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
_SETTING = re.compile(r"(?:\w+|:env:)\.([\w-]+)='(.*)'")


class LockError(Exception):
    """The lock cannot be written; the text says which package or setting is in the way."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One package of pip's report."""

    name: str
    version: str
    #: Of the file that pip would install on this machine.
    sha256: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pip:
    """The pip of an empty environment, with only the settings of ``REACH``."""

    python: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str) -> str:
        """The standard output of ``python`` with these arguments. Raises LockError."""
        done = subprocess.run(
            [self.python, *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            check=False,
        )
        if done.returncode:
            raise LockError(f"{shlex.join(arguments[:3])} failed")
        return done.stdout


def runtime(project: Mapping[str, Any]) -> list[str]:
    """What pyproject.toml asks for to build and to run."""
    return [*project["build-system"]["requires"], *project["project"]["dependencies"]]


def requirements(project: Mapping[str, Any]) -> list[str]:
    """What pyproject.toml asks for to run, to build and to develop."""
    return [*runtime(project), *project["project"]["optional-dependencies"]["dev"]]


def settings(listed: str) -> dict[str, str]:
    """The settings of ``REACH`` in the output of ``pip config list``.

    A variable of the environment (``:env:``) counts more than a file, as in pip.
    """
    found: dict[str, str] = {}
    lines = listed.splitlines()
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        match = _SETTING.fullmatch(line)
        if match and match[1] in REACH:
            found[match[1]] = match[2]
    return found


def normalized(name: str) -> str:
    """A package's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def version_of(file: str) -> str:
    """The version in the name of a wheel or of a source archive; empty for other files."""
    if file.endswith(".whl"):
        return file.split("-")[1]
    for suffix in (".tar.gz", ".zip", ".tar.bz2"):
        if file.endswith(suffix):
            return file.removesuffix(suffix).rpartition("-")[2]
    return ""


class _Links(HTMLParser):
    """The links of an index's page about one package (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def hashes(page: str, version: str) -> set[str]:
    """SHA-256 of each file of this version on the index's page about its package."""
    links = _Links()
    links.feed(page)
    found = set()
    for link in map(urlsplit, links.found):
        kind, _, digest = link.fragment.partition("=")
        if kind == "sha256" and version_of(unquote(link.path.rpartition("/")[2])) == version:
            found.add(digest)
    return found


def chosen(report: Mapping[str, Any]) -> list[Chosen]:
    """The packages in pip's report, by name. Source: pip's "Installation Report", version 1."""
    found = [
        Chosen(
            normalized(item["metadata"]["name"]),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
            tuple(item["metadata"].get("requires_dist", ())),
        )
        for item in report["install"]
    ]
    return sorted(found, key=lambda one: one.name)


def refuse_machines(packages: Iterable[Chosen]) -> None:
    """Raise LockError when a package asks for others on some machines only.

    pip resolves for the machine that it runs on, so the lock would lack them on the others.
    """
    for one in packages:
        for text in one.requires:
            if "platform_machine" in text and "extra ==" not in text:
                raise LockError(f"{one.name} {one.version} depends on the machine: {text}")


def text_of(packages: Iterable[tuple[Chosen, Iterable[str]]]) -> str:
    """The lock's text."""
    lines = [HEAD]
    for one, digests in packages:
        pins = [f"{one.name}=={one.version}", *(f"--hash=sha256:{d}" for d in sorted(digests))]
        lines.append(" \\\n    ".join(pins) + "\n")
    return "".join(lines)


# The index


def _opener(cert: str) -> Any:
    context = ssl.create_default_context(cafile=cert or None)
    return build_opener(HTTPSHandler(context=context))


def request_for(url: str) -> Request:
    """The request for a page; a name and a password in the address become a header."""
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    address = urlunsplit(parts._replace(netloc=host))
    request = Request(address, headers={"Accept": "text/html"})  # noqa: S310 - pip's own index
    if account:
        token = b64encode(unquote(account).encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return request


def _files(index: str, cert: str, one: Chosen) -> set[str]:
    """Hashes of all files of a version. Raises LockError."""
    url = urljoin(index.rstrip("/") + "/", f"{one.name}/")
    with _opener(cert).open(request_for(url), timeout=60) as answer:
        found = hashes(answer.read().decode(), one.version)
    if one.sha256 not in found:
        raise LockError(f"the index does not name pip's file of {one.name} {one.version}")
    return found


# pip


def _pip(folder: Path) -> tuple[Pip, dict[str, str]]:
    """An empty environment's pip, and the settings that it reaches the index by."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    listed = Pip(python, os.environ).run("-m", "pip", "config", "list")
    reach = settings(listed)
    others = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    ours = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in reach.items()}
    alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    return Pip(python, others | ours | alone), reach


def _resolve(pip: Pip, wanted: Iterable[str], report: Path) -> list[Chosen]:
    pip.run(
        *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--dry-run", "--ignore-installed", "--only-binary", ":all:"),
        *("--report", str(report), *wanted),
    )
    return chosen(json.loads(report.read_text(encoding="utf-8")))


def split(packages: Iterable[Chosen], needed: Iterable[Chosen]) -> dict[Path, list[Chosen]]:
    """The packages of each lock; ``needed`` are those of a node. Raises LockError."""
    every, names = list(packages), {one.name for one in needed}
    if missing := names - {one.name for one in every}:
        raise LockError(f"a node needs {', '.join(sorted(missing))}, which were not resolved")
    return {
        LOCK: [one for one in every if one.name in names],
        DEV_LOCK: [one for one in every if one.name not in names],
    }


def locks() -> dict[Path, str]:
    """The texts of new locks. Raises LockError."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="meshgate-lock-") as name:
        folder = Path(name)
        pip, reach = _pip(folder / "venv")
        index = reach.get("index-url") or pip.run("-c", _DEFAULT_INDEX).strip()
        packages = _resolve(pip, requirements(project), folder / "report.json")
        pins = folder / "pins.txt"
        pins.write_text("".join(f"{one.name}=={one.version}\n" for one in packages), "utf-8")
        wanted = ["--constraint", str(pins), *runtime(project)]
        parts = split(packages, _resolve(pip, wanted, folder / "runtime.json"))
    refuse_machines(packages)
    with ThreadPoolExecutor(8) as pool:
        cert = reach.get("cert", "")
        found = dict(zip(packages, pool.map(partial(_files, index, cert), packages), strict=True))
    return {path: text_of((one, found[one]) for one in part) for path, part in parts.items()}


def main() -> int:
    """Replace both locks; the exit status."""
    if sys.version_info[:2] != PYTHON:
        sys.stderr.write(f"lock: wants Python {'.'.join(map(str, PYTHON))}\n")
        return 1
    try:
        texts = locks()
    except (LockError, OSError) as error:
        sys.stderr.write(f"lock: {error}\n")
        return 1
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        counts = f"{text.count('==')} packages, {text.count('--hash=')} files"
        sys.stdout.write(f"lock: {path.name}: {counts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
