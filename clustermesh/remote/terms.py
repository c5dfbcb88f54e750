"""The claims that a cluster may have by its contract; or, while it has none, at all (D60).

A cluster with a contract (``ClusterPeer``) gets the terms of the contract. One without is
provisional. It has pods in private or unique-local space, and neither pods nor nodes where what we
do would change: destinations of egress policies, addresses of routers and of the store, what
contracts give to others; and no pods where a host of ours has a route other than the default one.
Its nodes may be anywhere else: a tunnel's outer packets go where the routes lead, and the addresses
of nodes are most often in a network that hosts of ours are connected to.

Each function raises ``NotAccepted``. Nothing here enters a claim: ``holdings.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from clustermesh.contract import Contract
from clustermesh.findings import BEYOND_CONTRACT, BEYOND_PROVISIONAL
from clustermesh.remote.holdings import Ledger, NotAccepted, readable
from mesh.core.model import IP, Network
from mesh.core.space import PRIVATE, within


def check_pods(ledger: Ledger, cluster: str, field: str, network: Network) -> None:
    """Pods in a network, which is one address where a node has no pod CIDR."""
    contract = ledger.contracts.get(cluster)
    if contract is not None:
        _check_given(contract, "podCIDRs", contract.pod_cidrs, field, network)
        return
    if not within(PRIVATE, network):
        why = "it is no private or unique-local space"
    else:
        why = ledger.barred(network, pods=True)
    _check_free(cluster, field, network, why)


def check_pod(ledger: Ledger, cluster: str, field: str, address: int) -> None:
    """A pod whose address lies in no pod CIDR of a node."""
    check_pods(ledger, cluster, field, ip_network(readable(address)))


def check_node_address(ledger: Ledger, cluster: str, field: str, address: IP) -> None:
    """An address of a node: its tunnel endpoint is one of these."""
    contract, network = ledger.contracts.get(cluster), ip_network(address)
    if contract is not None:
        _check_given(contract, "nodeCIDRs", contract.node_cidrs, field, network)
    else:
        _check_free(cluster, field, network, ledger.barred(network, pods=False))


def check_router(ledger: Ledger, cluster: str, field: str, address: IP) -> None:
    """A further address of a node, which is one among its pods or among the nodes."""
    contract, network = ledger.contracts.get(cluster), ip_network(address)
    if contract is not None:
        given = (*contract.pod_cidrs, *contract.node_cidrs)
        _check_given(contract, "podCIDRs", given, field, network)
    else:
        _check_free(cluster, field, network, ledger.barred(network, pods=False))


def check_locator(ledger: Ledger, cluster: str, field: str, locator: Network) -> None:
    """The locator of a node: its segments are tunnel endpoints, too."""
    contract = ledger.contracts.get(cluster)
    if contract is not None:
        _check_given(contract, "nodeCIDRs", contract.node_cidrs, field, locator)
    else:
        _check_free(cluster, field, locator, ledger.barred(locator, pods=False))


def check_namespace(ledger: Ledger, cluster: str, field: str, namespace: str) -> None:
    """A namespace of services or of pods."""
    contract = ledger.contracts.get(cluster)
    if contract is not None and not contract.gives_namespace(namespace):
        text = f"namespace {namespace} is not in spec.namespaces of {contract}"
        raise NotAccepted(BEYOND_CONTRACT, field, text)


def check_services(ledger: Ledger, cluster: str, field: str, addresses: Iterable[IP]) -> None:
    """Virtual addresses of a service. Without a contract nothing here uses them."""
    contract = ledger.contracts.get(cluster)
    if contract is None:
        return
    for address in addresses:
        network = ip_network(address)
        _check_given(contract, "serviceCIDRs", contract.service_cidrs, field, network)


def _check_given(
    contract: Contract, name: str, given: Iterable[Network], field: str, network: Network
) -> None:
    if not within(given, network):
        text = f"{_text(network)} is not in spec.{name} of {contract}"
        raise NotAccepted(BEYOND_CONTRACT, field, text)


def _check_free(cluster: str, field: str, network: Network, why: str) -> None:
    if why:
        text = f"{_text(network)}: {why}; cluster {cluster} has no contract that gives it"
        raise NotAccepted(BEYOND_PROVISIONAL, field, text)


def _text(network: Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address if whole else network)
