"""What a JSON schema finds wrong with values: the part of draft 7 that the chart's schema uses.

Helm judges by the same file; a test compares both on wrong values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mesh.install.template import Value

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
#: Keywords that judge nothing.
_SILENT = frozenset({"$schema", "title", "description", "then", "else"})
_Judge = Callable[[Any, Value, Mapping[str, Any]], str]


def problems(schema: Mapping[str, Any], value: Value, path: str = "") -> Iterator[str]:
    """A line for each mistake: the path of the value, and which rule it breaks."""
    place = path or "values"
    if "type" in schema and not _is_of(schema["type"], value):
        yield f"{place}: expected {_listed(schema['type'])}, got {_shown(value)}"
        return
    for keyword, rule in schema.items():
        if keyword in _JUDGES:
            if text := _JUDGES[keyword](rule, value, schema):
                yield f"{place}: {text}"
        elif keyword == "if":
            chosen = "else" if any(problems(rule, value, path)) else "then"
            yield from problems(schema.get(chosen, {}), value, path)
        elif keyword not in _SILENT | _DEEPER:
            raise ValueError(f"the schema of the chart may not use {keyword}")
    yield from _inner(schema, value, path)


_DEEPER = frozenset({"type", "properties", "additionalProperties", "items", "required"})


def _inner(schema: Mapping[str, Any], value: Value, path: str) -> Iterator[str]:
    """What is wrong with the parts of an object or a list."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from problems(schema.get("items", {}), one, f"{path}[{number}]")
    if isinstance(value, dict):
        yield from _members(schema, value, path)


def _members(schema: Mapping[str, Any], value: dict[str, Value], path: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{_below(path, name)}: required"
    for name, one in value.items():
        if name in known:
            yield from problems(known[name], one, _below(path, name))
        elif others is False:
            yield f"{_below(path, name)}: there is no such value{_nearest(name, known)}"
        elif isinstance(others, dict):
            yield from problems(others, one, _below(path, name))


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    same = [one for one in known if one.lower() == name.lower()]
    return f"; did you mean {same[0]}?" if same else ""


def _is_of(types: str | Sequence[str], value: Value) -> bool:
    names = [types] if isinstance(types, str) else types
    if isinstance(value, bool):
        return "boolean" in names
    whole = isinstance(value, float) and value.is_integer() and "integer" in names
    return whole or any(isinstance(value, _TYPES[name]) for name in names)


def _listed(types: str | Sequence[str]) -> str:
    return types if isinstance(types, str) else " or ".join(types)


def _shown(value: Value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _same(one: Value, other: Value) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _enum(rule: Sequence[Value], value: Value, _: Mapping[str, Any]) -> str:
    if any(_same(one, value) for one in rule):
        return ""
    return f"expected one of {', '.join(map(_shown, rule))}, got {_shown(value)}"


def _const(rule: Value, value: Value, _: Mapping[str, Any]) -> str:
    return "" if _same(rule, value) else f"expected {_shown(rule)}, got {_shown(value)}"


def _not(rule: Mapping[str, Any], value: Value, _: Mapping[str, Any]) -> str:
    return "" if any(problems(rule, value)) else f"{_shown(value)} is not allowed here"


def _pattern(rule: str, value: Value, schema: Mapping[str, Any]) -> str:
    # Go's $ is the end of the text; Python's would allow a line feed after it.
    if not isinstance(value, str) or re.search(re.sub(r"(?<!\\)\$", r"\\Z", rule), value):
        return ""
    return str(schema.get("description", f"expected a text like {rule}, got {_shown(value)}"))


def _bound(name: str, sign: int) -> _Judge:
    def judge(rule: float, value: Value, _: Mapping[str, Any]) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return ""
        right = (value - rule) * sign >= 0
        return "" if right else f"expected {name} {rule}, got {value}"

    return judge


def _length(kind: type, name: str, sign: int) -> _Judge:
    def judge(rule: int, value: Value, _: Mapping[str, Any]) -> str:
        if not isinstance(value, kind) or not isinstance(value, str | list):
            return ""
        right = (len(value) - rule) * sign >= 0
        return "" if right else f"expected {name} {rule}, got {_shown(value)}"

    return judge


_JUDGES: Mapping[str, _Judge] = {
    "enum": _enum,
    "const": _const,
    "not": _not,
    "pattern": _pattern,
    "minimum": _bound("at least", 1),
    "maximum": _bound("at most", -1),
    "minLength": _length(str, "a length of at least", 1),
    "maxLength": _length(str, "a length of at most", -1),
    "minItems": _length(list, "a number of items of at least", 1),
}
