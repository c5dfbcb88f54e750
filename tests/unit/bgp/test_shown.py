"""Sessions and routes as the command line prints them, and why a prefix is none."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from bgp import nouns, verbs
from bgp.desired import Peering
from bgp.exabgp.engine import Engine
from bgp.exabgp.session import Session
from bgp.exabgp.states import State
from bgp.peer import Advertise
from bgp.ribs.capabilities import mismatches
from bgp.ribs.listings import Listings
from bgp.ribs.routes import Ribs
from bgp.ribs.shown import Shown
from bgp.ribs.why import unannounced
from bgp.route import Family, Route, RouteKey
from bgp.wire.opening import Opening
from bgp.wire.rows import Attributes, Nlri, Update
from mesh.cli import main
from mesh.core.feature import Offer
from mesh.core.model import Requirement, Selector
from mesh.core.noun import Row

ROUTER, ME = ip_address("10.99.0.1"), ip_address("10.99.0.11")
BOTH = (Family.IPV4, Family.IPV6)
PODS = Advertise("podCIDRs")
SESSION = Peering("r", ROUTER, 65000, ME, 65101, 9, 120, (PODS,), origin="BGPPeer/r")
UP = State("established", "", 1.0, BOTH)
POD, EGRESS = ip_network("10.1.0.0/24"), ip_network("198.51.100.10/32")
OFFERS = {"podCIDRs": [Offer(POD)], "egressIPs": [Offer(EGRESS)]}
HOPS = {4: ME, 6: None}


def announced(*prefixes: str, path: tuple[int, ...] = (65000,)) -> Update:
    found = tuple(Nlri(Family.IPV4, ip_network(one), next_hop=ROUTER) for one in prefixes)
    return Update(found, (), Attributes(as_path=path, communities=("65000:1",)))


class Bed:
    def __init__(self, folder: Path, state: State = UP) -> None:
        self.session = Session(Engine(folder), IPv4Address("10.99.0.11"))
        self.session.memory.peerings = {ROUTER: SESSION}
        self.ribs = Ribs(self.session, folder, "east-1")
        self.routes: dict[RouteKey, Route] = {RouteKey(ROUTER, POD): Route(POD, ME)}
        self.errors: dict[str, str] = {}
        shown: list[Shown] = [(SESSION, ROUTER, state)]
        self.listings = Listings(
            "east-1",
            self.ribs,
            sessions=lambda: shown,
            routes=self.routes,
            errors=lambda: self.errors,
            offers=lambda: OFFERS,
            hops=lambda: HOPS,
        ).all()

    def rows(self, noun: str) -> list[Row]:
        return list(self.listings[noun]())


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    it = Bed(tmp_path)
    it.ribs.incoming.hear(ROUTER, SESSION, announced("10.7.0.0/24", "10.8.0.0/24"), 0)
    it.ribs.incoming.hear(ROUTER, SESSION, announced("10.9.0.0/24", path=(65101,)), 0)
    it.ribs.outgoing.hear(ROUTER, announced(str(POD), path=(65101,)))
    return it


def test_rows_have_the_columns_of_their_nouns(bed: Bed) -> None:
    declared = (
        nouns.PEER, nouns.DETAILS, nouns.RECEIVED, nouns.REFUSED, nouns.ADVERTISED,
        nouns.UNANNOUNCED,
    )  # fmt: skip
    assert {noun.name for noun in declared} == set(bed.listings)
    for noun in declared:
        for row in bed.rows(noun.name):
            assert set(row) == set(noun.columns), noun.name
    assert nouns.PEER.details is nouns.DETAILS


def test_a_session_says_how_many_routes_it_has_each_way(bed: Bed) -> None:
    (row,) = bed.rows("peer")
    assert (row["received"], row["advertised"], row["families"]) == (2, 1, BOTH)
    (row,) = bed.rows("peer-details")
    assert row["received"] == {"ipv4 unicast": 2}
    assert (row["looped"], row["malformed"], row["maximum"]) == (1, 0, 100_000)


def test_routes_both_ways_have_their_attributes(bed: Bed) -> None:
    row = bed.rows("peer-received")[0]
    assert (row["prefix"], row["communities"]) == (ip_network("10.7.0.0/24"), ("65000:1",))
    (row,) = bed.rows("peer-advertised")
    assert (row["prefix"], row["state"], row["asPath"]) == (POD, "sent", (65101,))
    bed.ribs.incoming.hear(ROUTER, SESSION, announced(str(POD), path=(65000, 65101)), 0)
    assert [row["state"] for row in bed.rows("peer-advertised")] == ["echoed"]
    bed.routes.clear()
    assert [row["reason"] for row in bed.rows("peer-advertised")] == ["it is being withdrawn"]


@pytest.mark.parametrize(
    ("state", "errors", "words"),
    [
        (UP, {}, "has not sent it yet"),
        (replace(UP, families=(Family.IPV6,)), {}, "the router does not take ipv4 unicast"),
        (State("down", "it is away", 1.0), {}, "the session is down: it is away"),
        (UP, {"10.1.0.0/24 to 10.99.0.1": "no room"}, "it cannot be announced: no room"),
    ],
)
def test_what_was_not_sent_says_why(
    tmp_path: Path, state: State, errors: dict[str, str], words: str
) -> None:
    it = Bed(tmp_path, state)
    it.errors |= errors
    (row,) = it.rows("peer-advertised")
    assert row["state"] == "wanted"
    assert words in row["reason"]


def why(session: Peering, *offers: Offer, kind: str = "podCIDRs") -> list[str]:
    return [reason for _, _, reason in unannounced(session, {kind: offers}, (), HOPS)]


WEB = Selector((Requirement("app", "In", ("web",)),))


@pytest.mark.parametrize(
    ("entry", "offer", "words"),
    [
        (Advertise("egressIPs"), Offer(POD), "spec.advertise of BGPPeer r does not have podCIDRs"),
        (PODS, Offer(POD, rd="65101:1"), "spec.families of BGPPeer r does not have ipv4 mpls-vpn"),
        (
            Advertise("podCIDRs", WEB),
            Offer(POD, (("app", "db"),)),
            "no selector of spec.advertisements matches its labels (app=db)",
        ),
        (
            Advertise("podCIDRs", prefixes=(ip_network("10.2.0.0/16"),)),
            Offer(POD),
            "it lies in none of the prefixes of spec.advertisements",
        ),
        (
            Advertise("podCIDRs", aggregates=(ip_network("10.0.0.0/8"),)),
            Offer(POD),
            "the aggregate 10.0.0.0/8 stands for it",
        ),
        (PODS, Offer(ip_network("fd01::/64")), "the node has no IPv6 address to be next hop"),
        (PODS, Offer(ip_network("0.0.0.0/0")), "it is a default route, which only"),
        (PODS, Offer(ip_network("10.99.0.0/24")), "the router 10.99.0.1 lies in it"),
    ],
)
def test_why_a_prefix_is_not_announced(entry: Advertise, offer: Offer, words: str) -> None:
    (reason,) = why(replace(SESSION, advertise=(entry,)), offer)
    assert words in reason


def test_what_is_to_be_announced_is_no_question(bed: Bed) -> None:
    assert [row["prefix"] for row in bed.rows("peer-unannounced")] == [EGRESS]


def test_the_reasons_of_a_question_are_one_for_each_session(bed: Bed) -> None:
    (session,) = bed.rows("peer-details")
    base = {**session, "address": str(ROUTER)}
    refused = [
        {**row, "peer": str(row["peer"]), "prefix": str(row["prefix"])}
        for row in bed.rows("peer-refused")
    ]
    (row,) = verbs.reasons("received", "10.9.0.0/24", [base], [], refused)
    assert row["reason"] == "our own AS 65101 is in its path"
    (row,) = verbs.reasons("received", "10.66.0.0/24", [base], [], refused)
    assert row["reason"] == "the router 10.99.0.1 has not sent it"
    (row,) = verbs.reasons("advertised", "10.66.0.0/24", [base], [], [])
    assert "node east-1 has nothing to announce" in row["reason"]
    down = {**base, "state": "down", "reason": "it is away"}
    (row,) = verbs.reasons("received", "10.66.0.0/24", [down], [], [])
    assert row["reason"] == "the session is down: it is away"


def test_two_opens_that_do_not_fit_are_told_in_words() -> None:
    whole = Opening(families=BOTH, refresh=True, asn4=True, restart_s=90, restart_families=BOTH)
    assert mismatches(SESSION, whole) == []
    some = replace(whole, families=(Family.IPV4, Family.VPNV4), refresh=False, asn4=False)
    words = mismatches(replace(SESSION, asn=4200000000), some)
    assert [one.split(":")[0] for one in words] == [
        "the router does not offer ipv6 unicast",
        "the router offers ipv4 mpls-vpn, which spec.families does not have",
        "the router has no route refresh",
        "the router knows no AS numbers of four octets",
    ]
    assert "does not restart gracefully" in mismatches(SESSION, replace(whole, restart_s=None))[0]
    assert mismatches(SESSION, replace(whole, restart_families=())) == [], "a helper only"


def test_an_announced_route_of_a_vrf_has_the_vrfs_name() -> None:
    key, names = RouteKey(ROUTER, POD, "10.99.0.11:7"), {"10.99.0.11:7": "blue"}
    route = Route(POD, ME, rd=key.rd)
    assert nouns.announced_row("east-1", key, route, names, announced=True)["vrf"] == "blue"
    assert nouns.announced_row("east-1", key, route, {}, announced=True)["vrf"] == key.rd
    plain = RouteKey(ROUTER, POD)
    assert nouns.announced_row("east-1", plain, Route(POD, ME), names, announced=True)["vrf"] == ""


def test_routes_of_a_session_without_any_process_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path))
    assert main(["peer", "routes", "router", "--received"]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "peer list" not in said
