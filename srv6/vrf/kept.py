"""Numbers of VRFs and tenant addresses of this node's pods, in a file.

A new agent starts with them: without its store it knows no claim, and what pods of a VRF send goes
on. What the store says counts as soon as it has said everything.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import msgspec

from mesh.core.files import replace_file
from mesh.core.model import PodKey
from srv6.vrf.known import Tenants

log = logging.getLogger(__name__)

#: Its name in the state directory.
FILE = "vrfs.json"


class _Kept(msgspec.Struct, frozen=True):
    numbers: dict[str, int] = {}
    tenants: dict[str, dict[str, list[str]]] = {}


class KeptVRFs:
    """``problem`` says why the file cannot be written, in words."""

    def __init__(self, path: Path, cluster: str) -> None:
        self.problem = ""
        self._path, self._cluster = path, cluster
        self._last = msgspec.json.encode(_Kept())  # without a file there is nothing to keep

    def load(self) -> tuple[dict[str, int], dict[PodKey, Tenants]]:
        """Number by VRF, and tenant addresses by pod; nothing from a file that is damaged."""
        try:
            data = self._path.read_bytes()
            kept = msgspec.json.decode(data, type=_Kept)
            rows = {
                PodKey(self._cluster, *name.split("/", 1)): {
                    vrf: tuple(map(ip_address, texts)) for vrf, texts in by_vrf.items()
                }
                for name, by_vrf in kept.tenants.items()
            }
        except FileNotFoundError:
            return {}, {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("event=vrfs_unreadable path=%s reason=%s", self._path, error)
            return {}, {}
        self._last = data
        return dict(kept.numbers), dict(rows)

    def save(self, numbers: Mapping[str, int], tenants: Mapping[PodKey, Tenants]) -> None:
        """Write them, if they have changed."""
        rows = {
            f"{key.namespace}/{key.name}": {
                vrf: [str(address) for address in addresses] for vrf, addresses in by_vrf.items()
            }
            for key, by_vrf in sorted(tenants.items())
        }
        data = msgspec.json.encode(_Kept(dict(sorted(numbers.items())), rows))
        if data == self._last:
            return
        try:
            replace_file(self._path, data)
        except OSError as error:
            self.problem = str(error)
        else:
            self._last, self.problem = data, ""
