"""What is said to ExaBGP and what it answers; samples are ExaBGP 5.0.15's own lines."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from bgp.desired import Peering
from bgp.exabgp import said
from bgp.exabgp.commands import announcements, checked, end_of_rib, withdrawals
from bgp.exabgp.config import config_text
from bgp.exabgp.lines import Heard, OddLine, SessionEvent, dumped_neighbors, event, is_event
from bgp.exabgp.said import dumped_route
from bgp.peer import Advertise
from bgp.reasons import closed, notified, silent
from bgp.route import Family, PeerKey, Route, RouteKey, ServiceSID

PEER = ip_address("10.99.0.1")
KEY4 = RouteKey(PEER, ip_network("10.1.0.0/24"))
KEY6 = RouteKey(PEER, ip_network("fd01::/64"))
PEERING = Peering(
    "router",
    PEER,
    65000,
    ip_address("10.99.0.11"),
    65101,
    9,
    120,
    (Advertise("podCIDRs"),),
    "peers.yaml",
)

HEAD = '{ "exabgp": "5.0.0", "time": 1.5, "host" : "vm", "pid" : 7, "ppid" : 1, "counter": 1, '
NEIGHBOR = (
    '"neighbor": { "address": { "local": "10.99.0.11", "peer": "10.99.0.1" }, '
    '"asn": { "local": 65101, "peer": 65000 }, "router-id": "10.99.0.11" , '
)


def state(words: str) -> SessionEvent:
    heard = event(f'{HEAD}"type": "state", {NEIGHBOR}{words} }} }}')
    assert isinstance(heard, SessionEvent)
    return heard


def sent(code: int, subcode: int, text: str = "") -> SessionEvent:
    return SessionEvent("notification", PEER, text=text, sent=True, code=code, subcode=subcode)


def received(code: int, subcode: int, text: str = "") -> SessionEvent:
    return SessionEvent("notification", PEER, text=text, code=code, subcode=subcode)


HOP, HOP6 = ip_address("10.99.0.11"), ip_address("fd99::11")
ASNS: dict[PeerKey, int] = {PEER: 65101}
#: The attributes of a route of each kind, and the words of the command.
SAID = [
    (Route(KEY4.prefix, HOP), "next-hop 10.99.0.11"),
    (
        Route(
            KEY4.prefix, HOP, ("65001:100", "no-export"), ("65001:1:2",), ("target:65001:100",),
            50, 200, 2,
        ),
        (
            "next-hop 10.99.0.11 community [ 65001:100 no-export ] large-community [ 65001:1:2 ] "
            "extended-community [ 0x0002fde900000064 ] med 50 local-preference 200 "
            "as-path [ 65101 65101 65101 ]"
        ),
    ),
    (
        Route(KEY4.prefix, HOP, extended=("origin:10.1.1.1:5", "target:4200000000:7")),
        "next-hop 10.99.0.11 extended-community [ 0x01030a0101010005 0x0202fa56ea000007 ]",
    ),
    (
        Route(
            KEY4.prefix, HOP6, rd="10.99.0.11:7",
            sid=ServiceSID(ip_address("fcbb:bb00:1:1::"), 19, (32, 16, 16, 0, 0, 0)),
        ),
        (
            "next-hop fd99::11 bgp-prefix-sid-srv6 ( l3-service fcbb:bb00:1:1:: 0x0013 "
            "[32,16,16,0,0,0] ) rd 10.99.0.11:7 label 3"
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("route", "words"), SAID)
def test_a_route_is_said_with_its_attributes_and_read_back(route: Route, words: str) -> None:
    key = RouteKey(PEER, route.prefix, route.rd)
    wrong: dict[RouteKey, Exception] = {}
    ((line, keys),) = announcements({key: route}, ASNS, wrong)
    assert line == f"neighbor 10.99.0.1 announce attributes {words} nlri 10.1.0.0/24"
    assert (keys, wrong) == ([key], {})
    assert list(said.routes(f"10.99.0.1 | {words} | 10.1.0.0/24")) == [(key, route)]


def test_routes_with_the_same_attributes_share_commands_of_a_bounded_length() -> None:
    keys = [RouteKey(PEER, ip_network(f"10.{n >> 8}.{n & 255}.0/24")) for n in range(1200)]
    rows = {key: Route(key.prefix, HOP) for key in keys}
    rows[KEY6] = Route(KEY6.prefix, HOP6)
    told = list(announcements(rows, ASNS, {}))
    assert [len(part) for _, part in told] == [500, 500, 200, 1]
    assert [key for _, part in told for key in part] == list(rows)


def test_a_withdrawal_repeats_next_hop_rd_and_label() -> None:
    vpn = RouteKey(PEER, KEY4.prefix, "65001:1")
    rows = {KEY4: Route(KEY4.prefix, HOP), vpn: Route(KEY4.prefix, HOP6, rd="65001:1")}
    assert [line for line, _ in withdrawals(rows)] == [
        "neighbor 10.99.0.1 withdraw attributes next-hop 10.99.0.11 nlri 10.1.0.0/24",
        (
            "neighbor 10.99.0.1 withdraw attributes next-hop fd99::11 rd 65001:1 label 3 "
            "nlri 10.1.0.0/24"
        ),
    ]


def test_a_withdrawal_has_prefixes_of_one_family() -> None:
    """FRR answers 3/9 to both families in one MP_UNREACH_NLRI."""
    keys = [RouteKey(PEER, key.prefix, "65001:1") for key in (KEY4, KEY6)]
    rows = {key: Route(key.prefix, HOP6, rd="65001:1") for key in keys}
    assert [found for _, found in withdrawals(rows)] == [[key] for key in keys]


def test_end_of_rib_is_per_session_and_family() -> None:
    line = end_of_rib(PEER, Family.IPV6)
    assert line == "neighbor 10.99.0.1 announce eor ipv6 unicast"
    assert end_of_rib(PEER, Family.VPNV4) == "neighbor 10.99.0.1 announce eor ipv4 mpls-vpn"


def test_a_next_hop_of_the_other_family_costs_its_route() -> None:
    wrong: dict[RouteKey, Exception] = {}
    rows = {KEY6: Route(KEY6.prefix, HOP), KEY4: Route(KEY4.prefix, HOP)}
    assert [keys for _, keys in announcements(rows, ASNS, wrong)] == [[KEY4]]
    assert "other family" in str(wrong[KEY6])


def test_a_word_that_is_none_costs_its_routes() -> None:
    wrong: dict[RouteKey, Exception] = {}
    rows = {
        KEY4: Route(KEY4.prefix, HOP, communities=("1:1 ] med 5 nlri 0.0.0.0/0",)),
        KEY6: Route(KEY6.prefix, HOP6, extended=("nonsense:1:1",)),
    }
    assert not list(announcements(rows, ASNS, wrong))
    assert set(wrong) == {KEY4, KEY6}


@pytest.mark.parametrize(
    "line",
    [
        "announce ipv4 mpls-vpn 10.1.0.0/24 rd 65001:1 label 3 next-hop 10.99.0.11",
        "neighbor 10.99.0.1 announce ipv6 mpls-vpn fd01::/64 rd 65001:1 next-hop fd99::11",
        "neighbor 10.99.0.1 withdraw route 10.1.0.0/24 rd 65001:1 next-hop 10.99.0.11",
        "neighbor 10.99.0.1 withdraw attributes next-hop fd99::1 rd 65001:1 nlri 10.1.0.0/24",
        "neighbor 10.99.0.1 announce attributes next-hop self nlri 10.1.0.0/24",
        "neighbor 10.99.0.1 announce attributes next-hop fd99::1 rd 1:1 label 7 nlri 10.1.0.0/24",
        "announce attributes next-hop 10.99.0.11 nlri 10.1.0.0/24",
        "neighbor 10.99.0.1 announce eor ipv4 flow",
        "neighbor 10.99.0.1 announce attributes next-hop 10.99.0.11 nlri 10.1.0.0/24\nshutdown",
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
    assert isinstance(said, SessionEvent)
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
    assert isinstance(said, SessionEvent)
    assert said.families == ("ipv4 unicast", "ipv6 unicast")


def test_events_that_nobody_needs_are_none() -> None:
    assert event(f'{HEAD}"type": "update", {NEIGHBOR}"message": {{}} }} }}') is None
    assert (
        event('{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }') is None
    )


def test_an_update_is_passed_on_as_it_was_on_the_wire() -> None:
    for direction, received in (("receive", True), ("send", False)):
        line = (
            f'{HEAD}"type": "update", {NEIGHBOR}"direction": "{direction}", '
            '"message": { "category": 2, "body": "0x00000000" } } }'
        )
        assert event(line) == Heard(2, PEER, received, bytes(4))


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ("00010001", (Family.IPV4, "query")),
        ("00020180", (Family.VPNV6, "begin")),
        ("00010280", (Family.VPNV4, "end")),
        ("00010385", None),
        ("0001", None),
    ],
)
def test_a_route_refresh_names_family_and_purpose(body: str, meant: object) -> None:
    """RFC 2918 3, RFC 7313 3.2."""
    line = (
        f'{HEAD}"type": "route-refresh", {NEIGHBOR}"direction": "receive", '
        f'"message": {{ "category": 5, "body": "0x{body}" }} }} }}'
    )
    heard = event(line)
    assert isinstance(heard, Heard)
    assert heard.refresh() == meant


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


def notification(body: str) -> SessionEvent:
    """A received one, as ExaBGP passes it on."""
    said = event(
        f'{HEAD}"type": "notification", {NEIGHBOR}"direction": "receive", '
        f'"message": {{ "category": 3, "header": "0xFF", "body": "0x{body}" }} }} }}'
    )
    assert isinstance(said, SessionEvent)
    return said


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (sent(2, 2, "ASN in OPEN (65009) did"), "the router is 65009, the BGPPeer says 65000"),
        (received(2, 2), "AS mismatch: the router expects another AS than our 65101"),
        (sent(4, 0), "hold timer expired: nothing heard from 10.99.0.1 for 9 s"),
        (received(4, 0), "hold timer expired: the router heard nothing"),
        (received(3, 10), "the router refuses our route (3/10)"),
        (received(6, 2), "the router has shut this session down"),
        (received(6, 10), "BFD"),
        (sent(6, 3), "we have closed the session"),
        (received(2, 6), "the router closes the session: the other side's hold time"),
        (sent(5, 1), "we close the session: a message came that does not belong here (5/1)"),
        (received(9, 9), "a code that we do not know (9/9)"),
    ],
)
def test_the_reason_names_the_side_that_has_to_act(said: SessionEvent, words: str) -> None:
    assert words in notified(PEERING, said)


@pytest.mark.parametrize(
    ("down", "words"),
    [
        ("closing connection: Broken TCP connection", "is not reachable, or refuses"),
        ("connection to 10.99.0.1:179 failed", "is not reachable, or refuses"),
        ("closing connection: the TCP … closed by the remote end", "does not know 10.99.0.11"),
        ("graceful … closing without sending any notification", "a new configuration"),
        (
            "closing connection: Could not bind to local ip 10.99.0.11 - [Errno 99] Cannot assign",
            "this host does not have the address 10.99.0.11",
        ),
        ("closing connection: issue reading on the socket: [Errno 104] ECONNRESET", "broke"),
        ("something new [Errno 5]", "has ended without a NOTIFICATION"),
    ],
)
def test_a_connection_that_ends_is_told_in_words(down: str, words: str) -> None:
    text = closed(PEERING, down)
    assert words in text
    assert "Errno" not in text
    assert "something new" not in text


def test_what_the_operator_of_the_router_has_written_is_shown() -> None:
    """RFC 9003: a length, then UTF-8."""
    text = "maintenance until 18:00, thé".encode()
    said = notification(f"0602{len(text):02x}{text.hex()}")
    assert said.text == "maintenance until 18:00, thé"
    assert notified(PEERING, said).endswith(
        'administrative shutdown) (6/2): "maintenance until 18:00, thé"'
    )


@pytest.mark.parametrize("body", ["0602", "060200", "0602ff41", "0602024aff", "0604050a0a0a1b41"])
def test_a_text_that_is_none_is_no_harm(body: str) -> None:
    text = notification(body).text
    assert text.isprintable()
    assert "\n" not in text


def test_a_maximum_of_prefixes_says_its_number() -> None:
    """RFC 4486 4: AFI, SAFI, number."""
    said = notified(PEERING, notification("06010001010000000c"))
    assert said.endswith("(maximum reached): it takes 12 of ipv4 unicast (6/1)")


def test_a_hard_reset_is_its_reason() -> None:
    """RFC 8538 3.1: code and subcode of the reason stand in the data."""
    said = notification("06090602" + "0441424344")
    assert (said.code, said.subcode, said.text) == (6, 2, "ABCD")
    assert (notification("0609").code, notification("0609").subcode) == (6, 9)


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


def test_the_configuration_says_who_dials_with_which_key_and_ttl() -> None:
    key = 's3 "cret;'
    one = replace(PEERING, password=key, ttl_security=True, families=tuple(Family))
    text = config_text([one], ip_address("10.99.0.11"), ["relay.py"])
    assert "md5-base64 true; md5-password czMgImNyZXQ7;" in text
    assert "outgoing-ttl 255; incoming-ttl 255;" in text
    assert "connect" not in text
    other = config_text([replace(PEERING, port=1790)], ip_address("10.99.0.11"), ["relay.py"])
    assert "connect 1790;" in other
    assert "family { ipv4 unicast; ipv6 unicast; ipv4 mpls-vpn; ipv6 mpls-vpn; }" in text
    assert "nexthop { ipv4 unicast ipv6; ipv4 mpls-vpn ipv6; }" in text
    members = replace(PEERING, address=ip_network("10.99.0.0/24"), passive=True, port=1790)
    text = config_text([replace(members, multihop=3)], ip_address("10.99.0.11"), ["relay.py"])
    assert text.index("neighbor 10.99.0.0/24 {")
    assert "passive true; listen 1790; outgoing-ttl 3;" in text


def test_a_former_exabgp_gets_what_it_can_do() -> None:
    one = replace(PEERING, families=tuple(Family))
    text = config_text([one], ip_address("10.99.0.11"), ["relay.py"], former=True)
    assert "mpls-vpn" not in text
    assert "nexthop" not in text
    assert "update;" not in text


def test_a_path_that_the_grammar_would_split_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot contain"):
        config_text([], ip_address("10.99.0.11"), ["python3", "/run/a b/relay.ctl"])


ODD = [
    "[]",
    '"state"',
    "{",
    '{ "exabgp": "5.0.0", "type": ["state"], "neighbor": {} }',
    f'{HEAD}"type": "state", "neighbor": "10.99.0.1" }}',
    f'{HEAD}"type": "state", "neighbor": {{ "address": "10.99.0.1" }} }}',
    f'{HEAD}"type": "state", "neighbor": {{ "address": {{ "peer": 7 }} }} }}',
    f'{HEAD}"type": "state", "neighbor": {{ "address": {{ "peer": "router" }} }} }}',
    f'{HEAD}"type": "state", {NEIGHBOR}"state": {{}} }} }}',
    f'{HEAD}"type": "negotiated", {NEIGHBOR}"negotiated": ["ipv4 unicast"] }} }}',
    f'{HEAD}"type": "negotiated", {NEIGHBOR}"negotiated": {{ "families": 7 }} }} }}',
    f'{HEAD}"type": "notification", {NEIGHBOR}"notification": [6, 2] }} }}',
    f'{HEAD}"type": "notification", {NEIGHBOR}"notification": {{ "code": "6" }} }} }}',
    f'{HEAD}"type": "notification", {NEIGHBOR}"notification": {{ "code": 6666 }} }} }}',
    f'{HEAD}"type": "notification", {NEIGHBOR}"message": {{ "body": 6 }} }} }}',
    f'{HEAD}"type": "notification", {NEIGHBOR}"message": {{ "body": "0xzz" }} }} }}',
    f'{HEAD}"type": "state", {NEIGHBOR}"state": {"[" * 100_000}',
]


@pytest.mark.parametrize("line", ODD, ids=range(len(ODD)))
def test_an_odd_event_is_an_odd_line_and_no_other_error(line: str) -> None:
    with pytest.raises(OddLine) as caught:
        event(line)
    named = any(f'"{key}": "10.99.0.1"' in line for key in ("peer", "address"))
    assert caught.value.peer == (PEER if named else None)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"peer": [], "route": {}}',
        '{"peer": {"address": "10.99.0.1"}, "route": {"nlri": ["10.1.0.0/24"]}}',
        '{"peer": {"address": "10.99.0.1"}, "route": {"nlri": {"prefix": 1, "nexthop": "::"}}}',
        '{"peer": {"address": "10.99.0.1"}, "route": {"nlri": {"prefix": "a", "nexthop": "::"}}}',
    ],
)
def test_an_odd_route_is_an_odd_line_and_no_other_error(line: str) -> None:
    with pytest.raises(OddLine):
        dumped_route(line)


def test_an_odd_session_costs_itself() -> None:
    good = '{"fsm": "ESTABLISHED", "peer": {"address": "10.99.0.2", "families": {}}}'
    bad = '{"fsm": 7, "peer": {"address": "10.99.0.1"}}'
    odd: list[OddLine] = []
    assert [str(one.peer) for one in dumped_neighbors(f"[{bad}, {good}]", odd.append)] == [
        "10.99.0.2"
    ]
    assert [one.peer for one in odd] == [PEER]
    with pytest.raises(OddLine):
        dumped_neighbors("{}")


def test_a_family_that_we_have_not_asked_for_counts_as_none() -> None:
    """End-of-RIB of another one would be no command of ours."""
    said = event(
        f'{HEAD}"type": "negotiated", {NEIGHBOR}"negotiated": '
        '{ "families": ["ipv4 flow", "ipv4 mpls-vpn", "ipv6 unicast"] } } }'
    )
    assert isinstance(said, SessionEvent)
    assert said.families == (Family.IPV6, Family.VPNV4)


def test_what_a_terminal_would_obey_is_shown_as_question_marks() -> None:
    said = state(r'"state": "down", "reason": "a\u001b[2Jb\u202ec\nd"')
    assert said.text == "a?[2Jb?c d"
