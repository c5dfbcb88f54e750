"""ICMP errors about a pod's SYN, sent once more when connect() can hear them.

The datapath answers a SYN within the system call that sends it. Linux drops an ICMP error for a
socket that is in use just then (TcpExtLockDroppedIcmps), and the next chance would be the
retransmission, a second later. So BPF leaves a copy of the frame (``mg_icmp``), and it goes out of
the pod's host end again a moment later. Without an agent the retransmission is what remains.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from bpf.ring import Ring

log = logging.getLogger(__name__)

#: Seconds until a frame is repeated; twice, since a busy machine may still be in connect().
REPEATS_S = (0.002, 0.02)
ETHERTYPE = slice(12, 14)


class LateErrors:
    """Sends what ``ring`` holds, whose records are ``struct icmp_late``, out of this namespace."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(0)

    def start(self) -> None:
        """Watch the ring on the running loop; what it holds is too old."""
        self._ring.drain()
        asyncio.get_running_loop().add_reader(self._ring.fd, self._drain)

    def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._ring.fd)
        self._socket.close()

    def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        for record in self._ring.drain():
            frame = record["frame"].tobytes()[: int(record["length"])]
            for delay in REPEATS_S:
                loop.call_later(delay, self._send, int(record["ifindex"]), frame)

    def _send(self, ifindex: int, frame: bytes) -> None:
        try:
            device = socket.if_indextoname(ifindex)
            self._socket.sendto(frame, (device, int.from_bytes(frame[ETHERTYPE], "big")))
        except OSError as error:  # the pod is gone, or this process is at its end
            log.debug("event=no_late_error ifindex=%s reason=%s", ifindex, error)
