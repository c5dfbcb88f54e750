"""The agent's tables as the rows that ``meshgate NOUN list`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.agent_tables import AgentTables
from mesh.core.address import unpacked
from mesh.core.model import Identity
from mesh.core.noun import Listing, Row, Rows
from mesh.datapath.programs import Datapath
from mesh.observe.drops import drop_rows
from mesh.observe.events import Flows
from mesh.rows import block_row, identity_row, node_row, service_row


def nouns(tables: AgentTables, flows: Flows, datapath: Datapath) -> Mapping[str, Listing]:
    """Rows by noun, taken when somebody asks and made when they are sent."""
    node = tables.config.node
    drops = datapath.map("mg_drop")
    return {
        "node": lambda: Rows.of(tables.node.rows.values(), node_row),
        "pod": lambda: pod_rows(tables),
        "identity": lambda: identity_rows(tables),
        "address": lambda: address_rows(tables),
        "service": lambda: Rows.of(tables.service.rows.values(), service_row),
        "block": lambda: Rows.of(tables.block_row.rows.values(), block_row),
        "egress": tables.egress_listed,
        "drop": lambda: drop_rows(node, *drops.dump_percpu(), flows.texts),
    }


def pod_rows(tables: AgentTables) -> list[Row]:
    """Pods of this node."""
    return [
        {
            "cluster": key.cluster,
            "namespace": key.namespace,
            "name": key.name,
            "node": pod.node,
            "addresses": [str(address) for address in pod.addresses],
            "identity": tables.identity_of(pod),
        }
        for key, pod in sorted(tables.local_pod.rows.items())
    ]


def identity_rows(tables: AgentTables) -> Sequence[Row]:
    """Identities of all clusters."""
    cluster = tables.config.cluster.name

    def shown(item: Identity | tuple[str, int]) -> Row:
        if isinstance(item, Identity):
            return identity_row(item)
        labels, number = item
        return identity_row(Identity(cluster, number, labels))

    items: list[Identity | tuple[str, int]] = [*tables.identities.items()]
    return Rows.of([*items, *tables.peers.identities.rows.values()], shown)


def address_rows(tables: AgentTables) -> Sequence[Row]:
    """Addresses of all clusters."""
    clusters = {number: name for name, number in tables.cluster_ids.items()}
    nodes = tables.nodes_by_endpoint()
    keys, values = tables.address.rows()

    def part(begin: int, end: int) -> list[Row]:
        pairs = zip(keys[begin:end].tolist(), values[begin:end].tolist(), strict=True)
        return [
            {
                "address": str(unpacked(key)),
                "identity": identity,
                "cluster": clusters.get(cluster),
                "node": nodes.get(node),
            }
            for key, (identity, node, _, cluster, _) in pairs
        ]

    return Rows(len(keys), part)
