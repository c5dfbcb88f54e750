"""Short connections, each with an answer of its own: what a change of programs may break.

Started by path, without the project on ``sys.path``::

    churn.py NAME PORT ADDRESS… --seconds 20 --rate 250

Half of the connections are TCP (connect, payload, echo, close), half are UDP (question, answer).
Each payload names this pod and a number, so an answer that another pod should have got is seen. The
report is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

ANSWER_S = 3.0
#: A SYN or an answer that was lost comes again after a second.
SLOW_S = 0.9


@dataclass
class Report:
    """``slow`` counts answers that took as long as a retransmission does."""

    opened: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    slow: list[str] = field(default_factory=list)


def _tcp(address: str, port: int, payload: bytes) -> bytes:
    with socket.create_connection((address, port), timeout=ANSWER_S) as made:
        made.sendall(payload)
        got = b""
        while len(got) < len(payload) and (more := made.recv(1000)):
            got += more
        return got


def _udp(address: str, port: int, payload: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.settimeout(ANSWER_S)
        made.connect((address, port))
        made.send(payload)
        return made.recv(1000)


Ask = Callable[[str, int, bytes], bytes]


class Lane:
    """One kind of connection to one address, at a fixed rate, by a few threads."""

    THREADS = 4

    def __init__(self, kind: str, ask: Ask, peer: tuple[str, int]) -> None:
        self.kind, self._ask, self._peer = f"{kind} {peer[0]}", ask, peer
        self._lock = threading.Lock()
        self._number = 0

    def run(self, name: str, seconds: float, rate: float, report: Report) -> None:
        """Ask until the time is over."""
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            with self._lock:
                due = begin + self._number / rate
                number = self._number
                self._number += due <= now
            if due > now:
                time.sleep(due - now)
                continue
            self._one(f"{name} {self.kind} {number}".encode(), report, begin)

    def _one(self, payload: bytes, report: Report, begin: float) -> None:
        start = time.monotonic()
        at = f"{self.kind} at {start - begin:.2f} s"
        try:
            got = self._ask(*self._peer, payload)
        except OSError as error:
            report.failed.append(f"{at}: {error}")
            return
        finally:
            with self._lock:
                report.opened[self.kind] = report.opened.get(self.kind, 0) + 1
        report.wrong += got != payload
        if time.monotonic() - start > SLOW_S:
            report.slow.append(at)


def main() -> None:
    """Run all lanes and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("address", nargs="+")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=250)
    options = parser.parse_args()
    report = Report()
    lanes = [
        Lane(kind, ask, (address, options.port))
        for address in options.address
        for kind, ask in (("tcp", _tcp), ("udp", _udp))
    ]
    rate = options.rate / len(lanes)
    threads = [
        threading.Thread(target=lane.run, args=(options.name, options.seconds, rate, report))
        for lane in lanes
        for _ in range(Lane.THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(f"{json.dumps(asdict(report))}\n")


if __name__ == "__main__":
    main()
