"""Arguments of verbs: text to rows for argparse, and a question to the operator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mesh.core.model import IP, Network

T = TypeVar("T")


def address(text: str) -> IP:
    """``type=`` of an address."""
    return _read(ip_address, text)


def network(text: str) -> Network:
    """``type=`` of a network."""
    return _read(ip_network, text)


def address_or_network(text: str) -> IP | Network:
    """``type=`` of either: with a slash it is a network."""
    return network(text) if "/" in text else address(text)


def agrees(text: str, question: str) -> bool:
    """Whether the operator says yes; ``text`` is what would happen. Silence is a no."""
    print(text, file=sys.stderr)
    try:
        return input(f"{question}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _read(parse: Callable[[str], T], text: str) -> T:
    """Of other errors than its own argparse does not print the words."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
