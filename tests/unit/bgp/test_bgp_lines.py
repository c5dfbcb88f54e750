"""What is said to ExaBGP and what it answers; samples are ExaBGP 5.0.15's own lines."""

from ipaddress import ip_address, ip_network

import pytest

from bgp.desired import Peering, RouteKey
from bgp.exabgp.config import config_text
from bgp.exabgp.lines import (
    SessionEvent,
    announce,
    checked,
    dumped_neighbors,
    dumped_route,
    end_of_rib,
    event,
    is_event,
    withdraw,
)
from bgp.peer import Route
from bgp.reasons import reason, silent

PEER = ip_address("10.99.0.1")
KEY4 = RouteKey(PEER, ip_network("10.1.0.0/24"))
KEY6 = RouteKey(PEER, ip_network("fd01::/64"))
PEERING = Peering(
    "router", PEER, 65000, ip_address("10.99.0.11"), 65101, 9, 120, ("podCIDRs",), "peers.yaml"
)

HEAD = '{ "exabgp": "5.0.0", "time": 1.5, "host" : "vm", "pid" : 7, "ppid" : 1, "counter": 1, '
NEIGHBOR = (
    '"neighbor": { "address": { "local": "10.99.0.11", "peer": "10.99.0.1" }, '
    '"asn": { "local": 65101, "peer": 65000 }, "router-id": "10.99.0.11" , '
)


def state(words: str) -> SessionEvent:
    said = event(f'{HEAD}"type": "state", {NEIGHBOR}{words} }} }}')
    assert said is not None
    return said


def sent(code: int, subcode: int, text: str = "") -> SessionEvent:
    return SessionEvent("notification", PEER, text=text, sent=True, code=code, subcode=subcode)


def received(code: int, subcode: int, text: str = "") -> SessionEvent:
    return SessionEvent("notification", PEER, text=text, code=code, subcode=subcode)


def test_a_route_names_peer_prefix_and_next_hop() -> None:
    hop = ip_address("10.99.0.11")
    line = announce(KEY4, Route(KEY4.prefix, hop))
    assert line == "neighbor 10.99.0.1 announce route 10.1.0.0/24 next-hop 10.99.0.11"
    assert withdraw(KEY4, hop) == line.replace("announce", "withdraw")


def test_end_of_rib_is_per_session_and_family() -> None:
    line = end_of_rib(PEER, "ipv6 unicast")
    assert line == "neighbor 10.99.0.1 announce eor ipv6 unicast"


def test_a_next_hop_of_the_other_family_is_refused() -> None:
    with pytest.raises(ValueError, match="other family"):
        announce(KEY6, Route(KEY6.prefix, ip_address("10.99.0.11")))


@pytest.mark.parametrize(
    "line",
    [
        "announce ipv4 mpls-vpn 10.1.0.0/24 rd 65001:1 label 3 next-hop 10.99.0.11",
        "neighbor 10.99.0.1 announce ipv6 mpls-vpn fd01::/64 rd 65001:1 next-hop fd99::11",
        "neighbor 10.99.0.1 withdraw route 10.1.0.0/24 rd 65001:1 next-hop 10.99.0.11",
        "neighbor 10.99.0.1 announce route 10.1.0.0/24 next-hop self",
        "announce route 10.1.0.0/24 next-hop 10.99.0.11",
        "neighbor 10.99.0.1 announce eor ipv4 mpls-vpn",
        "neighbor 10.99.0.1 announce route 10.1.0.0/24 next-hop 10.99.0.11\nshutdown",
        "clear adj-rib out",
        "shutdown",
        "",
    ],
)
def test_every_form_that_poisons_a_session_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a command of the speaker"):
        checked(line)


def test_events_are_told_from_answers() -> None:
    assert is_event(f'{HEAD}"type": "state" }}')
    assert not is_event('{"peer": {"address": "10.99.0.1"}}')
    assert not is_event("done")


def test_a_session_comes_up_and_goes_down_with_its_reason() -> None:
    assert state('"state": "up"').state == "up"
    down = state('"state": "down", "reason": "notification received (6,2)"')
    assert (down.peer, down.state, down.text) == (PEER, "down", "notification received (6,2)")


def test_a_received_notification_is_read_from_its_packet() -> None:
    said = event(
        f'{HEAD}"type": "notification", {NEIGHBOR}"direction": "receive", '
        '"message": { "category": 3, "header": "0xFF", "body": "0x0202FE4D" } } }'
    )
    assert said is not None
    assert (said.code, said.subcode, said.sent, said.text) == (2, 2, False, "")


