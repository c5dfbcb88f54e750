"""SRv6 endpoint behaviours by code point and by name (RFC 8986 10.2, RFC 9800, IANA). Pure.

A packet is the same for every behaviour that decapsulates. The behaviour says what we announce,
whether a received SID can be sent to, and what people read.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: Behaviour of a SID whose owner does not say which: it is that of a VRF (RFC 9252 8).
OPAQUE = 0xFFFF

NAMES: Mapping[int, str] = MappingProxyType(
    {
        1: "End", 2: "End", 3: "End", 4: "End", 28: "End", 29: "End", 31: "End",
        5: "End.X", 6: "End.X", 32: "End.X", 9: "End.T",
        14: "End.B6.Encaps", 27: "End.B6.Encaps.Red",
        16: "End.DX6", 17: "End.DX4", 18: "End.DT6", 19: "End.DT4", 20: "End.DT46",
        21: "End.DX2", 22: "End.DX2V", 23: "End.DT2U", 24: "End.DT2M",
        43: "uN", 44: "uN", 47: "uN", 48: "uN", 52: "uA", 53: "uA", 56: "uA", 85: "uT",
        60: "uDX6", 61: "uDX4", 62: "uDT6", 63: "uDT4", 64: "uDT46",
        65: "uDX2", 66: "uDX2V", 67: "uDT2U", 68: "uDT2M",
        OPAQUE: "opaque",
    }
)  # fmt: skip
#: Code points of the SIDs that a VRF of ours has.
CODES: Mapping[str, int] = MappingProxyType(
    {"End.DT6": 18, "End.DT4": 19, "End.DT46": 20, "uDT6": 62, "uDT4": 63, "uDT46": 64}
)
#: Families of the packets that a VRF of another router takes at a SID, by its behaviour.
_FAMILIES: Mapping[str, tuple[int, ...]] = {
    "End.DX4": (4,), "End.DT4": (4,), "uDX4": (4,), "uDT4": (4,),
    "End.DX6": (6,), "End.DT6": (6,), "uDX6": (6,), "uDT6": (6,),
    "End.DT46": (4, 6), "uDT46": (4, 6), "opaque": (4, 6),
}  # fmt: skip
#: The SIDs of a VRF on a node, by the word of ``VRF.spec.behaviour``.
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "DT46": ("End.DT46",),
        "DT4AndDT6": ("End.DT4", "End.DT6"),
        "uDT46": ("uDT46",),
        "uDT4AndUDT6": ("uDT4", "uDT6"),
    }
)


def name_of(code: int) -> str:
    """The name of a behaviour; a number that has none is written as it is."""
    return NAMES.get(code, str(code))


def families_of(name: str) -> tuple[int, ...]:
    """Versions of the packets that may be sent to a SID; empty: it is none of a VRF."""
    return _FAMILIES.get(name, ())


def is_next_csid(name: str) -> bool:
    """Whether the behaviour is a NEXT-C-SID form (RFC 9800 4)."""
    return name.startswith("u")
