"""ICMP errors about a pod's SYN, sent once more when connect() can hear them.

The datapath answers a SYN within the system call that sends it, and so does another node when the
hosts' uplinks are veths. Linux drops an ICMP error for a
socket that is in use just then (TcpExtLockDroppedIcmps), and the next chance would be the
retransmission, a second later. So BPF leaves a copy of the frame (``mg_icmp``), and it goes out of
the pod's host end again a moment later. Without an agent the retransmission is what remains.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

from bpf.ring import Ring
from mesh.core.checksum import checksum

log = logging.getLogger(__name__)

#: Seconds until a frame is repeated; twice, since a busy machine may still be in connect().
REPEATS_S = (0.002, 0.02)
ETHERTYPE = slice(12, 14)
ETHERNET, IPV6 = 14, 40
ICMP, ICMPV6 = 1, 58


class LateErrors:
    """Sends what ``ring`` holds, whose records are ``struct icmp_late``, out of this namespace.

    ``mark`` says to the program at the pod's device that the frame has been judged.
    """

    def __init__(self, ring: Ring, mark: int) -> None:
        self._ring = ring
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
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
            frame = summed(record["frame"].tobytes()[: int(record["length"])])
            for delay in REPEATS_S:
                loop.call_later(delay, self._send, int(record["ifindex"]), frame)

    def _send(self, ifindex: int, frame: bytes) -> None:
        try:
            device = socket.if_indextoname(ifindex)
            self._socket.sendto(frame, (device, int.from_bytes(frame[ETHERTYPE], "big")))
        except OSError as error:  # the pod is gone, or this process is at its end
            log.debug("event=no_late_error ifindex=%s reason=%s", ifindex, error)


def summed(frame: bytes) -> bytes:
    """The frame with the checksum that its ICMP message has as it is.

    The SYN that it quotes may have a checksum that a device was to complete. The error's own one is
    for the completed SYN, and nobody completes that of a copy.
    """
    packet = frame[ETHERNET:]
    if packet[0] >> 4 == 4:
        begin, protocol, pseudo = (packet[0] & 15) * 4, packet[9], b""
    else:
        begin, protocol = IPV6, packet[6]
        pseudo = packet[8:IPV6] + struct.pack("!II", len(packet) - IPV6, ICMPV6)
    if protocol not in (ICMP, ICMPV6):
        return frame  # other headers in front
    message = packet[begin : begin + 2] + bytes(2) + packet[begin + 4 :]
    check = checksum(pseudo + message).to_bytes(2, "big")
    return frame[: ETHERNET + begin] + message[:2] + check + message[4:]
