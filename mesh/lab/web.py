"""The web pod's server: every GET is answered with the pod's name, over IPv4 and IPv6.

Started by path, without the project on ``sys.path``: ``web.py PORT NAME``.
"""

from __future__ import annotations

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _DualStack(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)


class _NameAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = b""

    def do_GET(self) -> None:  # http.server looks for this name
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(self.name)))
        self.end_headers()
        self.wfile.write(self.name)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Nothing: requests are no events here."""


def main() -> None:
    """Serve until killed."""
    port, _NameAnswer.name = int(sys.argv[1]), f"{sys.argv[2]}\n".encode()
    _DualStack(("::", port), _NameAnswer).serve_forever()


if __name__ == "__main__":
    main()
