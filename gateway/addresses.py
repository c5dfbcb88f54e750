"""Egress addresses in the controller: claimed for policies, carried by nodes, drained, given back.

An address that no policy wants any more drains: its claim stays, and those of its carriers and
blocks, until every node has said that nothing of it is in use there (``claims.is_free``). Which
policy has which address is judged at once, because policies share pools; what follows is derived by
address.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from gateway import blocks, claims
from gateway.coverage import Coverage
from gateway.findings import (
    BLOCK_SIZE_LATER,
    DENIED,
    GRANT_OF_UNKNOWN,
    NO_FREE_ADDRESS,
    NO_FURTHER_ADDRESS,
    NO_POOL,
    OUTSIDE_POOLS,
    POOL_OF_UNKNOWN,
)  # fmt: skip
from gateway.plan import names_of
from gateway.policy import POLICIES, EgressPolicy
from gateway.pool import POOLS, EgressPool, has
from gateway.spread import crowded_blocks
from mesh.core.feature import Claimable, Want
from mesh.core.groups import By, To
from mesh.core.model import IP, Claim, ClaimKey, Draining, Finding, Listed, Node
from mesh.core.reconcile import Loop
from mesh.core.sources import OwnStore
from mesh.core.table import Source, Table
from mesh.objects.kubernetes import NODES
from mesh.objects.tables import Objects

_DROPPED = "covered packets are dropped"


class Addresses:
    """``wants`` are addresses, carriers and drains; ``kept_blocks`` those of draining addresses."""

    def __init__(
        self,
        cluster: str,
        objects: Objects,
        coverage: Coverage,
        store: OwnStore,
        used: Table[tuple[str, IP], int],
        blocks_per_node: int,
        clusters: Table[str, int],
        heard: Source,
    ) -> None:
        self._clusters, self._heard = clusters, heard
        self._used, self._most = used, blocks_per_node
        #: How full the addresses in use are.
        self.fill: Table[IP, claims.Fill] = Table("fill of egress address")
        self._cluster, self._objects, self._coverage = cluster, objects, coverage
        self._claims = store.claims_of(claims.NOUN)
        self._carriers = store.claims_of(claims.CARRIER).held
        self._drains = store.claims_of(claims.DRAINING).held
        self._blocks = store.claims_of(blocks.NOUN).held
        self._said, self._listed = store.draining, store.listed
        self.wants = tuple(
            Table[Want, bool](f"{noun} wanted") for noun in ("egress address", "carrier", "drain")
        )
        self.claims = (
            Claimable(claims.NOUN, lambda _: (), released=True, named=claims.named_number),
            Claimable(claims.CARRIER, lambda _: claims.CARRIERS, released=True),
            Claimable(claims.DRAINING, lambda _: range(1), released=True, rest_s=0.0),
        )
        self.kept_blocks: Table[Want, bool] = Table("block of draining address")
        #: Addresses that policies want: the policy in the owner, and the ports of a block.
        self._wanted: Table[IP, tuple[str, int]] = Table("wanted address")
        #: Addresses that are claimed and that no policy wants; those of them that are not free.
        self._unwanted: Table[IP, Claim] = Table("unwanted address")
        self._resting: Table[IP, Claim] = Table("unwanted address that is not free")
        #: Likewise, while nodes carry them.
        self.draining: Table[IP, Claim] = Table("draining address")
        #: Addresses in use, which nodes carry.
        self.carried: Table[IP, bool] = Table("carried address")
        self._full: Sequence[tuple[str, int]] = ()
        self._crowded: Sequence[tuple[str, int]] = ()

    def derive(self, loop: Loop) -> None:
        """Add the derivations."""
        pools = self._coverage.addressed.pools
        loop.group(self.fill, self._fill, By(self._used, lambda place, _: [place[1]]))
        inputs: list[Source] = [
            self._objects[POLICIES], pools.table, pools.denied, self._claims.held,
            self._claims.resting,
        ]  # fmt: skip
        loop.derive(inputs, self._judge, [self.fill])
        loop.group(
            self._resting,
            self._if_not_free,
            By(self._unwanted, needed=True),
            By(self._drains, claims.addresses_of_key),
            By(self._said, lambda place, _: [place[1]]),
            To(self._listed, lambda address, *_: address),
            whole=[self._objects[NODES]],
        )
        loop.group(
            self.draining,
            _if_carried,
            By(self._resting, needed=True),
            To(self._listed, lambda address, _: address),
        )
        loop.group(self.wants[0], _egress_wants, By(self._wanted), By(self._resting))
        # The claim of a drain goes after that of its address. An address without it would drain
        # anew, in an epoch of which no node has said anything.
        loop.group(self.wants[2], _drain_wants, By(self._unwanted))
        loop.group(self.carried, _carried, By(self._wanted), By(self.draining))
        loop.group(
            self.wants[1],
            _carriers_wanted,
            By(self.carried, needed=True),
            To(self._coverage.gateways.given, lambda address, _: address),
            By(self._carriers, claims.addresses_of_key),
        )
        loop.group(
            self.kept_blocks,
            _kept_blocks,
            By(self._blocks, claims.addresses_of_key),
            To(self.draining, lambda address, _: address),
        )

    def _fill(self, address: IP, used: Mapping[tuple[str, IP], int]) -> dict[IP, claims.Fill]:
        most, crowded = max(used.values(), default=0), crowded_blocks(self._most)
        row = claims.Fill(most > 0, most >= crowded, 2 * most < crowded)
        return {address: row} if used else {}

    def _judge(self) -> None:
        pools = self._coverage.addressed.pools
        held = _by_address(self._claims.held.rows)
        resting = _by_address(self._claims.resting.rows)
        wanted = claims.wanted_addresses(
            _usable(self._objects[POLICIES].rows.values(), pools.denied.rows),
            pools.table.rows,
            {address: claims.policy_of(claim.owner) for address, claim in held.items()},
            {address: claims.policy_of(claim.owner) for address, claim in resting.items()},
            self.fill.rows,
        )
        self._full, self._crowded = wanted.full, wanted.crowded
        known = {**resting, **held}
        self._wanted.replace(
            {
                one: (policy, self._size(policy, known.get(one)))
                for one, policy in wanted.addresses.items()
            }
        )
        self._unwanted.replace(
            {one: claim for one, claim in held.items() if one not in wanted.addresses}
        )

    def _size(self, policy: str, known: Claim | None) -> int:
        """Ports of a block of an address: as long as it is claimed, or rests, what they were."""
        if known is not None:
            return claims.size_of(known.owner)
        row = self._objects[POLICIES].rows.get(policy)
        pool = self._coverage.addressed.pools.table.rows.get(row.pool) if row else None
        return pool.block_size if pool else 0

    def _if_not_free(
        self,
        address: IP,
        claim: Claim,
        drains: Mapping[ClaimKey, Claim],
        said: Mapping[tuple[str, IP], Draining],
        listed: Listed | None,
    ) -> dict[IP, Claim]:
        """An unwanted address is free when no node has it in use, and no feed has it."""
        epoch = max((claim.epoch for claim in drains.values()), default=None)
        nodes = [key.name for key in self._objects[NODES].rows if key.cluster == self._cluster]
        if listed is None and claims.is_free(epoch, (said.get((node, address)) for node in nodes)):
            return {}
        return {address: claim}  # where it is listed, a firewall may have it in its list

    def draining_of_policy(self) -> dict[str, list[IP]]:
        """Draining addresses by the policy that had them."""
        found: dict[str, list[IP]] = {}
        for address, claim in sorted(self.draining.rows.items(), key=_place):
            found.setdefault(claims.policy_of(claim.owner), []).append(address)
        return found

    def findings(self) -> Iterator[Finding]:
        """Policies whose addresses are not what they should be, and pools that overlap."""
        pools, policies = self._coverage.addressed.pools, self._objects[POLICIES].rows
        yield from pools.findings()
        named = self._objects[POOLS].rows
        if self._heard.synced:  # else it is not known which clusters there are
            others = self._clusters.rows.keys() - {self._cluster}
            yield from _cluster_findings(others, named.values(), policies)
        for row in policies.values():
            yield from _pool_findings(row, named)
            yield from _address_findings(row, pools.table.rows, pools.denied.rows)
        for name, family in self._full:
            if policy := policies.get(name):
                text = f"pool {policy.pool} has no free IPv{family} address: {_DROPPED}"
                about = (f"egress/{name}", f"egresspool/{policy.pool}")
                yield Finding(NO_FREE_ADDRESS, policy.origin, "spec.pool", text, about)
        yield from self._sizes_kept(policies, pools.table.rows)
        for name, family in self._crowded:
            if policy := policies.get(name):
                text = (
                    f"the IPv{family} addresses of {name} fill on a node, and pool {policy.pool} "
                    "has no further one"
                )
                about = (f"egress/{name}", f"egresspool/{policy.pool}")
                yield Finding(NO_FURTHER_ADDRESS, policy.origin, "spec.pool", text, about)

    def _sizes_kept(
        self, policies: Mapping[str, EgressPolicy], pools: Mapping[str, EgressPool]
    ) -> Iterator[Finding]:
        """Addresses whose blocks are of another size than their pool says by now."""
        for address, claim in _by_address(self._claims.held.rows).items():
            row = policies.get(claims.policy_of(claim.owner))
            pool = pools.get(row.pool) if row else None
            size = claims.size_of(claim.owner)
            if pool is None or size == pool.block_size or not has(pool, address):
                continue
            text = (
                f"{address} keeps blocks of {size or 'the configured'} ports until it has drained "
                "and rested"
            )
            about = (f"egresspool/{pool.name}", f"address/{address}")
            yield Finding(BLOCK_SIZE_LATER, pool.origin, "spec.blockSize", text, about)


def _cluster_findings(
    others: Collection[str], pools: Iterable[EgressPool], policies: Mapping[str, EgressPolicy]
) -> Iterator[Finding]:
    """Grants and policies that name a cluster which nobody knows."""
    for pool in pools:
        for number, grant in enumerate(pool.grants):
            if grant.cluster not in others:
                field = f"spec.grants[{number}].cluster"
                text = f"no other cluster is called {grant.cluster}"
                yield Finding(GRANT_OF_UNKNOWN, pool.origin, field, text, _of_pool(pool))
    for name, row in policies.items():
        cluster, _, _ = row.pool.rpartition("/")
        if cluster and cluster not in others:
            text = f"no other cluster is called {cluster}: {_DROPPED}"
            yield Finding(POOL_OF_UNKNOWN, row.origin, "spec.pool", text, (f"egress/{name}",))


def _of_pool(pool: EgressPool) -> tuple[str, ...]:
    return (f"egresspool/{pool.name}",)


def _pool_findings(row: EgressPolicy, pools: Mapping[str, EgressPool]) -> Iterator[Finding]:
    if row.pool and row.pool not in pools and "/" not in row.pool:
        text = f"no EgressPool is called {row.pool}: {_DROPPED}"
        yield Finding(NO_POOL, row.origin, "spec.pool", text, (f"egress/{row.name}",))


def _address_findings(
    row: EgressPolicy, pools: Mapping[str, EgressPool], denied: Mapping[IP, None]
) -> Iterator[Finding]:
    field = f"spec.{row.fields.addresses.removeprefix('spec.')}"
    for number, address in enumerate(row.addresses):
        place = f"{field}[{number}]" if field == "spec.addresses" else field
        if address in denied:
            text = f"{address} is denied by a pool: {_DROPPED}"
            yield Finding(DENIED, row.origin, place, text, (f"egress/{row.name}",))
        elif pools and not _in_pool(address, pools.values()):
            text = f"{address} is in no EgressPool; it is used as it is"
            yield Finding(OUTSIDE_POOLS, row.origin, place, text, (f"egress/{row.name}",))


def _place(row: tuple[IP, Claim]) -> tuple[int, int]:
    return row[0].version, int(row[0])


def _in_pool(address: IP, pools: Iterable[EgressPool]) -> bool:
    return any(address in one for pool in pools for one in pool.cidrs)


def _usable(policies: Iterable[EgressPolicy], denied: Mapping[IP, None]) -> Iterator[EgressPolicy]:
    """Policies without the fixed addresses that nobody may use."""
    for policy in policies:
        (row,) = claims.with_addresses(policy.name, policy, {}, None, denied).values()
        yield policy if policy.pool else row


def _by_address(rows: Mapping[ClaimKey, Claim]) -> dict[IP, Claim]:
    found = ((claims.address_of(key), claim) for key, claim in rows.items())
    return {address: claim for address, claim in found if address is not None}


def _if_carried(address: IP, claim: Claim, listed: Listed | None) -> dict[IP, Claim]:
    """No node carries one that has drained, and is kept only since a firewall may let it pass."""
    return {} if listed is not None and listed.leaving else {address: claim}


def _egress_wants(
    address: IP, wanted: tuple[str, int] | None, resting: Claim | None
) -> dict[Want, bool]:
    if wanted is not None:
        return {claims.egress_want(address, *wanted): True}
    if resting is None:
        return {}
    owner = claims.policy_of(resting.owner), claims.size_of(resting.owner)
    return {claims.egress_want(address, *owner): True}


def _drain_wants(address: IP, _: Claim) -> dict[Want, bool]:
    return {claims.draining_want(address): True}


def _carried(address: IP, *_: object) -> dict[IP, bool]:
    return {address: True}


def _carriers_wanted(
    address: IP, _: object, gateways: tuple[Node, ...] | None, held: Mapping[ClaimKey, Claim]
) -> dict[Want, bool]:
    """The gateways of the address; without any those that have carried it, also absent ones."""
    names = names_of(gateways) if gateways else [claim.owner for claim in held.values()]
    return {claims.carrier_want(address, name): True for name in names}


def _kept_blocks(_: IP, held: Mapping[ClaimKey, Claim], draining: Claim | None) -> dict[Want, bool]:
    """Blocks of a draining address stay with their nodes."""
    if draining is None:
        return {}
    return {Want(blocks.NOUN, key.pool, claim.owner): True for key, claim in held.items()}
