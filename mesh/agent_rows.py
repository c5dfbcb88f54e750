"""The agent's tables as the rows that ``meshgate NOUN list`` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mesh.agent_tables import AgentTables
from mesh.core.address import unpacked
from mesh.core.model import IP
from mesh.datapath import Datapath
from mesh.identity import parse_label_text
from mesh.observe.drops import drop_rows
from mesh.observe.flows import Flows
from mesh.rows import node_row, service_row

Row = dict[str, Any]


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
    own = dict.fromkeys(tables.identities.values(), tables.config.cluster.name)
    peers = {number: row.cluster for number, row in tables.peers.identities.rows.items()}
    return [
        {
            "cluster": cluster,
            "id": number,
            "labels": [f"k8s:{k}={v}" for k, v in parse_label_text(tables.labels[number])],
        }
        for number, cluster in sorted({**peers, **own}.items())
    ]


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

    def order(address: IP) -> tuple[int, IP]:
        return address.version, address

    rows = tables.block_row.rows.values()
    return [
        {
            "address": str(row.address),
            "number": row.number,
            "first": row.first,
            "last": row.last,
            "cluster": row.cluster,
            "node": row.node,
            "epoch": row.epoch,
        }
        for row in sorted(rows, key=lambda row: (*order(row.address), row.number))
    ]
