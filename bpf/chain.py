"""How deep a program's calls go, and how much stack they hold, read from the object file.

The verifier allows 8 frames and 512 bytes in one chain of calls, and says only that a program is
beyond them. Here every program keeps to ``FRAMES`` and ``STACK``, so that the next feature fits.

Pure but for the read of the file. Sources: ELF-64 of the gABI, relocations of BPF in the kernel's
Documentation/bpf/llvm_reloc.rst, the rounding in kernel/bpf/verifier.c (round_up_stack_depth).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: What a chain of calls may hold; the kernel's own limits are 512 and 8.
STACK, FRAMES = 320, 5
_ROUNDED_TO = 16  # of a program that is compiled to machine code
_INSTRUCTION = struct.Struct("<BBhi")
_SYMBOL, _RELOCATION = struct.Struct("<IBBHQQ"), struct.Struct("<QQ")
_SECTION, _SECTION_BYTES = struct.Struct("<IIQQQQIIQQ"), 64
_SYMTAB, _REL = 2, 9
_FUNCTION, _OF_SECTION = 2, 3  # kinds of symbols
_CALL, _LOAD_WIDE, _MOVE, _ADD = 0x85, 0x18, 0xBF, 0x07
_PSEUDO_CALL, _PSEUDO_FUNCTION = 1, 4
_LOAD, _STORE_NUMBER, _STORE = 1, 2, 3  # classes of instructions
_FRAME = 10  # the register


@dataclass(frozen=True, slots=True)
class Function:
    """One function: bytes of its own frame, and the functions that it calls or hands to a loop."""

    name: str
    stack: int
    calls: frozenset[str]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of calls from a program down: bytes of stack, and the functions on the way."""

    stack: int
    functions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Depth:
    """The two worst chains of a program: by bytes and by frames."""

    by_stack: Chain
    by_frames: Chain


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    content: bytes
    target: int  # of relocations: the section that they change


@dataclass(frozen=True, slots=True)
class _Symbol:
    name: str
    kind: int
    section: int
    value: int
    size: int


def depths(path: Path) -> dict[str, Depth]:
    """The worst chains of every program of an object file, by program."""
    functions = read(path.read_bytes())
    called = {name for function in functions.values() for name in function.calls}
    return {
        name: Depth(_deepest(functions, name, by_frames=False), _deepest(functions, name))
        for name in functions
        if name.startswith("mg_") and name not in called
    }


def _deepest(functions: Mapping[str, Function], name: str, *, by_frames: bool = True) -> Chain:
    below = [_deepest(functions, callee, by_frames=by_frames) for callee in functions[name].calls]
    worst = max(
        below,
        key=lambda chain: (len(chain.functions) if by_frames else chain.stack, chain.functions),
        default=Chain(0, ()),
    )
    own = -(-max(functions[name].stack, 1) // _ROUNDED_TO) * _ROUNDED_TO
    return Chain(own + worst.stack, (name, *worst.functions))


def read(raw: bytes) -> dict[str, Function]:
    """The functions of an object file by name."""
    sections = _sections(raw)
    symbols = [symbol for section in sections for symbol in _symbols(section, sections)]
    places = {
        (symbol.section, symbol.value): symbol for symbol in symbols if symbol.kind == _FUNCTION
    }
    targets = dict(_targets(sections, symbols))
    return {
        symbol.name: _function(sections[symbol.section], symbol, places, targets)
        for symbol in places.values()
    }


def _sections(raw: bytes) -> list[_Section]:
    start = struct.unpack_from("<Q", raw, 0x28)[0]
    count, names = struct.unpack_from("<HH", raw, 0x3C)
    heads = [_SECTION.unpack_from(raw, start + i * _SECTION_BYTES) for i in range(count)]
    text = raw[heads[names][4] :]
    return [
        _Section(_text(text, head[0]), head[1], raw[head[4] : head[4] + head[5]], head[7])
        for head in heads
    ]


def _text(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _symbols(section: _Section, sections: list[_Section]) -> Iterator[_Symbol]:
    if section.kind != _SYMTAB:
        return
    names = next(one.content for one in sections if one.name == ".strtab")
    for name, info, _, place, value, size in _SYMBOL.iter_unpack(section.content):
        yield _Symbol(_text(names, name), info & 15, place, value, size)


def _targets(
    sections: list[_Section], symbols: list[_Symbol]
) -> Iterator[tuple[tuple[int, int], _Symbol]]:
    """What a relocation puts into an instruction, by section and offset of the instruction."""
    for section in sections:
        if section.kind == _REL:
            for offset, info in _RELOCATION.iter_unpack(section.content):
                yield (section.target, offset), symbols[info >> 32]


def _function(
    section: _Section,
    symbol: _Symbol,
    places: Mapping[tuple[int, int], _Symbol],
    targets: Mapping[tuple[int, int], _Symbol],
) -> Function:
    body = section.content[symbol.value : symbol.value + symbol.size]
    code = list(_INSTRUCTION.iter_unpack(body))
    calls = set()
    for index, (operation, registers, _, number) in enumerate(code):
        offset = symbol.value + 8 * index
        target = targets.get((symbol.section, offset))
        place = _callee(operation, registers >> 4, number, (symbol.section, offset), target)
        if place is not None and place in places:
            calls.add(places[place].name)
    return Function(symbol.name, _stack(code), frozenset(calls))


def _callee(
    operation: int, kind: int, number: int, at: tuple[int, int], target: _Symbol | None
) -> tuple[int, int] | None:
    """Section and offset of the function that an instruction calls, or gives to a helper."""
    if operation == _CALL and kind == _PSEUDO_CALL:
        if target is None:
            return at[0], at[1] + 8 * (number + 1)
        inside = 8 * (number + 1) if target.kind == _OF_SECTION else 0
        return target.section, target.value + inside
    if operation == _LOAD_WIDE and target is not None:
        return target.section, target.value + (number if target.kind == _OF_SECTION else 0)
    return None


def _stack(code: list[tuple[int, int, int, int]]) -> int:
    """Bytes below the frame's top that a function touches, or whose address it takes."""
    deepest, previous = 0, (0, 0, 0, 0)
    for instruction in code:
        operation, registers, offset, number = instruction
        to, of, kind = registers & 15, registers >> 4, operation & 7
        stored = kind in (_STORE_NUMBER, _STORE) and to == _FRAME
        if stored or (kind == _LOAD and of == _FRAME):
            deepest = max(deepest, -offset)
        pointer = previous[0] == _MOVE and previous[1] >> 4 == _FRAME
        if operation == _ADD and pointer and previous[1] & 15 == to:
            deepest = max(deepest, -number)
        previous = instruction
    return deepest
