"""Verbs of ``meshgate egress`` beside ``list`` and ``show``; imports happen when a verb runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import whois

if TYPE_CHECKING:
    import argparse
    from argparse import _SubParsersAction


def add(verbs: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verbs."""
    whois.add(verbs)