def test_a_sent_notification_carries_its_text() -> None:
    said = event(
        f'{HEAD}"type": "notification", {NEIGHBOR}"direction": "send", "notification": '
        '{ "code": 2, "subcode": 2, "data": "0x41", "message": "ASN in OPEN (65000) did not" } } }'
    )
    assert said == sent(2, 2, "ASN in OPEN (65000) did not")


def test_negotiated_families_are_kept() -> None:
    said = event(
        f'{HEAD}"type": "negotiated", {NEIGHBOR}"negotiated": '
        '{ "hold_time": 9, "families": ["ipv4 unicast", "ipv6 unicast"] } } }'
    )
    assert said is not None
    assert said.families == ("ipv4 unicast", "ipv6 unicast")


def test_events_that_nobody_needs_are_none() -> None:
    assert event(f'{HEAD}"type": "update", {NEIGHBOR}"message": {{}} }} }}') is None
    assert (
        event('{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }') is None
    )


def test_a_line_of_the_adjacency_dump_is_a_route() -> None:
    line = (
        '{"peer": {"address": "10.99.0.1"}, "route": {"nlri": {"prefix": "2001:db8:100::10/128", '
        '"nexthop": "fd99::11", "family": {"afi": "ipv6", "safi": "unicast"}}, "attributes": {}}}'
    )
    prefix = ip_network("2001:db8:100::10/128")
    assert dumped_route(line) == (RouteKey(PEER, prefix), Route(prefix, ip_address("fd99::11")))


def test_only_negotiated_families_of_an_established_session_count() -> None:
    def sample(fsm: str, ipv6: str) -> str:
        families = f'{{"ipv4 unicast": true, "ipv6 unicast": {ipv6}}}'
        return f'{{"fsm": "{fsm}", "peer": {{"address": "10.99.0.1", "families": {families}}}}}'

    rows = [sample("ESTABLISHED", "true"), sample("ESTABLISHED", "false"), sample("IDLE", "null")]
    up, partly, down = dumped_neighbors(f"[{', '.join(rows)}]")
    assert up.families == ("ipv4 unicast", "ipv6 unicast")
    assert partly.families == ("ipv4 unicast",)
    assert (down.established, down.families) == (False, ())


@pytest.mark.parametrize(
    ("down", "said", "words"),
    [
        ("x", sent(2, 2, "ASN in OPEN (65009) did"), "the router is 65009, the BGPPeer says 65000"),
        ("x", received(2, 2), "AS mismatch: the router expects another AS than our 65101"),
        ("x", sent(4, 0), "hold timer expired: nothing heard from 10.99.0.1 for 9 s"),
        ("x", received(4, 0), "hold timer expired: the router heard nothing"),
        ("x", received(3, 10), "the router refuses our route (3/10)"),
        ("x", received(6, 2), "the router has shut this session down"),
        ("x", received(6, 10), "BFD"),
        ("x", sent(6, 3), "we have closed the session"),
        ("closing connection: Broken TCP connection", None, "is not reachable, or refuses"),
        ("closing connection: … closed by the remote end", None, "does not know 10.99.0.11"),
        (
            "graceful restarted negotiated, closing without sending any notification",
            None,
            "new conf",
        ),
        ("something new", None, "something new"),
    ],
)
def test_the_reason_names_the_side_that_has_to_act(
    down: str, said: SessionEvent | None, words: str
) -> None:
    assert words in reason(PEERING, down, said)


def test_silence_hints_at_a_password() -> None:
    assert "MD5 password" in silent(PEERING)


def test_the_configuration_holds_every_session_and_waits_with_end_of_rib() -> None:
    other = Peering("v6", ip_address("fd99::1"), 65000, ip_address("fd99::11"), 65101, 9, 0, ())
    text = config_text([other, PEERING], ip_address("10.99.0.11"), ["/usr/bin/python3", "relay.py"])
    assert text.index("neighbor 10.99.0.1 {") < text.index("neighbor fd99::1 {")
    assert text.count("manual-eor true") == text.count("adj-rib-out true") == 2
    assert "graceful-restart 120;" in text
    assert "graceful-restart disable;" in text
    assert "local-address fd99::11" in text


def test_a_path_that_the_grammar_would_split_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot contain"):
        config_text([], ip_address("10.99.0.11"), ["python3", "/run/a b/relay.ctl"])
