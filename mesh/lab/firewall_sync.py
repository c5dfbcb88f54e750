"""A firewall's side of a feed: fetch lists, and load them into nft sets, as a firewall would.

Usage: ``firewall_sync.py CONFIG``. The JSON file is read again before each round::

    {"url": "https://10.99.0.11:8443/feeds/", "ca": "…/ca.crt", "user": "firewall",
     "password": "…", "groups": ["erp"], "poll": 1.0, "load": 0.5, "table": "inet firewall",
     "sets": ["feed4", "feed6"]}

Each round asks for every group with the ETag of its last list. A changed list is loaded ``load``
seconds later, all sets at once; until then, and after any other answer than 200, the last lists
count. One line is printed for each list that is loaded and for each new error. Started by path,
without the project on ``sys.path``.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 5.0


class Lists:
    """The lists of all groups, with their ETags."""

    def __init__(self) -> None:
        self.etags: dict[str, str] = {}
        self.addresses: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        self._loaded = ""

    def fetch(self, config: dict[str, object]) -> bool:
        """Ask for all groups; whether a list has changed."""
        changed = False
        groups = [str(one) for one in config["groups"]]  # type: ignore[attr-defined]
        for gone in self.addresses.keys() - set(groups):
            del self.addresses[gone], self.etags[gone]
            changed = True
        for group in groups:
            try:
                changed |= self._fetch(config, group)
                self.errors.pop(group, None)
            except (OSError, ValueError, http.client.HTTPException) as error:
                if self.errors.get(group) != str(error):
                    _note(f"{group}: {error}")
                self.errors[group] = str(error)
        return changed

    def _fetch(self, config: dict[str, object], group: str) -> bool:
        place = urlsplit(f"{config['url']}{group}.txt")
        context = ssl.create_default_context(cafile=str(config["ca"]))
        word = base64.b64encode(f"{config['user']}:{config['password']}".encode()).decode()
        headers = {"Authorization": f"Basic {word}"}
        if group in self.etags:
            headers["If-None-Match"] = self.etags[group]
        client = http.client.HTTPSConnection(
            place.hostname or "", place.port, timeout=TIMEOUT_S, context=context
        )
        try:
            client.request("GET", place.path, headers=headers)
            reply = client.getresponse()
            body = reply.read().decode()
        finally:
            client.close()
        if reply.status == http.client.NOT_MODIFIED:
            return False
        if reply.status != http.client.OK:
            raise ValueError(f"{reply.status} {body.strip()}: the last list counts")
        found = [str(ipaddress.ip_address(line)) for line in body.split()]
        if not found:
            raise ValueError("an empty list: the last one counts")
        self.addresses[group], self.etags[group] = found, reply.headers["ETag"]
        return True

    def load(self, config: dict[str, object]) -> None:
        """Replace the sets, in one transaction of the kernel."""
        every = sorted({one for some in self.addresses.values() for one in some})
        lines = []
        for name, sign in zip(config["sets"], (".", ":"), strict=True):  # type: ignore[call-overload]
            mine = [one for one in every if sign in one]
            lines.append(f"flush set {config['table']} {name}")
            if mine:
                lines.append(f"add element {config['table']} {name} {{ {', '.join(mine)} }}")
        text = "\n".join(lines) + "\n"
        if text != self._loaded:
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
            self._loaded = text
            _note(f"loaded {', '.join(every)} {self.etags}")


def _note(text: str) -> None:
    print(f"{time.time():.3f} {text}", flush=True)


def main(path: Path) -> None:
    """Fetch and load for ever."""
    lists = Lists()
    while True:
        config = json.loads(path.read_text())
        began = time.monotonic()
        if lists.fetch(config):
            time.sleep(float(config["load"]))
            lists.load(config)
        time.sleep(max(0.0, began + float(config["poll"]) - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
