"""Cilium's programs, built from the Go module, and the users that they have in our store."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import yaml

from mesh.cli import main as meshgate
from tests.interop.controllers import Mesh

HERE = Path(__file__).parent
MODULE = "github.com/cilium/cilium"
#: Packages by the name of the program.
READER, KVSTOREMESH, HUBBLE, RELAY = "reader", "kvstoremesh", "hubble", "hubble-relay"
PACKAGES = {
    READER: ".",
    KVSTOREMESH: "./kvstoremesh",
    HUBBLE: f"{MODULE}/hubble",
    RELAY: f"{MODULE}/hubble-relay",
}


@cache
def binary(name: str) -> Path:
    """The program, built once per machine outside of the work tree."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshgate"
    built = cache / f"cilium-{name}"
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", str(built), PACKAGES[name]], cwd=HERE, check=True)
    return built


def configuration(mesh: Mesh, role: str) -> Path:
    """The configuration of a user of cluster north, with the files that it names, as printed."""
    printed = io.StringIO()
    arguments = ["--role", role, "--etcd", f"https://{mesh.etcd.address}", "-o", "json"]
    with contextlib.redirect_stdout(printed):
        status = meshgate(
            ["cluster", "user", "north", *arguments, "--pki", str(mesh.directory / "pki")]
        )
    assert status == 0, printed.getvalue()
    row = json.loads(printed.getvalue())
    config = yaml.safe_load(row["config"])
    fields = {"trusted-ca-file": "ca", "cert-file": "certificate", "key-file": "key"}
    for field, name in fields.items():
        file = mesh.directory / Path(config[field]).name
        file.write_text(row[name])
        config[field] = str(file)
    path = mesh.directory / f"{role}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
