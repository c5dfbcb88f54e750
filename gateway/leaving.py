"""Egress on a node that is being left: first no new connection, then none at all.

While the node is drained the rows of ``mg_egress`` exclude whatever they covered: what is
translated already goes on, since it hangs on its address and port and on no row of this map, and
new connections pass by. Afterwards no address has a gateway, so what is left is reset
(``ended.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.rows import Action, AnyKey, EgressKey, EgressRow


def without_new(rows: Mapping[AnyKey, EgressRow]) -> dict[AnyKey, EgressRow]:
    """Rows of a class by which no new connection is translated, nor dropped."""
    return {key: EgressRow(Action.EXCLUDED) for key in rows if isinstance(key, EgressKey)}
