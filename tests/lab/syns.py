"""SYNs without end, as fast as asked for: forged ones of a stranger, or a pod's own.

Started by path, in a namespace of the lab; the kernel routes the packets::

    syns.py SOURCE DESTINATION PORT COUNT SECONDS

An address that ends in ``/`` and a length is a network: each SYN has another address of it, and
another port beside it. Prints how many the kernel took.
"""

from __future__ import annotations

import ctypes
import socket
import sys
import time
from ipaddress import ip_network
from typing import Any

import numpy as np

#: Messages of one sendmmsg(2).
BATCH = 256
FIRST_PORT, PORTS = 1024, 60_000
TCP_BYTES = 20
SYN = 0x02


class Slice(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
    """``struct mmsghdr`` on 64 bits."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("slices", ctypes.POINTER(Slice)),
        ("number", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("sent", ctypes.c_uint64),  # four octets, and four that pad
    )


def addresses(text: str, count: int) -> Any:
    """COUNT addresses in turn, as rows of octets."""
    network = ip_network(text)
    most = min(network.num_addresses, count)
    rows = [list(network[at].packed) for at in range(most)]
    return np.array(rows, np.uint8)[np.arange(count) % most]


def checksum(words: Any) -> Any:
    """RFC 1071, of each row of octets."""
    total = words.reshape(len(words), -1, 2).astype(np.uint32) @ np.array([256, 1], np.uint32)
    total = total.sum(axis=1, dtype=np.uint64)
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).astype(">u2").view(np.uint8).reshape(-1, 2)


def packets(source: str, destination: str, port: int, count: int) -> Any:
    """Rows of octets, one SYN each."""
    sources, targets = addresses(source, count), addresses(destination, count)
    ports = FIRST_PORT + np.arange(count) // max(1, len(np.unique(sources, axis=0))) % PORTS
    tcp = np.zeros((count, TCP_BYTES), np.uint8)
    tcp[:, 0:2] = ports.astype(">u2").view(np.uint8).reshape(-1, 2)
    tcp[:, 2:4] = list(port.to_bytes(2))
    tcp[:, 4:8] = np.arange(count).astype(">u4").view(np.uint8).reshape(-1, 4)
    tcp[:, 12:16] = [TCP_BYTES << 2, SYN, 0xFA, 0xF0]
    rest = np.zeros((count, 4), np.uint8) + np.array([0, 6, 0, TCP_BYTES], np.uint8)
    tcp[:, 16:18] = checksum(np.hstack([sources, targets, rest, tcp]))
    if sources.shape[1] == 16:
        head = np.zeros((count, 8), np.uint8) + np.array(
            [0x60, 0, 0, 0, 0, TCP_BYTES, 6, 64], np.uint8
        )
        return np.ascontiguousarray(np.hstack([head, sources, targets, tcp]))
    head = np.zeros((count, 12), np.uint8)
    head[:] = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]
    whole = np.hstack([head, sources, targets])
    whole[:, 10:12] = checksum(whole)
    return np.ascontiguousarray(np.hstack([whole, tcp]))


def names(destination: str, count: int) -> Any:
    """``struct sockaddr_in`` or ``_in6`` of each packet; port 0, as raw sockets have it."""
    octets = addresses(destination, count)
    is_six = octets.shape[1] == 16
    family = socket.AF_INET6 if is_six else socket.AF_INET
    made = np.zeros((count, 28 if is_six else 16), np.uint8)
    made[:, 0:2] = list(int(family).to_bytes(2, sys.byteorder))
    at = 8 if is_six else 4
    made[:, at : at + octets.shape[1]] = octets
    return np.ascontiguousarray(made)


def send(source: str, destination: str, port: int, count: int, seconds: float) -> int:
    """Spread over the seconds; how many were sent."""
    rows, to = packets(source, destination, port, count), names(destination, count)
    family = socket.AF_INET6 if to.shape[1] == 28 else socket.AF_INET
    libc = ctypes.CDLL(None, use_errno=True)
    slices, messages = (Slice * count)(), (Message * count)()
    for at in range(count):
        slices[at] = Slice(rows.ctypes.data + at * rows.shape[1], rows.shape[1])
        messages[at].name = to.ctypes.data + at * to.shape[1]
        messages[at].name_length = to.shape[1]
        messages[at].slices = ctypes.pointer(slices[at])
        messages[at].number = 1
    done, begun = 0, time.monotonic()
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        while done < count:
            early = begun + seconds * done / count - time.monotonic()
            if early > 0:
                time.sleep(early)
            part = ctypes.byref(messages[done])
            got = libc.sendmmsg(raw.fileno(), part, min(BATCH, count - done), 0)
            if got <= 0:
                raise OSError(ctypes.get_errno(), "sendmmsg")
            done += got
    return done


if __name__ == "__main__":
    sys.stdout.write(
        f"{send(*sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))}\n"
    )
