"""A server that says its name to everyone who connects: ``named.py PORT NAME``, both families."""

from __future__ import annotations

import socket
import sys


def main(port: int, name: str) -> None:
    """Serve for ever."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        while True:
            client, _ = server.accept()
            with client:
                client.sendall(name.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
