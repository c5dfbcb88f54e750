"""A pod of an agent as the API server sees it: the real ``Leaver`` around a process that sleeps.

``python leaving_pod.py HOST CA TOKEN NODE FOLDER``. A file ``wired`` in FOLDER stands for a pod
with a link; what would be undone on a host is one line in ``undone``.
"""

from __future__ import annotations

import ssl
import sys
from dataclasses import replace
from pathlib import Path

from mesh.install.api import Api
from mesh.install.chart import NAMESPACE
from mesh.install.leaving import Places
from mesh.install.pod import Leaver, Process


def main() -> int:
    host, ca, token, node, folder = sys.argv[1:]
    place = Path(folder)
    api = Api(host, ssl.create_default_context(cafile=ca), lambda: f"Bearer {token}")
    places = replace(Places.below(place), beside=True)
    places.agent.mkdir(parents=True, exist_ok=True)
    places.bpffs.mkdir(parents=True, exist_ok=True)

    def undo() -> list[str]:
        places.bpffs.rmdir()
        with (place / "undone").open("a") as out:
            out.write("once\n")
        return ["pins removed"]

    def wired() -> list[str]:
        return ["mgp1"] if (place / "wired").exists() else []

    started = f"date >> {place / 'started'}; exec sleep 600"
    return Leaver(api, NAMESPACE, node, places, Process(["sh", "-c", started]), undo, wired).live()


if __name__ == "__main__":
    sys.exit(main())
