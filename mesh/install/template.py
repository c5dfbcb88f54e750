"""Text of the chart's templates, rendered as Helm does.

Helm's templates are those of Go's text/template with the functions of sprig. The chart keeps to
what stands here: ``if``, ``else if``, ``else``, ``with``, ``range``, ``define``, comments,
pipelines, fields of the dot and of ``$``, literals, the functions of ``_FUNCTIONS``, and
``include``. All else is a ``TemplateError``. A test compares every values file with real Helm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

import yaml

#: What values are made of.
Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\||\(|\)|[^\s()|"]+)')
_BLOCKS = ("if", "with", "range", "define")


class TemplateError(Exception):
    """A template that cannot be rendered; the text names file and action."""


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Print:
    words: Sequence[str]


@dataclass(slots=True)
class _Block:
    """One of ``_BLOCKS``: branches of (condition, content); ``else`` has no condition."""

    kind: str
    branches: list[tuple[Sequence[str], list[_Node]]] = field(default_factory=list)


_Node: TypeAlias = "_Text | _Print | _Block"


class Templates:
    """Templates by file name; names that they define are common to all."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._defined: dict[str, list[_Node]] = {}
        self._files: dict[str, list[_Node]] = {}
        for name, text in files.items():
            try:
                self._files[name] = self._parse(text)
            except TemplateError as error:
                raise TemplateError(f"{name}: {error}") from None

    def render(self, name: str, root: Value) -> str:
        """One file's text. Raises TemplateError."""
        try:
            return _Rendering(self._defined, root).nodes(self._files[name], root)
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from None

    def _parse(self, text: str) -> list[_Node]:
        nodes, rest = self._sequence(iter(_tokens(text)), until="")
        if rest:
            raise TemplateError(f"unexpected {rest[0]}")
        return nodes

    def _sequence(
        self, tokens: Iterator[_Text | Sequence[str]], until: str
    ) -> tuple[list[_Node], Sequence[str]]:
        """Nodes up to ``end``, ``else`` or the end of the file, and the words that ended them."""
        nodes: list[_Node] = []
        for token in tokens:
            if isinstance(token, _Text):
                nodes.append(token)
            elif token[0] in ("end", "else"):
                return nodes, token
            elif token[0] in _BLOCKS:
                block = self._block(tokens, token)
                if block.kind == "define":
                    self._defined[_literal(token[1])] = block.branches[0][1]
                else:
                    nodes.append(block)
            else:
                nodes.append(_Print(token))
        if until:
            raise TemplateError(f"{until} without an end")
        return nodes, ()

    def _block(self, tokens: Iterator[_Text | Sequence[str]], opening: Sequence[str]) -> _Block:
        block, words = _Block(opening[0]), opening[1:]
        while True:
            content, ended = self._sequence(tokens, opening[0])
            block.branches.append((words, content))
            if ended[0] == "end":
                return block
            words = ended[2:] if ended[1:2] == ["if"] else ()


def _tokens(text: str) -> Iterator[_Text | Sequence[str]]:
    """Texts and the words of actions; a dash takes the white space on its side away."""
    at, trimmed = 0, False
    for found in _ACTION.finditer(text):
        between = text[at : found.start()]
        between = between.lstrip() if trimmed else between
        between = between.rstrip() if found[1] else between
        if between:
            yield _Text(between)
        at, trimmed = found.end(), bool(found[3])
        if not found[2].startswith("/*"):
            yield _words(found[2])
    rest = text[at:].lstrip() if trimmed else text[at:]
    if rest:
        yield _Text(rest)


def _words(action: str) -> list[str]:
    words = [found[1] for found in _WORD.finditer(action)]
    if "".join(words) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", action):
        raise TemplateError(f"cannot read {{{{ {action} }}}}")
    return words


def _literal(word: str) -> str:
    return str(json.loads(word))


