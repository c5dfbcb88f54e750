"""The section ``services`` of the agent's configuration file."""

from __future__ import annotations

from typing import Literal

from mesh.core.section import Section


class ServicesSettings(Section, frozen=True):
    """Who translates the addresses of services on this node: there is one owner."""

    kube_proxy: bool | Literal["auto"] = "auto"
    """Whether a kube-proxy runs on this node; ``auto``: look for its rules. With one, sockets get
    backends of global services only. All else is its own. Beside another CNI it is always so."""
