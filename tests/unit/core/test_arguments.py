"""Arguments of verbs: text becomes a row, or argparse says what is wrong with it."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest

from mesh.core.arguments import address, address_or_network, agrees, network


def test_text_becomes_a_row() -> None:
    assert address("192.0.2.1") == ip_address("192.0.2.1")
    assert network("2001:db8::/32") == ip_network("2001:db8::/32")
    assert address_or_network("2001:db8::1") == ip_address("2001:db8::1")
    assert address_or_network("192.0.2.0/24") == ip_network("192.0.2.0/24")


@pytest.mark.parametrize(
    ("read", "text"),
    [(address, "192.0.2.256"), (network, "192.0.2.1/24"), (address_or_network, "a/b")],
)
def test_the_operator_sees_what_is_wrong(
    read: Callable[[str], object], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("given", metavar="GIVEN", type=read)
    with pytest.raises(SystemExit):
        parser.parse_args([text])
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"), [("y\n", True), (" YES\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_only_a_yes_is_one(typed: str, *, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert agrees("Everything goes.", "Do it") is said
