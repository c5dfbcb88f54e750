"""Keys as text and as the bytes that etcd has: the one pair of functions, through which all go.

etcd takes any bytes as a key. Ours are UTF-8. Another program's key that is not keeps its bytes
(``surrogateescape``), so a key that was listed can be asked for, compared and deleted again. Only
the store's own parts see such a key: ``Follow`` makes it a finding.
"""

from __future__ import annotations

_ERRORS = "surrogateescape"


def key_text(raw: bytes) -> str:
    """The key as text; ``key_bytes`` gives the same bytes back, for any bytes."""
    return raw.decode(errors=_ERRORS)


def key_bytes(text: str) -> bytes:
    """The key as etcd has it."""
    return text.encode(errors=_ERRORS)


def is_readable(text: str) -> bool:
    """Whether the key's bytes are UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    r"""A key for people: bytes that are no UTF-8 as ``\xff``."""
    return key_bytes(text).decode(errors="backslashreplace")
