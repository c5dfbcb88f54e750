"""Feeds in the controller: what is wrong with the addresses of policies."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.feed.acknowledged import findings
from gateway.policy import EgressPolicy
from mesh.core.feature import ControllerFeature
from mesh.core.model import IP, Finding, Listed
from mesh.core.table import Table


class FeedController(ControllerFeature):
    """``listed`` is what the feed has written into the store."""

    def __init__(self, policies: Table[str, EgressPolicy], listed: Table[IP, Listed]) -> None:
        self._policies, self._listed = policies, listed

    def findings(self) -> Iterable[Finding]:
        if self._listed.synced:
            yield from findings(self._policies.rows.values(), self._listed.rows)
