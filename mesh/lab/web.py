"""The web pod's server: every GET is answered with the pod's name, over IPv4 and IPv6.

Started by path, without the project on ``sys.path``:
``web.py PORT CLUSTER/NAMESPACE/NAME``. The whole name is in the header ``X-Pod``.
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
    pod = ""

    def do_GET(self) -> None:  # http.server looks for this name
        body = f"{self.pod.rpartition('/')[2]}\n".encode()
        self.send_response(200)
        self.send_header("X-Pod", self.pod)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: requests are no events here."""


def main() -> None:
    """Serve until killed."""
    _NameAnswer.pod = sys.argv[2]
    _DualStack(("::", int(sys.argv[1])), _NameAnswer).serve_forever()


if __name__ == "__main__":
    main()
