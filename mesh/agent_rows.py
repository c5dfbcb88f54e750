"""The agent's tables as the rows that ``meshgate NOUN list`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.agent_tables import AgentTables
from mesh.core.address import packed, unpacked
from mesh.core.model import Identity
from mesh.datapath.programs import Datapath
from mesh.observe.drops import drop_rows
from mesh.observe.flows import Flows
from mesh.rows import Row, block_row, identity_row, node_row, service_row


def nouns(
    tables: AgentTables, flows: Flows, datapath: Datapath
) -> dict[str, Callable[[], Sequence[Row]]]:
    """Rows by noun, made when somebody asks."""
    node = tables.config.node
    drops = datapath.map("mg_drop")
    return {
        "node": lambda: [node_row(row) for row in tables.node.rows.values()],
        "pod": lambda: pod_rows(tables),
        "identity": lambda: identity_rows(tables),
        "address": lambda: address_rows(tables),
        "service": lambda: [service_row(row) for row in tables.service.rows.values()],
        "block": lambda: block_rows(tables),
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


def identity_rows(tables: AgentTables) -> list[Row]:
    """Identities of all clusters."""
    cluster = tables.config.cluster.name
    own = [Identity(cluster, number, labels) for labels, number in tables.identities.items()]
    peers = tables.peers.identities.rows.values()
    return [identity_row(row) for row in sorted([*own, *peers], key=lambda row: row.id)]


def address_rows(tables: AgentTables) -> list[Row]:
    """Addresses of all clusters."""
    clusters = {number: name for name, number in tables.cluster_ids.items()}
    nodes = tables.nodes_by_endpoint()
    keys, values = tables.address.rows()
    return [
        {
            "address": str(unpacked(key)),
            "identity": identity,
            "cluster": clusters.get(cluster),
            "node": nodes.get(node),
        }
        for key, (identity, node, _, cluster, _) in sorted(
            zip(keys.tolist(), values.tolist(), strict=True)
        )
    ]


def block_rows(tables: AgentTables) -> list[Row]:
    """Port blocks of this cluster's egress addresses."""
    rows = tables.block_row.rows.values()
    return [
        block_row(row) for row in sorted(rows, key=lambda row: (packed(row.address), row.number))
    ]