class _Rendering:
    """One file with one root."""

    def __init__(self, defined: Mapping[str, list[_Node]], root: Value) -> None:
        self._defined, self._root = defined, root

    def nodes(self, nodes: Sequence[_Node], dot: Value) -> str:
        """The text of these nodes."""
        return "".join(self._node(node, dot) for node in nodes)

    def _node(self, node: _Node, dot: Value) -> str:
        if isinstance(node, _Text):
            return node.text
        if isinstance(node, _Print):
            return _printed(self._pipeline(node.words, dot))
        return self._branched(node, dot)

    def _branched(self, block: _Block, dot: Value) -> str:
        for words, content in block.branches:
            value = self._pipeline(words, dot) if words else True
            if not value:
                continue
            if block.kind == "range" and isinstance(value, list):
                return "".join(self.nodes(content, one) for one in value)
            return self.nodes(content, value if block.kind == "with" and words else dot)
        return ""

    def _pipeline(self, words: Sequence[str], dot: Value) -> Value:
        """The value of calls, each of which gets the former one's as its last argument."""
        values: list[Value] = []
        for call in _split(words):
            terms = list(self._terms(call, dot))
            first = call[0]
            if first[0] in '."($' or first.isdecimal() or first in _CONSTANTS:
                if len(terms) != 1 or values:
                    raise TemplateError(f"expected one value, got {' '.join(call)}")
                values = [terms[0]]
            else:
                values = [self._call(first, [*terms, *values], dot)]
        return values[0]

    def _terms(self, call: Sequence[str], dot: Value) -> Iterator[Value]:
        """The arguments; of a value, the value itself."""
        words = list(call)
        if words[0][0] not in '."($' and not words[0].isdecimal() and words[0] not in _CONSTANTS:
            words.pop(0)
        while words:
            if words[0] == "(":
                end = _closing(words)
                yield self._pipeline(words[1:end], dot)
                words = words[end + 1 :]
            else:
                yield self._term(words.pop(0), dot)

    def _term(self, word: str, dot: Value) -> Value:
        if word[0] == '"':
            return _literal(word)
        if word in _CONSTANTS:
            return _CONSTANTS[word]
        if word.isdecimal():
            return int(word)
        if word[0] not in ".$":
            raise TemplateError(f"no value: {word}")
        value = self._root if word[0] == "$" else dot
        for step in filter(None, word.lstrip("$").split(".")):
            if not isinstance(value, dict) or step not in value:
                raise TemplateError(f"nothing is there: {word}")
            value = value[step]
        return value

    def _call(self, name: str, values: list[Value], dot: Value) -> Value:
        if name == "include":
            template = self._defined.get(str(values[0]))
            if template is None:
                raise TemplateError(f"no template is called {values[0]}")
            return self.nodes(template, values[1] if len(values) > 1 else dot)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise TemplateError(f"the chart may not use {name}")
        return function(*values)


_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False}


def _split(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """The calls of a pipeline."""
    depth, start = 0, 0
    for number, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if word == "|" and not depth:
            yield words[start:number]
            start = number + 1
    yield words[start:]


def _closing(words: Sequence[str]) -> int:
    depth = 0
    for number, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if not depth:
            return number
    raise TemplateError("a bracket is not closed")


def _printed(value: Value) -> str:
    """As Go prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list) or value is None:
        raise TemplateError(f"a {type(value).__name__} is printed without toYaml or toJson")
    return str(value)


def _json(value: Value) -> str:
    """As Go writes it: keys in order, no spaces, nothing that HTML would read as a mark."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.translate({ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&"})


def _yaml(value: Value) -> str:
    return str(yaml.safe_dump(value, default_flow_style=False, allow_unicode=True)).rstrip("\n")


def _indented(width: Value, text: Value) -> str:
    pad = " " * int(str(width))
    return "\n" + "\n".join(pad + line for line in str(text).split("\n"))


def _merged(into: Value, other: Value) -> Value:
    if not isinstance(into, dict) or not isinstance(other, dict):
        raise TemplateError("merge wants two objects")
    return {**other, **into}


def _dict(*pairs: Value) -> Value:
    return {str(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}


#: The functions of Helm and sprig that the chart uses.
_FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "default": lambda other, value: value or other,
    "dict": _dict,
    "eq": lambda one, *others: one in others,
    "int64": lambda value: int(str(value)),
    "merge": _merged,
    "nindent": _indented,
    "not": lambda value: not value,
    "quote": lambda value: json.dumps(_printed(value), ensure_ascii=False),
    "sha256sum": lambda text: sha256(str(text).encode()).hexdigest(),
    "toJson": _json,
    "toYaml": _yaml,
}
