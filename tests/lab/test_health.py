"""Status says what hurts: drops at a rate, a stranger's noise, settings and routes of the host."""

from __future__ import annotations

from typing import Any

from running import Lab, wait

POD = "east/shop/client-1"
#: Packets of a protocol that cannot be translated; ports of an egress address that nobody has.
SCTP = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
for _ in range(20):
    sock.sendto(bytes(12), (sys.argv[1], 0))
"""
NOISE = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(200):
    sock.sendto(b"?", (sys.argv[1], 60000 + number))
"""


def status(lab: Lab) -> dict[str, Any]:
    whole: dict[str, Any] = lab.json("status")
    return whole


def findings(lab: Lab, code: str) -> list[dict[str, Any]]:
    return [one for one in status(lab)["findings"] if one["code"] == code]


def egress_address(lab: Lab) -> str:
    return str(lab.shown["egress"][0]["addresses"][0])


def legacy_address(lab: Lab) -> str:
    return str(lab.shown["legacy"]["addresses"][0])


def test_a_pod_whose_packets_are_dropped_is_a_finding(lab: Lab) -> None:
    lab.python(POD, SCTP, legacy_address(lab))
    wait(lambda: findings(lab, "D630"), 15, "the drops are a finding")
    (one,) = findings(lab, "D630")
    node = lab.pod(POD)["node"]
    assert one["object"] == f"{node}/agent"
    assert "cannot be translated" in one["text"]
    (drops,) = [
        row
        for row in status(lab)["drops"]
        if (row["node"], row["reason"]) == (node, "NAT unsupported protocol")
    ]
    assert drops.keys() == {"reason", "packets", "node"}
    assert drops["packets"] == 20
    usage = {(row["what"], row["node"]): row for row in status(lab)["usage"]}
    ports = usage[f"ports {egress_address(lab)}", node]
    assert ports.keys() == {"what", "node", "used", "size"}
    assert ports["size"] == 512  # a block, and a spare one
    rows = [row for row in lab.json("drop", "list") if row["node"] == node]
    assert all(row["since"] > 0 for row in rows)


def test_what_a_stranger_sends_is_a_line_and_no_finding(lab: Lab) -> None:
    before = status(lab)["findings"]
    lab.python("legacy", NOISE, egress_address(lab))

    def noise() -> int:
        rows = [row for row in status(lab)["drops"] if row["reason"] == "Block no owner"]
        return sum(row["packets"] for row in rows)

    wait(lambda: noise() >= 100, 15, "the drops are seen")
    codes = {(one["code"], one["field"]) for one in status(lab)["findings"]}
    assert codes <= {(one["code"], one["field"]) for one in before}
    assert "Block no owner" in lab.run("status").stdout


def test_what_is_set_on_each_host_is_listed(lab: Lab) -> None:
    rows = lab.json("host", "list")
    assert all(row.keys() == {"node", "setting", "was", "now", "why"} for row in rows)
    assert all(row["why"] for row in rows)
    mine = {row["setting"]: row for row in rows if row["node"] == "east-1"}
    assert mine["net.ipv6.conf.all.forwarding"]["now"] == "1"
    assert mine["net.ipv4.conf.mg_vxlan.forwarding"]["now"] == "1"
    assert mine["links mgp*"]["now"] == "2"


def test_a_firewall_that_stops_our_packets_is_a_finding_until_it_does_not(lab: Lab) -> None:
    """One of nftables on west-2, and the policies of the old iptables on west-1."""
    rules = "add chain inet stops input { type filter hook input priority 0; }; "
    rules += "add rule inet stops input udp dport 8472 drop"
    policies = ("iptables-legacy", "ip6tables-legacy")
    lab.output("west-2", "nft", f"add table inet stops; {rules}")
    for command in policies:
        lab.output("west-1", command, "-P", "FORWARD", "DROP")
    try:
        wait(lambda: len(findings(lab, "D641")) == 3, 60, "the firewalls are findings")
        found = {(one["object"], one["field"]): one["text"] for one in findings(lab, "D641")}
        assert found.keys() == {
            ("west-2/agent", "table inet stops chain input"),
            ("west-1/agent", "chain FORWARD of iptables-legacy (IPv4)"),
            ("west-1/agent", "chain FORWARD of ip6tables-legacy (IPv6)"),
        }
    finally:
        lab.output("west-2", "nft", "delete table inet stops")
        for command in policies:
            lab.output("west-1", command, "-P", "FORWARD", "ACCEPT")
    wait(lambda: not findings(lab, "D641"), 60, "the findings have ended")


def test_a_default_route_that_is_lost_is_a_finding_until_it_is_back(lab: Lab) -> None:
    words = lab.output("west-2", "ip", "-6", "route", "show", "default").split()
    way = words[: words.index("dev") + 2]
    lab.output("west-2", "ip", "-6", "route", "del", *way)
    try:
        wait(lambda: findings(lab, "D642"), 30, "the lost route is a finding")
        assert findings(lab, "D642")[0]["field"] == "default IPv6"
    finally:
        lab.output("west-2", "ip", "-6", "route", "add", *way)
    wait(lambda: not findings(lab, "D642"), 30, "the finding has ended")


def test_a_setting_that_somebody_changes_is_a_finding(lab: Lab) -> None:
    name = "net.ipv4.conf.mg_vxlan.forwarding"
    lab.output("west-2", "sysctl", "-qw", f"{name}=0")
    try:
        wait(lambda: findings(lab, "D640"), 15, "the setting is a finding")
        (one,) = findings(lab, "D640")
        assert (one["object"], one["field"]) == ("west-2/agent", name)
    finally:
        lab.output("west-2", "sysctl", "-qw", f"{name}=1")
    wait(lambda: not findings(lab, "D640"), 15, "the finding has ended")
