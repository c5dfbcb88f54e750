"""Text of the outside world into typed values: every mistake is named by its path.

Used for configuration and manifests. YAML is read the way Kubernetes reads it: plain ``12:30:00``
and dates stay text, only ``true`` and ``false`` are booleans. Merge keys (``<<``) are followed.
Duplicate keys, tags, and documents that are too deep or grow too large by aliases are refused.
"""

from __future__ import annotations

import json
import re
from abc import ABCMeta
from collections.abc import Callable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import yaml

from mesh.core.model import IP, Network

T = TypeVar("T")
#: What YAML and JSON hold, and libyaml's events.
Value = Any
Event = Any

#: Nesting and size of one document; libyaml's composer would overflow the C stack on deep ones.
MAX_DEPTH = 64
MAX_NODES = 2_000_000
#: Longer plain scalars are text: Python refuses integers of thousands of digits.
MAX_PLAIN = 64
_JSON_SPACE = re.compile(r"[ \t\n\r]*")

if TYPE_CHECKING:
    AnyAddress = IP
    AnyNetwork = Network
    HostNetwork = Network
else:
    # msgspec allows one custom type in a union, so each pair of families is one virtual class.
    AnyAddress = ABCMeta("AnyAddress", (), {})
    AnyNetwork = ABCMeta("AnyNetwork", (), {})
    HostNetwork = ABCMeta("HostNetwork", (), {"__doc__": "A network whose host bits are cut off."})
    for family in (IPv4Address, IPv6Address):
        AnyAddress.register(family)
    for family in (IPv4Network, IPv6Network):
        AnyNetwork.register(family)
        HostNetwork.register(family)


