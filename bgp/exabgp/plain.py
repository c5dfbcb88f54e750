"""Frozen rows as JSON has them, and back: for the file of what was last applied."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_ADDRESSES = (IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_UNIONS = (UnionType, Union)


def plain(value: Any) -> Any:
    """The row as dicts, lists, texts and numbers."""
    if isinstance(value, Enum | str):
        return str(value)
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if isinstance(value, _ADDRESSES):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    return value


def made(kind: type[T], value: Any) -> T:
    """The row of a dataclass; fields that are not there have their default.

    Raises TypeError, ValueError or KeyError for what is no such row.
    """
    hints: dict[str, Any] = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ValueError(f"unknown fields {unknown}")
    return kind(**{name: _made(hints[name], one) for name, one in value.items()})


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _made(kind: Any, value: Any) -> Any:
    origin, options = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        rest = tuple(one for one in options if one is not NoneType)
        if value is None and rest != options:
            return None
        return _address(value) if set(rest) <= set(_ADDRESSES) else _made(rest[0], value)
    if origin is tuple:
        return _tuple(options, value)
    if is_dataclass(kind):
        return made(kind, value)  # type: ignore[arg-type]
    if kind in _ADDRESSES or issubclass(kind, Enum):
        return kind(value)
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_made(kinds[0], one) for one in value)
    return tuple(_made(kind, one) for kind, one in zip(kinds, value, strict=True))


def _address(text: Any) -> Any:
    if not isinstance(text, str):
        raise TypeError(f"expected an address, got {text!r}")
    return ip_network(text) if "/" in text else ip_address(text)
