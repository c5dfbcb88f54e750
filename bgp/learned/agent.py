"""Learned routes in an agent: which kernel table the datapath asks first; the speaker fills it."""

from __future__ import annotations

from collections.abc import Mapping

from bgp.learned.layouts import DECLARED
from bgp.learned.settings import BGPSettings
from mesh.core.feature import AgentFeature


class LearnedAgent(AgentFeature):
    """``mg_learned`` and the table outlive agent and speaker; neither is read here."""

    layouts = DECLARED

    def __init__(self, settings: BGPSettings) -> None:
        self._settings = settings

    def settings(self) -> Mapping[str, object]:
        return {"learned_table": self._settings.table}
