"""UPDATEs to rows and back; samples are FRR 8.4's, ExaBGP 5.0's and of the RFCs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from bgp.route import Family, ServiceSID
from bgp.wire import communities
from bgp.wire.attributes import merged
from bgp.wire.encode import attribute, encode
from bgp.wire.rows import Attributes, Nlri, Update
from bgp.wire.service import Unusable, behaviour_of, real_sid
from bgp.wire.update import decode


def octets(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", "").replace("\n", ""))


#: VPNv4 over iBGP as we send it; FRR takes it.
OURS = octets(
    """0000 0064 80 0e 20 0001 80 0c 0000000000000000 0a63000b 00
    70 000031 0000fde900000001 0a014d 40 01 01 00 40 02 00 40 05 04 00000064
    c0 10 08 0002fde900000064
    c0 28 25 05002200 01001e00 fcbbbb00000100770000000000000000 00001300 010006 201010000000"""
)
#: FRR 8.4's: transposed, behaviour opaque, next hop with a link-local half, long lengths.
FRR = octets(
    """0000 0091 90 0e 0044 0001 80 30 0000000000000000 fd990000000000000000000000000005
    0000000000000000 fe8000000000000068d14dfffea22593 00 70 010003 0000fde9000001f4 0a3205
    40 01 01 02 50 02 0000 80 04 04 00000000 40 05 04 00000064 c0 10 08 0002fde900000064
    c0 28 25 05002200 01001e00 fcbbbb00000500000000000000000000 00ffff00 010006 281810001040"""
)
SID = ServiceSID(IPv6Address("fcbb:bb00:1:1::"), 19, (32, 16, 16, 0, 0, 0))
#: Route distinguisher 0 and an address, as in VPN next hops.
GLOBAL = "0000000000000000 fd990000000000000000000000000001"


def unicast(prefix: str, hop: str | None = "10.99.0.1") -> Nlri:
    network = ip_network(prefix)
    family = Family.IPV4 if network.version == 4 else Family.IPV6
    return Nlri(family, network, next_hop=ip_address(hop) if hop else None)


def vpn(prefix: str, rd: str = "65001:1", label: int = 3, hop: str | None = "fd99::1") -> Nlri:
    network = ip_network(prefix)
    family = Family.VPNV4 if network.version == 4 else Family.VPNV6
    return Nlri(family, network, rd, label, ip_address(hop) if hop else None)


FULL = Attributes(
    origin=2,
    as_path=(65002, 4200000001),
    med=50,
    local_preference=200,
    communities=("65001:100", "no-export"),
    large=("4200000000:1:2", "65001:1:2"),
    extended=("origin:10.99.0.1:5", "target:4200000000:7", "target:65001:100"),
    service=SID,
    originator=IPv4Address("10.99.0.3"),
)
SIMPLE = Attributes(as_path=(65002,), local_preference=100)
ROWS = [
    Update((unicast("10.1.0.0/24"), unicast("0.0.0.0/0"), unicast("10.2.0.1/32")), (), FULL),
    Update((unicast("10.1.0.0/24", "fd99::1"),), (), SIMPLE),
    Update((unicast("fd01::/64", "fd99::1"), unicast("::/0", "fd99::1")), (), SIMPLE),
    Update((vpn("10.1.2.0/24"), vpn("10.1.3.0/25", "10.99.0.1:7", 4096)), (), FULL),
    Update((vpn("10.1.2.0/24", hop="10.99.0.1"),), (), SIMPLE),
    Update((vpn("fd01::/64", "4200000000:1"),), (), FULL),
    Update((vpn("fd01::/64", "65001L:1", hop="10.99.0.1"),), (), FULL),
    Update((), (unicast("10.1.0.0/24", None), unicast("10.2.0.0/16", None))),
    Update((), (unicast("fd01::/64", None),)),
    Update((), (vpn("10.1.2.0/24", hop=None),)),
    Update((unicast("10.1.0.0/24"),), (vpn("fd01::/64", hop=None),), SIMPLE),
    *(Update(end_of_rib=family) for family in Family),
]


@pytest.mark.parametrize("row", ROWS)
def test_what_is_encoded_is_decoded_as_it_was(row: Update) -> None:
    assert decode(encode(row)) == row


def test_our_own_form_is_encoded_to_the_same_bytes() -> None:
    for body in [OURS, *map(encode, ROWS)]:
        assert encode(decode(body)) == body


def test_a_vpn_route_as_we_send_it() -> None:
    said = decode(OURS)
    (one,) = said.announced
    assert one == Nlri(
        Family.VPNV4, ip_network("10.1.77.0/24"), "65001:1", 3, ip_address("10.99.0.11")
    )
    sid = ServiceSID(IPv6Address("fcbb:bb00:1:77::"), 19, (32, 16, 16, 0, 0, 0))
    assert said.attributes == Attributes(
        local_preference=100, extended=("target:65001:100",), service=sid
    )


def test_the_sid_of_frr_is_computed_from_the_label() -> None:
    said = decode(FRR)
    (one,) = said.announced
    assert (one.label, one.next_hop) == (4096, ip_address("fd99::5")), "no link-local half"
    service = said.attributes.service
    assert service is not None
    assert real_sid(service, one.label) == IPv6Address("fcbb:bb00:5:0:100::")
    assert real_sid(service, 8192) == IPv6Address("fcbb:bb00:5:0:200::")
    assert behaviour_of(service, Family.VPNV4) == 19
    assert behaviour_of(service, Family.VPNV6) == 18
    assert behaviour_of(SID, Family.VPNV6) == 19, "as it was said"


@pytest.mark.parametrize(
    ("sid", "structure", "label", "real"),
    [
        ("fc00:0:a0ba::", (32, 16, 16, 0, 16, 48), 0xEC70, "fc00:0:a0ba:ec7::"),
        ("fcbb:bb00:1:1::", (32, 16, 16, 0, 0, 0), 3, "fcbb:bb00:1:1::"),
        ("fcbb:bb00:1:1::", None, 4096, "fcbb:bb00:1:1::"),
    ],
)
def test_a_transposed_sid(
    sid: str, structure: tuple[int, int, int, int, int, int] | None, label: int, real: str
) -> None:
    assert real_sid(ServiceSID(IPv6Address(sid), 63, structure), label) == IPv6Address(real)


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ((64, 32, 32, 1, 0, 0), "129 bits"),
        ((32, 16, 32, 0, 21, 48), "21 transposed bits"),
        ((32, 16, 16, 0, 16, 64), "end at 80 of 64"),
        ((32, 16, 16, 0, 0, 48), "none is transposed"),
        ((32, 16, 16, 0, 16, 16), "not zero"),
    ],
)
def test_a_sid_that_must_not_be_used(
    structure: tuple[int, int, int, int, int, int], words: str
) -> None:
    with pytest.raises(Unusable, match=words):
        real_sid(ServiceSID(IPv6Address("fcbb:1::"), 19, structure), 16)


@pytest.mark.parametrize("sid", ["::", "::1", "ff02::1", "fe80::1"])
def test_an_address_that_is_no_sid(sid: str) -> None:
    with pytest.raises(Unusable, match="not routable"):
        real_sid(ServiceSID(IPv6Address(sid), 19), 3)


def prefix_sid(value: str) -> Update:
    """An UPDATE of one VPN route whose Prefix-SID attribute has this value."""
    plain = encode(Update((vpn("10.1.2.0/24"),), (), SIMPLE))
    more = attribute(0xC0, 40, octets(value))
    length = int.from_bytes(plain[2:4]) + len(more)
    return decode(plain[:2] + length.to_bytes(2) + plain[4:] + more)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("05", "ends within a header"),
        ("050001", "type 5 has 1 octets, and 0 are left"),
        ("050000", "the SRv6 L3 Service TLV is empty"),
        ("05000200 01", "the SRv6 L3 Service TLV ends within a header"),
        ("050006 00 010002 0000", "has 2 octets instead of 21"),
        ("", "Prefix-SID has 0 octets"),
    ],
)
def test_a_malformed_service_withdraws_its_route(value: str, words: str) -> None:
    said = prefix_sid(value)
    assert words in said.treat_as_withdraw
    assert not said.announced
    assert [one.prefix for one in said.withdrawn] == [ip_network("10.1.2.0/24")]
    assert not said.reset


def test_unknown_parts_of_a_service_are_passed_over() -> None:
    known = "010015 00 fcbbbb00000100010000000000000000 00 0013 00"
    said = prefix_sid(f"ee0002 7788 05001d 07 020001 aa {known}")
    assert said.attributes.service == ServiceSID(IPv6Address("fcbb:bb00:1:1::"), 19)
    assert prefix_sid("01000700000000000064").attributes.service is None, "Label-Index only"


def attributes(*parts: tuple[int, int, str]) -> bytes:
    return b"".join(attribute(flags, code, octets(value)) for flags, code, value in parts)


BASE = ((0x40, 1, "00"), (0x40, 2, "02010000fdea"), (0x40, 3, "0a630001"))


def update(*parts: tuple[int, int, str], prefixes: str = "180a0100") -> bytes:
    path = attributes(*parts)
    return bytes(2) + len(path).to_bytes(2) + path + octets(prefixes)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((0x80, 4, "000000"), "MULTI_EXIT_DISC has 3 octets"),
        ((0xC0, 8, "0000"), "COMMUNITIES has 2 octets"),
        ((0xC0, 8, ""), "COMMUNITIES has 0 octets"),
        ((0xC0, 16, "00020000"), "EXTENDED COMMUNITIES has 4 octets"),
        ((0xC0, 32, "0000000000000000"), "LARGE COMMUNITIES has 8 octets"),
        ((0xC0, 4, "00000000"), "MULTI_EXIT_DISC has flags 0xc0"),
        ((0x40, 8, "fde90064"), "COMMUNITIES has flags 0x40"),
    ],
)
def test_a_malformed_attribute_withdraws_the_routes_of_its_update(
    more: tuple[int, int, str], words: str
) -> None:
    said = decode(update(*BASE, more), external=True)
    assert (said.treat_as_withdraw, said.reset) == (words, "")
    assert [one.prefix for one in said.withdrawn] == [ip_network("10.1.0.0/24")]
    assert not said.announced


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (((0x40, 1, "03"), *BASE[1:]), "ORIGIN is 3"),
        ((BASE[0], (0x40, 2, "05010000fdea"), BASE[2]), "AS_PATH has a segment of type 5"),
        ((BASE[0], (0x40, 2, "0200"), BASE[2]), "AS_PATH has a segment without a number"),
        ((BASE[0], (0x40, 2, "02020000fdea"), BASE[2]), "AS_PATH ends within a segment"),
        (BASE[1:], "ORIGIN is missing"),
        (BASE[:2], "NEXT_HOP is missing"),
        ((BASE[0], BASE[2]), "AS_PATH is missing"),
        ((*BASE[:2], (0x40, 3, "00000000")), "0.0.0.0 is no next hop"),
        ((*BASE[:2], (0x40, 3, "e0000001")), "224.0.0.1 is no next hop"),
    ],
)
def test_a_wrong_mandatory_attribute_withdraws(
    parts: tuple[tuple[int, int, str], ...], words: str
) -> None:
    assert decode(update(*parts), external=True).treat_as_withdraw == words


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((0xC0, 7, "0000"), "AGGREGATOR has 2 octets"),
        ((0x40, 6, "00"), "ATOMIC_AGGREGATE has 1 octets"),
    ],
)
def test_an_attribute_of_no_weight_is_discarded_alone(
    more: tuple[int, int, str], words: str
) -> None:
    said = decode(update(*BASE, more), external=True)
    assert said.attributes.discarded == (words,)
    assert len(said.announced) == 1


def test_what_only_an_own_router_may_say_is_nothing_from_another_as() -> None:
    body = update(*BASE, (0x40, 5, "0064"), (0x80, 9, "00"))
    assert decode(body, external=True).attributes.local_preference is None
    assert decode(body).treat_as_withdraw == "LOCAL_PREF has 2 octets"
    missing = decode(update(*BASE))
    assert missing.treat_as_withdraw == "LOCAL_PREF is missing"


def test_of_two_attributes_of_a_kind_the_first_counts() -> None:
    said = decode(update(*BASE, (0x80, 4, "00000001"), (0x80, 4, "00000002")), external=True)
    assert said.attributes.med == 1
    reach = (0x80, 14, "000201 10 fd990000000000000000000000000001 00 40fd01000000000000")
    twice = decode(update(*BASE[:2], reach, reach, prefixes=""), external=True)
    assert twice.reset == "MP_REACH_NLRI occurs twice"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "an UPDATE of 0 octets"),
        ("0005 0000", "the withdrawn routes have 5 octets of 4"),
        ("0000 0007", "the attributes have 7 octets, and 0 are left"),
    ],
)
def test_lengths_that_do_not_fit_are_a_reset(body: str, words: str) -> None:
    assert decode(octets(body)).reset == words


def test_prefixes_that_cannot_be_read_are_a_reset_and_none_is_announced() -> None:
    said = decode(update(*BASE, prefixes="180a0100 21 0a010000 00"), external=True)
    assert said.reset == "ipv4 unicast: a prefix of 33 bits"
    assert [one.prefix for one in said.withdrawn] == [ip_network("10.1.0.0/24")]
    said = decode(update(*BASE, prefixes="180a0100 180a01"), external=True)
    assert said.reset == "ipv4 unicast: a prefix of 24 bits ends beyond its field"
    reach = (0x80, 14, "000201 05 fd99000000 00 40fd01000000000000")
    said = decode(update(*BASE[:2], reach, prefixes=""), external=True)
    assert said.reset == "MP_REACH_NLRI: a next hop of 5 octets for ipv6 unicast"


def test_a_family_that_we_do_not_have_says_nothing() -> None:
    evpn = (0x80, 14, "001946 04 0a630001 00 0302aabb")
    assert decode(update(*BASE[:2], evpn, prefixes=""), external=True) == Update()


@pytest.mark.parametrize(
    ("family", "hop", "address"),
    [
        ("000101", "0a630001", "10.99.0.1"),
        ("000101", "fd990000000000000000000000000001", "fd99::1"),
        ("000201", "fd990000000000000000000000000001", "fd99::1"),
        (
            "000201",
            "fd990000000000000000000000000001 fe800000000000000000000000000001",
            "fd99::1",
        ),
        ("000180", "0000000000000000 0a630001", "10.99.0.1"),
        ("000180", "0000000000000000 fd990000000000000000000000000001", "fd99::1"),
        (
            "000280",
            f"{GLOBAL} {16 * '0'} fe800000000000000000000000000001",
            "fd99::1",
        ),
        ("000280", "0000000000000000 00000000000000000000ffff0a630001", "10.99.0.1"),
    ],
)
def test_next_hops_of_every_length(family: str, hop: str, address: str) -> None:
    vpn_front = "58" if family.endswith("80") else "00"
    front = f"{vpn_front}{'0000310000fde900000001' if vpn_front == '58' else ''}"
    value = f"{family} {len(octets(hop)):02x} {hop} 00 {front}"
    said = decode(update(*BASE[:2], (0x80, 14, value), prefixes=""), external=True)
    assert [one.next_hop for one in said.announced] == [ip_address(address)]


def test_as_numbers_of_two_octets_are_completed() -> None:
    body = encode(replace(ROWS[1], attributes=replace(SIMPLE, as_path=(65002, 4200000001))))
    short = encode(decode(body), asn4=False)
    assert decode(short, asn4=False).attributes.as_path == (65002, 4200000001)
    assert merged((65001, 23456), (4200000001,)) == (65001, 4200000001)
    assert merged((65001,), (65001, 4200000001)) == (65001,), "RFC 6793: a longer one is wrong"


@pytest.mark.parametrize(
    "text", ["65001:1", "10.99.0.1:7", "4200000000:1", "65001L:1", "0x0009010203040506"]
)
def test_distinguishers_keep_their_bytes(text: str) -> None:
    assert communities.distinguisher(communities.distinguisher_bytes(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "target:65001:100",
        "target:10.99.0.1:5",
        "target:65001L:5",
        "origin:65001:1",
        "0x4004fde900000000",
    ],
)
def test_extended_communities_keep_their_bytes(text: str) -> None:
    assert communities.extended(communities.extended_bytes(text)) == (text,)


@pytest.mark.parametrize("text", ["65001", "1:65536", "a:1", "-1:1", "no-exports", "²:1"])
def test_what_is_no_community_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        communities.standard_bytes(text)


def cuts() -> Iterator[bytes]:
    """Each attribute of both samples cut at each of its octets, the lengths around it adapted."""
    for body in (OURS, FRR, encode(ROWS[0])):
        path = body[4 : 4 + int.from_bytes(body[2:4])]
        at = 0
        while at < len(path):
            head = 4 if path[at] & 0x10 else 3
            length = int.from_bytes(path[at + 2 : at + head])
            value = path[at + head : at + head + length]
            for keep in range(length):
                one = attribute(path[at] & ~0x10, path[at + 1], value[:keep])
                whole = path[:at] + one + path[at + head + length :]
                yield body[:2] + len(whole).to_bytes(2) + whole + body[4 + len(path) :]
            at += head + length


def mutated(count: int) -> Iterator[bytes]:
    chance = random.Random(7606)
    bodies = [OURS, FRR, *map(encode, ROWS)]
    for _ in range(count):
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.3:
            del body[chance.randrange(len(body)) :]
        yield bytes(body)


def check(body: bytes, *, asn4: bool, external: bool) -> None:
    """One of the declared results, and nothing in between."""
    said = decode(body, asn4=asn4, external=external)
    assert not (said.treat_as_withdraw and said.reset)
    if said.treat_as_withdraw or said.reset:
        assert (said.announced, said.end_of_rib) == ((), None)
    if said.end_of_rib is not None:
        assert (said.announced, said.withdrawn) == ((), ())
    for one in said.announced:
        assert one.next_hop is not None
        assert not one.next_hop.is_multicast
        if said.attributes.service is not None:
            with suppress(Unusable):
                real_sid(said.attributes.service, one.label)
    for one in said.withdrawn:
        assert (one.next_hop, one.family.version) == (None, one.prefix.version)
    if is_canonical(said) and asn4 and not external:
        assert decode(encode(said)) == said, "the row is a fixed point"


def is_canonical(said: Update) -> bool:
    """Whether our encoder can say it in one UPDATE."""
    hops = {(one.family, one.next_hop) for one in said.announced}
    return len(hops) == 1 and not said.attributes.discarded


def test_every_cut_of_every_attribute_has_a_declared_result() -> None:
    for body in cuts():
        check(body, asn4=True, external=False)
        check(body, asn4=False, external=True)


def test_every_cut_of_the_message_has_a_declared_result() -> None:
    for body in (OURS, FRR, *map(encode, ROWS)):
        for end in range(len(body)):
            check(body[:end], asn4=True, external=True)


def test_2000_mutated_updates_have_declared_results() -> None:
    for number, body in enumerate(mutated(2000)):
        check(body, asn4=number % 3 != 0, external=number % 2 == 0)
