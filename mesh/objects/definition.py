"""Kinds of ours as the API server serves them: a CustomResourceDefinition from the document Struct.

The Struct that parses a manifest is the one declaration of a kind. Its types become a structural
schema (apiextensions.k8s.io/v1), its bounds become the schema's, its custom types (addresses,
networks) become CEL rules. What ``parse`` refuses and no type says stands in ``rules`` of a Struct.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import msgspec
from msgspec import inspect

from mesh.core.strict import AnyAddress, AnyNetwork, HostNetwork

Schema = dict[str, Any]

#: Longest texts of an address and a network: six groups and a dotted quad, then ``/128``.
_ADDRESS, _NETWORK = 45, 49
_IPV4 = 15
#: Bounds for what has none in its Struct: the API server refuses a rule whose cost has no bound.
_ITEMS, _TEXT = 256, 1024


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule (``self`` is the value) and the message of an object that breaks the rule.

    ``field`` is the path of the field that the API server names, from the value on: ``.addresses``.
    A Struct has its rules in the class variable ``rules``.
    """

    rule: str
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones come with ``-o wide``."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """How a kind of ours is served. ``document`` is the Struct that ``parse`` converts to.

    ``words`` are the values that a text may have, by the path of the field from the object's root,
    with ``[]`` for the items of a list: ``spec.advertise[]``.
    """

    document: type[msgspec.Struct]
    plural: str
    short: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    words: Mapping[str, Collection[str]] = field(default_factory=dict)


_IS_ADDRESS = Rule("isIP(self)", "expected an IP address")
_IS_IPV4 = Rule("isIP(self) && ip(self).family() == 4", "expected an IPv4 address")
_IS_NETWORK = Rule("isCIDR(self)", "expected a CIDR")
_NO_HOST_BITS = Rule(
    "!isCIDR(self) || cidr(self).masked() == cidr(self)", "expected a CIDR without host bits"
)
#: What the text of a custom type may be.
_CUSTOM: Mapping[Any, tuple[int, tuple[Rule, ...]]] = {
    AnyAddress: (_ADDRESS, (_IS_ADDRESS,)),
    IPv4Address: (_IPV4, (_IS_IPV4,)),
    AnyNetwork: (_NETWORK, (_IS_NETWORK, _NO_HOST_BITS)),
    HostNetwork: (_NETWORK, (_IS_NETWORK,)),
}
#: The type of a condition is the key of the list, so that a condition is one entry (KEP-1623).
_CONDITIONS: Schema = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string", "maxLength": 1024, "minLength": 1},
            "message": {"type": "string", "maxLength": 32768},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    },
}
_STATUS: Schema = {"type": "object", "properties": {"conditions": _CONDITIONS}}
_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_ACCEPTED, _PROGRAMMED = (
    Column(name, f".status.conditions[?(@.type=='{name}')].status")
    for name in ("Accepted", "Programmed")
)


def definition(
    group: str, version: str, kind: str, made: Definition, *, namespaced: bool
) -> Schema:
    """The CustomResourceDefinition as a document."""
    columns = [*made.columns, _ACCEPTED, _PROGRAMMED, _AGE]
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": one.name, "type": one.type, "jsonPath": one.path}
            | ({"priority": 1} if one.wide else {})
            for one in columns
        ],
        "schema": {"openAPIV3Schema": _root(made)},
    }
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": made.plural,
        "singular": kind.lower(),
        "shortNames": list(made.short),
        "categories": ["meshgate"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{made.plural}.{group}"},
        "spec": {
            "group": group,
            "names": names,
            "scope": "Namespaced" if namespaced else "Cluster",
            "versions": [served],
        },
    }


def _root(made: Definition) -> Schema:
    """The whole object: the API server checks metadata itself, and ``status`` is ours to write."""
    info = inspect.type_info(made.document)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{made.document} is no Struct")
    (spec,) = (one for one in info.fields if one.encode_name == "spec")
    return {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _Schemas(made).of(spec.type, "spec"),
            "status": _STATUS,
        },
    }


class _Schemas:
    """Schemas of the types below a document."""

    def __init__(self, made: Definition) -> None:
        self._made = made

    def of(self, info: inspect.Type, path: str) -> Schema:
        """The schema of the value at ``path``."""
        info = _given(info)
        schema = self._bare(info, path)
        if words := self._made.words.get(path):
            schema["enum"] = sorted(words)
        if rules := _rules_of(info):
            schema["x-kubernetes-validations"] = [_validation(one) for one in rules]
        return schema

    def _bare(self, info: inspect.Type, path: str) -> Schema:
        if isinstance(info, inspect.StructType):
            return self._object(info, path)
        if isinstance(info, inspect.VarTupleType):
            return self._array(info, path)
        if isinstance(info, inspect.DictType):
            values = self.of(info.value_type, f"{path}.*")
            return {"type": "object", "additionalProperties": values, "maxProperties": _ITEMS}
        if type(info) not in _SCALARS:
            raise TypeError(f"{path}: no schema for {info}")
        return _SCALARS[type(info)](info)

    def _object(self, info: inspect.StructType, path: str) -> Schema:
        properties, required = {}, []
        for one in info.fields:
            schema = self.of(one.type, f"{path}.{one.encode_name}")
            if isinstance(one.default, int | str) and one.default != "":
                schema["default"] = one.default
            properties[one.encode_name] = schema
            if one.required:
                required.append(one.encode_name)
        found: Schema = {"type": "object", "properties": properties}
        return found | ({"required": required} if required else {})

    def _array(self, info: inspect.VarTupleType, path: str) -> Schema:
        found: Schema = {
            "type": "array",
            "items": self.of(info.item_type, f"{path}[]"),
            "maxItems": _ITEMS if info.max_length is None else info.max_length,
        }
        return found | ({"minItems": info.min_length} if info.min_length else {})


def _given(info: inspect.Type) -> inspect.Type:
    """The type of a value that is there; the API server takes a null for an absent field."""
    if not isinstance(info, inspect.UnionType):
        return info
    (found,) = (one for one in info.types if not isinstance(one, inspect.NoneType))
    return found


def _rules_of(info: inspect.Type) -> tuple[Rule, ...]:
    if isinstance(info, inspect.CustomType):
        return _CUSTOM[info.cls][1]
    return getattr(info.cls, "rules", ()) if isinstance(info, inspect.StructType) else ()


def _validation(rule: Rule) -> Schema:
    found: Schema = {"rule": rule.rule, "message": rule.message}
    return found | ({"fieldPath": rule.field} if rule.field else {})


def _text(info: inspect.StrType) -> Schema:
    found: Schema = {
        "type": "string",
        "maxLength": _TEXT if info.max_length is None else info.max_length,
    }
    if info.min_length:
        found["minLength"] = info.min_length
    return found | ({"pattern": info.pattern} if info.pattern else {})


def _whole(info: inspect.IntType) -> Schema:
    found: Schema = {"type": "integer", "format": "int64"}
    if info.ge is not None:
        found["minimum"] = info.ge
    if info.le is not None:
        found["maximum"] = info.le
    return found


#: Types of one value, by what msgspec says of them.
_SCALARS: Mapping[type[inspect.Type], Callable[[Any], Schema]] = {
    inspect.StrType: _text,
    inspect.IntType: _whole,
    inspect.BoolType: lambda _: {"type": "boolean"},
    inspect.LiteralType: lambda info: {"type": "string", "enum": list(info.values)},
    inspect.CustomType: lambda info: {"type": "string", "maxLength": _CUSTOM[info.cls][0]},
}
