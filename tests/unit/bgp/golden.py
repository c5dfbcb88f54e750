"""Triples of a command to ExaBGP, the UPDATE that it becomes, and what that says."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from bgp.route import Family, ServiceSID
from bgp.wire.rows import Attributes, Nlri, Update

GOLDEN = Path(__file__).with_name("golden.json")


def triples() -> list[dict[str, Any]]:
    return list(json.loads(GOLDEN.read_text()))


def in_json(update: Update) -> dict[str, Any]:
    """What it says, without what is as always."""
    said = json.loads(json.dumps(asdict(update), default=str))
    plain = json.loads(json.dumps(asdict(Update()), default=str))
    shown = {name: value for name, value in said.items() if value != plain[name]}
    for name in ("announced", "withdrawn"):
        for one in shown.get(name, ()):
            for field in [field for field in one if not one[field]]:
                del one[field]
    if "attributes" in shown:
        always = plain["attributes"]
        shown["attributes"] = {
            name: value for name, value in shown["attributes"].items() if value != always[name]
        }
    return shown


def of_json(said: dict[str, Any]) -> Update:
    return Update(
        tuple(map(_nlri, said.get("announced", ()))),
        tuple(map(_nlri, said.get("withdrawn", ()))),
        _attributes(said.get("attributes", {})),
    )


def _nlri(said: dict[str, Any]) -> Nlri:
    hop = said.get("next_hop")
    return Nlri(
        Family(said["family"]),
        ip_network(said["prefix"]),
        said.get("rd", ""),
        said.get("label", 0),
        ip_address(hop) if hop else None,
    )


def _attributes(said: dict[str, Any]) -> Attributes:
    names = {field.name for field in fields(Attributes)}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items()}
    if sid := found.get("service"):
        structure = sid["structure"]
        shape = None if structure is None else tuple(structure)
        found["service"] = ServiceSID(IPv6Address(sid["sid"]), sid["behaviour"], shape)
    if found.get("originator"):
        found["originator"] = IPv4Address(found["originator"])
    assert found.keys() <= names
    return Attributes(**found)
