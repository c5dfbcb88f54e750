"""libbpf.so.1 by ctypes: the only module that names libbpf's functions.

An object is opened, relocated and loaded here; the text of a failed load, the verifier's included,
ends up in the exception.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p
#: The longest verifier log that libbpf asks the kernel for.
_LOG_BYTES = 1 << 24
_LOG_LINES = 40

lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
_libc = ctypes.CDLL(None)

_PROTOTYPES: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("bpf_object__open_file", _POINTER, (_TEXT, _POINTER)),
    ("bpf_object__load", ctypes.c_int, (_POINTER,)),
    ("bpf_object__close", None, (_POINTER,)),
    ("bpf_object__btf", _POINTER, (_POINTER,)),
    ("btf__raw_data", _POINTER, (_POINTER, ctypes.POINTER(ctypes.c_uint32))),
    ("bpf_object__next_map", _POINTER, (_POINTER, _POINTER)),
    ("bpf_map__name", _TEXT, (_POINTER,)),
    ("bpf_map__fd", ctypes.c_int, (_POINTER,)),
    ("bpf_map__initial_value", _POINTER, (_POINTER, ctypes.POINTER(ctypes.c_size_t))),
    ("bpf_map__set_max_entries", ctypes.c_int, (_POINTER, ctypes.c_uint32)),
    ("bpf_map__set_pin_path", ctypes.c_int, (_POINTER, _TEXT)),
    ("bpf_object__next_program", _POINTER, (_POINTER, _POINTER)),
    ("bpf_program__name", _TEXT, (_POINTER,)),
    ("bpf_program__fd", ctypes.c_int, (_POINTER,)),
    ("bpf_program__set_autoload", ctypes.c_int, (_POINTER, ctypes.c_bool)),
)
for _name, _result, _arguments in _PROTOTYPES:
    _function = getattr(lib, _name)
    _function.restype, _function.argtypes = _result, _arguments

_log: list[str] = []


def _print(level: int, layout: bytes, arguments: int) -> int:
    if level == 0:  # 0 warning, 1 info, 2 debug
        with mmap.mmap(-1, _LOG_BYTES) as memory:
            text = (ctypes.c_char * _LOG_BYTES).from_buffer(memory)
            _libc.vsnprintf(text, ctypes.c_size_t(_LOG_BYTES), layout, _POINTER(arguments))
            _log.append(text.value.decode(errors="replace").rstrip())
            del text
    return 0


lib.libbpf_set_print.restype = _POINTER
# At module level: a collected callback crashes.
_callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _TEXT, _POINTER)(_print)
lib.libbpf_set_print(_callback)


class LoadError(OSError):
    """libbpf or the verifier refused an object; the text ends with their last lines."""


def _check(result: int, what: str) -> None:
    if result:
        lines = "\n".join(_log).splitlines()[-_LOG_LINES:]
        raise LoadError(-result, "\n".join([f"{what}: {os.strerror(-result)}", *lines]))


def open_object(path: Path) -> int:
    """Handle of an object file that is parsed but not loaded."""
    _log.clear()
    handle = lib.bpf_object__open_file(os.fsencode(path), None)
    if not handle:
        _check(-ctypes.get_errno(), str(path))
    return int(handle)


def load_object(handle: int, what: str) -> None:
    """Create the maps and load the programs of ``handle``."""
    _log.clear()
    _check(lib.bpf_object__load(handle), what)


def object_btf(handle: int) -> bytes:
    """BTF with the offsets of variables filled in; in the file they are 0."""
    size = ctypes.c_uint32()
    return ctypes.string_at(
        lib.btf__raw_data(lib.bpf_object__btf(handle), ctypes.byref(size)), size.value
    )


def _each(step: Callable[[int, int | None], int | None], handle: int) -> Iterator[int]:
    item = None
    while item := step(handle, item):
        yield item


def maps(handle: int) -> dict[str, int]:
    """Map handles by name; those with a dot in their name are sections such as ``.rodata``."""
    found = _each(lib.bpf_object__next_map, handle)
    return {lib.bpf_map__name(item).decode(): item for item in found}


def programs(handle: int) -> dict[str, int]:
    """Program handles by name."""
    found = _each(lib.bpf_object__next_program, handle)
    return {lib.bpf_program__name(item).decode(): item for item in found}


def section_memory(handle: int) -> npt.NDArray[np.uint8]:
    """The initial value of a section map, writable until the load."""
    size = ctypes.c_size_t()
    start = lib.bpf_map__initial_value(handle, ctypes.byref(size))
    return np.ctypeslib.as_array((ctypes.c_ubyte * size.value).from_address(start))


def set_pin_path(handle: int, path: Path) -> None:
    """Reuse the map that is pinned there, or create it and pin it there."""
    _check(lib.bpf_map__set_pin_path(handle, os.fsencode(path)), str(path))


def set_max_entries(handle: int, entries: int) -> None:
    """Override the size that stands in the object."""
    _check(lib.bpf_map__set_max_entries(handle, entries), "max_entries")


def set_autoload(handle: int, *, load: bool) -> None:
    """Say whether ``load_object`` loads this program."""
    _check(lib.bpf_program__set_autoload(handle, load), "autoload")


def map_fd(handle: int) -> int:
    """A descriptor of a loaded map that outlives the object."""
    return os.dup(lib.bpf_map__fd(handle))


def program_fd(handle: int) -> int | None:
    """A descriptor of a loaded program that outlives the object; None when it was left out."""
    fd = lib.bpf_program__fd(handle)
    return os.dup(fd) if fd >= 0 else None


def close_object(handle: int) -> None:
    """Free the handle; duplicated descriptors live on."""
    lib.bpf_object__close(handle)