class Wrong(ValueError):
    """``path`` names the place (``spec.addresses[0]``, ``line 3``), ``text`` what is wrong."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path}: {text}" if path else text)
        self.path = path
        self.text = text


class Unreadable(Wrong):
    """The text is no YAML, or no JSON; ``line`` and ``column`` count from 1, and 0 is unknown.

    ``said`` is the parser's own sentence. It stands at the end of ``text`` for the reader, and
    other versions of the parser say it in other words.
    """

    def __init__(self, language: str, line: int, column: int, said: str) -> None:
        super().__init__(f"line {line}" if line else "", f"not {language}: {said}")
        self.line = line
        self.column = column


class Misfit(Wrong):
    """``value``, which stands at ``path``, has the wrong type, or is out of its bounds.

    ``text`` is msgspec's sentence, and other versions of msgspec say it in other words. Only the
    sentences about addresses, networks and paths are ours.
    """

    def __init__(self, path: str, text: str, value: Value) -> None:
        super().__init__(path, text)
        self.value = value


def parse_yaml(text: str) -> list[Value]:
    """The documents of a YAML text; empty ones are left out. Raises ``Wrong``."""
    try:
        return [document for document in _Builder(text).documents() if document is not None]
    except yaml.YAMLError as error:
        raise _no_yaml(error) from error


def parse_json(text: str) -> list[Value]:
    """The documents of a JSON text, one after the other as kubectl takes them. Raises ``Wrong``."""
    try:
        found = list(_json_documents(text))
        json.dumps(found, ensure_ascii=False).encode()
    except Wrong:
        raise
    except json.JSONDecodeError as error:
        raise Unreadable("JSON", error.lineno, error.colno, error.msg) from error
    except RecursionError as error:
        raise Wrong("", "nested too deeply") from error
    except UnicodeEncodeError as error:
        raise Wrong("", "half of a surrogate pair") from error
    except ValueError as error:  # Python refuses integers of thousands of digits
        raise Wrong("", "a number is too long") from error
    return found


def convert(value: object, kind: type[T]) -> T:
    """``value`` as a ``kind`` (msgspec types, addresses, networks, paths). Raises ``Wrong``."""
    try:
        return msgspec.convert(value, kind, dec_hook=_custom)
    except msgspec.ValidationError as error:
        raise _wrong(str(error), value) from error


def _json_documents(text: str) -> Iterator[Value]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    at = _behind_space(text, 0)
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        yield document
        at = _behind_space(text, at)


def _behind_space(text: str, at: int) -> int:
    found = _JSON_SPACE.match(text, at)
    return found.end() if found else at


def _unique(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, value in pairs:
        if key in found:
            raise Wrong("", f"duplicate key {key!r}")
        found[key] = value
    return found


# YAML


def _no_yaml(error: yaml.YAMLError) -> Unreadable:
    said = getattr(error, "problem", None) or str(error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None)  # a character that YAML forbids has none
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    return Unreadable("YAML", line, column, said)


def _line(mark: Event) -> str:
    return f"line {mark.line + 1}"


def _integer(text: str) -> int:
    """Decimal, or by its first digits hexadecimal, octal (0o17, or 017 as in YAML 1.1), binary."""
    digits = text.lstrip("+-").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 8 if digits.startswith("0") else 10)
    return int(digits, base) * (-1 if text.startswith("-") else 1)


_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:~|null|Null|NULL|)$"), lambda _: None),
    (re.compile(r"(?:true|True|TRUE)$"), lambda _: True),
    (re.compile(r"(?:false|False|FALSE)$"), lambda _: False),
    (re.compile(r"[-+]?(?:0|[1-9][0-9]*|0[0-7]+|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)$"), _integer),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$"), float),
    (re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), float),
)


def _scalar(event: Event) -> Value:
    if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
        raise Wrong(_line(event.start_mark), f"tag {event.tag} is not supported")
    if event.tag is None and event.implicit[0]:
        for pattern, make in _PLAIN:
            if len(event.value) < MAX_PLAIN and pattern.match(event.value):
                return make(event.value)
    return event.value


class _Builder:
    """Python values from libyaml's events, within ``MAX_DEPTH`` and ``MAX_NODES``."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Value] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._anchors: dict[str, tuple[Value, int]] = {}
        self._nodes = 0

    def documents(self) -> Iterator[Value]:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors.clear()
                self._nodes = 0
                yield self._value(next(self._events), 0)

    def _value(self, event: Event, depth: int) -> Value:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._nodes
        value = self._fresh(event, depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._nodes - before + 1)
        return value

    def _alias(self, event: Event) -> Value:
        if event.anchor not in self._anchors:
            raise Wrong(_line(event.start_mark), f"unknown alias {event.anchor}")
        value, nodes = self._anchors[event.anchor]
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise Wrong(_line(event.start_mark), "aliases make the document too large")
        return value

    def _fresh(self, event: Event, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise Wrong(_line(event.start_mark), f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        if event.tag is not None:
            raise Wrong(_line(event.start_mark), f"tag {event.tag} is not supported")
        if isinstance(event, yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        return self._mapping(depth)

    def _mapping(self, depth: int) -> dict[Value, Value]:
        found: dict[Value, Value] = {}
        merged: list[dict[Value, Value]] | None = None
        for event in self._until(yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            line = _line(event.start_mark)
            if isinstance(key, (dict, list)):
                raise Wrong(line, "a key must be a text")
            merges = key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]
            if key in found or (merges and merged is not None):
                raise Wrong(line, f"duplicate key {key!r}")
            value = self._value(next(self._events), depth + 1)
            if merges:
                merged = _merged(line, value)
            else:
                found[key] = value
        for one in merged or ():  # a mapping's own keys count before merged ones
            for key, value in one.items():
                found.setdefault(key, value)
        return found

    def _until(self, end: type) -> Iterator[Value]:
        while not isinstance(event := next(self._events), end):
            yield event


def _merged(line: str, value: Value) -> list[dict[Value, Value]]:
    """What a merge key merges: a mapping, or several of which the first ones count."""
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(one, dict) for one in found):
        raise Wrong(line, "a merge key needs a mapping, or a list of mappings")
    return found


# Types and paths


def _custom(kind: type, value: object) -> object:
    """Decode what msgspec does not know; the types are in ``_TEXT``."""
    name, make = _TEXT[kind]
    if not isinstance(value, str):
        raise ValueError(f"expected {name}, got {_name(value)}")  # noqa: TRY004 - msgspec adds the path to a ValueError
    try:
        return make(value)
    except ValueError as error:
        raise ValueError(f"expected {name}, got {value!r}{_hint(kind, value)}") from error


def _network(text: str, *, strict: bool) -> Network:
    if "/" not in text:
        raise ValueError("no prefix length")
    address, _, length = text.partition("/")
    if not length.isdecimal() or "%" in address or (length[0] == "0" and length != "0"):
        # ipaddress would take a netmask, too, and 08, which the API server refuses
        raise ValueError("no prefix length")
    network = ip_network(text, strict=strict)
    _refuse_mapped(network.network_address)
    return network


def parse_address(text: str) -> IP:
    """One address. Raises ValueError, for zones and IPv4-mapped ones too."""
    if "%" in text:
        raise ValueError("zones are not supported")
    address = ip_address(text)
    _refuse_mapped(address)
    return address


def _refuse_mapped(address: IP) -> None:
    """IPv4 addresses are mapped into IPv6 in the maps: ::ffff:0:0/96 is theirs alone."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise ValueError("IPv4-mapped")


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("empty")
    return Path(text)


def _hint(kind: object, text: str) -> str:
    """What was probably meant."""
    if kind is not AnyNetwork:
        return ""
    try:
        return f"; did you mean {ip_network(text, strict=False)}?"
    except ValueError:
        return ""


_TEXT: dict[Any, tuple[str, Callable[[str], object]]] = {
    AnyAddress: ("an IP address", parse_address),
    AnyNetwork: ("a CIDR", lambda text: _network(text, strict=True)),
    HostNetwork: ("a CIDR", lambda text: _network(text, strict=False)),
    IPv4Address: ("an IPv4 address", IPv4Address),
    Path: ("a path", _path),
}
_AT = re.compile(r"^(.*?)(?: - at `(key` in `)?\$(.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (missing required|contains unknown) field `(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[(\.\.\.)\]")


def _name(value: object) -> str:
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _wrong(message: str, root: object) -> Wrong:
    """Msgspec's message in our words."""
    text, key, at = _AT.fullmatch(message).groups()  # type: ignore[union-attr]  # it matches everything
    path, value = _walk(at or "", root)
    if field := _FIELD.match(text):
        path = f"{path}.{field[2]}" if path else field[2]
        return Wrong(path, "required" if field[1].startswith("missing") else "unknown field")
    text = text.replace("`", "")
    text = text[:1].lower() + text[1:]
    if key:
        return Misfit(path, f"a key: {text}", value)
    if "got " not in text and "value '" not in text:
        text += f", got {_short(value)}"
    return Misfit(path, text, value)


def _walk(at: str, root: object) -> tuple[str, Value]:
    """Follow msgspec's path; ``[...]`` (a map's value) becomes the first key that is wrong."""
    path, value = "", root
    for name, index, _ in _STEP.findall(at):
        if index:
            path, value = f"{path}[{index}]", value[int(index)]  # type: ignore[index]  # msgspec was there
            continue
        step = name or next(k for k, v in value.items() if not isinstance(v, str))  # type: ignore[attr-defined]  # it was a map
        path = f"{path}.{step}" if path else str(step)
        value = value[step]  # type: ignore[index]  # msgspec was there
    return path, value


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
