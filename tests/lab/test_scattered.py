"""Fragments of a pod in the wrong order arrive as one datagram, and so does the answer."""

import sys
import textwrap

from running import Lab

POD = "east/shop/client-1"
SIZE = 3000
#: Sends a datagram in pieces, the last one first, and prints whether the echo comes back whole.
#: Legacy's first answer of IPv6 teaches it the MTU of the path (packet too big), so there are two.
SCATTER = textwrap.dedent(
    """
    import socket, sys
    from mesh.lab.conformance.packets import Packet, UDP
    from mesh.lab.conformance.shared import fragments

    to, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    back = socket.socket(family, socket.SOCK_DGRAM)
    back.connect((to, port))
    back.settimeout(3)
    source, own = back.getsockname()[:2]
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    if family == socket.AF_INET:
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    body = bytes(n % 251 for n in range(size))
    whole = Packet(source, to, UDP(own, port), body, df=False, id=own)
    for attempt in (1, 2):
        for piece in reversed(fragments(whole.but(id=own + attempt))):
            raw.sendto(piece.ip(), (to, 0))
        try:
            print(back.recv(65535) == body)
            break
        except TimeoutError:
            if attempt == 2 or family == socket.AF_INET:
                raise
    """
)


def test_out_of_order_there_and_back(lab: Lab, family: int) -> None:
    legacy = lab.shown["legacy"]
    to = next(one for one in legacy["addresses"] if (":" in one) == (family == 6))
    answer = lab.exec(POD, sys.executable, "-c", SCATTER, to, legacy["udp"], SIZE)
    assert answer.stdout.strip() == "True", answer.stderr
