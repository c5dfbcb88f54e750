"""Why a session is down: events of ExaBGP in, one sentence out. The clock is set by hand."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from bgp.desired import Peering
from bgp.exabgp.applied import Memory
from bgp.exabgp.lines import SessionEvent
from bgp.exabgp.states import States
from bgp.peer import Advertise
from bgp.reasons import SILENT_AGAIN_S

ROUTER = ip_address("10.99.0.1")
PEERING = Peering(
    "r", ROUTER, 65000, ip_address("10.99.0.11"), 65101, 9, 120, (Advertise("podCIDRs"),)
)


def change(state: str, text: str = "") -> SessionEvent:
    return SessionEvent("state", ROUTER, state=state, text=text)


SHUTDOWN = SessionEvent("notification", ROUTER, text="until 18:00", code=6, subcode=2)
MAXIMUM = SessionEvent("notification", ROUTER, code=6, subcode=1)
RECONFIGURED = SessionEvent("notification", ROUTER, code=6, subcode=6)
OURS = SessionEvent("notification", ROUTER, sent=True, code=5)
ENDED = change("down", "notification received (6,2)")
REFUSED = change("down", "closing connection: the TCP connection was closed by the remote end")


class Story:
    """One session of a speaker whose files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.memory = Memory(folder / "applied.json")
        if not self.memory.peerings:
            self.memory.save(peerings={ROUTER: PEERING})
        self.states = States(self.memory, lambda: self.now)
        self.states.expect(self.memory.peerings)

    def after(self, *events: SessionEvent, wait_s: float = 0.0) -> str:
        """The reason after events and a pause."""
        for one in events:
            self.states.hear(one)
        self.now += wait_s
        state = self.states.of(PEERING)
        assert state is not None
        return state.reason


def test_the_cause_stays_when_the_reconnect_is_refused(tmp_path: Path) -> None:
    """What follows is added: 8 ms later the router closes the next connection."""
    it = Story(tmp_path)
    said = it.after(SHUTDOWN, ENDED)
    assert said.endswith('administrative shutdown) (6/2): "until 18:00"')
    for _ in range(3):
        later = it.after(change("connected"), REFUSED)
        assert later.startswith(f"{said}; since then: 10.99.0.1 closes the connection at once")


def test_the_cause_stays_while_the_router_is_silent(tmp_path: Path) -> None:
    """A password on one side only: the router has changed its configuration, then says nothing."""
    it = Story(tmp_path)
    assert "since then" not in it.after(RECONFIGURED, ENDED)
    said = it.after(wait_s=SILENT_AGAIN_S + 1)
    assert "changed its configuration" in said
    assert "since then: no answer" in said
    assert "MD5 password" in said


def test_another_notification_is_another_cause(tmp_path: Path) -> None:
    it = Story(tmp_path)
    it.after(SHUTDOWN, ENDED, REFUSED)
    said = it.after(MAXIMUM, ENDED)
    assert said.startswith("the router takes no more prefixes")
    assert "shut this session down" not in said


def test_our_answer_to_the_router_replaces_no_cause(tmp_path: Path) -> None:
    """ExaBGP waits for an OPEN in vain, and says so itself."""
    said = Story(tmp_path).after(MAXIMUM, ENDED, OURS, change("down", "notification sent (5,0)"))
    assert said.startswith("the router takes no more prefixes")
    assert "since then: we close the session" in said


def test_a_session_that_is_up_has_no_cause(tmp_path: Path) -> None:
    it = Story(tmp_path)
    assert it.after(MAXIMUM, ENDED, change("up")) == ""
    assert it.after(REFUSED).startswith("10.99.0.1 closes the connection at once")


def test_a_cause_outlives_the_speaker(tmp_path: Path) -> None:
    """A router says once why it ends a session."""
    said = Story(tmp_path).after(SHUTDOWN, ENDED)
    assert Story(tmp_path).after() == said


def test_the_cause_goes_with_its_peer(tmp_path: Path) -> None:
    it = Story(tmp_path)
    it.after(SHUTDOWN, ENDED)
    it.states.expect([])
    assert Story(tmp_path).memory.causes == {}
