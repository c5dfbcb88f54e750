"""Status as stories: what the processes answer, and what the operator reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mesh.core.noun import Row
from mesh.nouns import NOUNS
from mesh.observe import status as statuses
from mesh.observe.render import age, screen
from mesh.observe.tables import Answer, Process

NOW = 1_800_000_000.0
DEAD = "nobody listens on its socket: the process is dead"


def summarize(answers: list[Answer], now: float) -> statuses.Status:
    return statuses.summarize(answers, now, NOUNS)


def answer(host: str, role: str, error: str = "", **given: Any) -> Answer:
    """One process of a cluster named like its host; ``given`` are nouns and status fields."""
    process = Process(host, role, Path("/run") / host / f"{role}.sock")
    if error:
        return Answer(process, error=error)
    status = {"role": role, "host": host, "cluster": host.partition("-")[0], "findings": []}
    rows = {
        noun: given.pop(noun) for noun in ("node", "peer", "egress", "cluster") if noun in given
    }
    return Answer(process, status | given, rows)


def node(name: str) -> Row:
    return {"cluster": name.partition("-")[0], "name": name, "addresses": ["10.99.0.11"]}


def peer(node: str, state: str = "established", reason: str = "") -> Row:
    return {"node": node, "address": "10.99.0.1", "asn": 65000, "state": state, "reason": reason}


def finding(code: str, thing: str, text: str = "text", since: float = 1.0, *about: str) -> Row:
    row = {"code": code, "object": thing, "field": "spec", "text": text}
    return row | {"about": list(about), "since": since}


NODES = [node("east-1"), node("east-2")]
POLICY = {"cluster": "east", "policy": "erp", "addresses": ["198.51.100.10"], "gateway": "east-2"}


def east(**changed: Answer | None) -> list[Answer]:
    """A healthy cluster of two nodes, with answers replaced by name (``east_1_agent=…``)."""
    answers = {
        "east_1_agent": answer("east-1", "agent", node=NODES, egress=[POLICY], ready=True),
        "east_2_agent": answer("east-2", "agent", node=NODES, egress=[POLICY], ready=True),
        "east_1_controller": answer("east-1", "controller", node=NODES),
        "east_1_speaker": answer("east-1", "speaker", peer=[peer("east-1")]),
    } | changed
    return [one for one in answers.values() if one]


def codes(answers: list[Answer]) -> list[str]:
    return [one["code"] for one in summarize(answers, NOW).findings]


def test_all_good() -> None:
    """Every node has an agent, every session stands: healthy, and the tables are merged."""
    status = summarize(east(), NOW)
    assert status.healthy
    assert [(row["name"], row["agent"]) for row in status.nodes] == [
        ("east-1", "up"),
        ("east-2", "up"),
    ]
    policies = next(one for one in status.sections if one.title.startswith("Egress"))
    assert [row["gateway"] for row in policies.rows] == ["east-2"]
    assert [(row["cluster"], row["nodes"]) for row in status.clusters] == [("east", 2)]


def test_an_agent_is_down() -> None:
    """Its host and role are named, with what goes on and what waits; once, not twice."""
    status = summarize(east(east_2_agent=answer("east-2", "agent", DEAD)), NOW)
    assert not status.healthy
    (one,) = status.findings
    assert (one["code"], one["object"], one["since"]) == ("D690", "east-2/agent", NOW)
    assert "dead" in one["text"]
    assert "goes on forwarding" in one["text"]


def test_controller_and_speaker_that_are_down_say_what_waits() -> None:
    """Each role in its own words and area."""
    status = summarize(
        east(
            east_1_controller=answer("east-1", "controller", DEAD),
            east_1_speaker=answer("east-1", "speaker", "no answer within 2 s"),
        ),
        NOW,
    )
    texts = {one["code"]: one["text"] for one in status.findings}
    assert texts.keys() == {"M190", "B290"}
    assert "lease" in texts["M190"]
    assert texts["B290"].startswith("no answer within 2 s; ExaBGP keeps")


def test_a_standby_controller_that_is_dead_is_found() -> None:
    """`controller2` is a controller."""
    assert codes([*east(), answer("east-1", "controller2", DEAD)]) == ["M190"]


def test_a_node_without_an_agent_is_found() -> None:
    """Known from the node table of a cluster on this machine; foreign nodes are not ours."""
    nodes = [*NODES, node("east-3"), node("west-1")]
    status = summarize(east(east_1_agent=answer("east-1", "agent", node=nodes)), NOW)
    assert [(one["code"], one["object"]) for one in status.findings] == [("D691", "east-3/agent")]


def test_on_a_real_node_other_nodes_are_not_expected_here() -> None:
    """The flat layout has one host; its node table knows many."""
    flat = Answer(
        Process("", "agent", Path("/run/agent.sock")), {"cluster": "east"}, {"node": NODES}
    )
    assert summarize([flat], NOW).healthy


def test_a_cluster_without_a_controller_is_found() -> None:
    """Never started: there is neither a socket nor a configuration."""
    assert codes(east(east_1_controller=None)) == ["M191"]


def test_a_session_is_down_with_its_reason() -> None:
    """The reason is the text, the object names node and neighbour."""
    down = peer("east-1", "active", "AS mismatch: they sent 65100")
    status = summarize(east(east_1_speaker=answer("east-1", "speaker", peer=[down])), NOW)
    (one,) = status.findings
    assert (one["code"], one["object"]) == ("B291", "east-1/10.99.0.1")
    assert one["text"] == "AS mismatch: they sent 65100"
    assert "BGP sessions: 0 of 1 established" in screen(status, NOW)


def test_a_session_that_the_speaker_reports_is_reported_once() -> None:
    """The speaker knows since when, so its finding stands."""
    down = peer("east-1", "idle", "refused")
    said = finding("B201", "router.yaml", "refused", 1.0, "node/east-1", "peer/10.99.0.1")
    speaker = answer("east-1", "speaker", peer=[down], findings=[said])
    assert codes(east(east_1_speaker=speaker)) == ["B201"]
    other = finding("B201", "router.yaml", "refused", 1.0, "node/east-1", "peer/10.99.0.11")
    speaker = answer("east-1", "speaker", peer=[down], findings=[other])
    assert codes(east(east_1_speaker=speaker)) == ["B201", "B291"]


def test_etcd_away_is_reported_once_by_all() -> None:
    """Three processes say the same about one key: one line, since the first of them."""
    away = [finding("M151", "meshgate/v1/east/", "etcd does not answer", at) for at in (30, 10, 20)]
    status = summarize(
        east(
            east_1_agent=answer("east-1", "agent", node=NODES, findings=[away[0]]),
            east_2_agent=answer("east-2", "agent", findings=[away[1]]),
            east_1_controller=answer("east-1", "controller", findings=[away[2]]),
        ),
        NOW,
    )
    assert status.findings == [away[1]]


def test_a_policy_without_a_gateway_is_found() -> None:
    """Its packets are dropped, which the operator should read before the users do."""
    policy = POLICY | {"gateway": None}
    changed = answer("east-1", "agent", node=NODES, egress=[policy])
    assert codes(east(east_1_agent=changed)) == ["E390"]


def test_a_policy_without_a_gateway_that_a_controller_reports_is_reported_once() -> None:
    """One of the same name in another cluster is another policy."""
    policies = [POLICY | {"gateway": None}, POLICY | {"gateway": None, "cluster": "west"}]
    said = finding("E302", "erp.yaml", "no node", 1.0, "egress/erp")
    answers = east(
        east_1_controller=answer("east-1", "controller", egress=policies, findings=[said])
    )
    found = summarize(answers, NOW).findings
    assert [(one["code"], one["object"]) for one in found] == [
        ("E302", "erp.yaml"),
        ("E390", "west/erp"),
    ]


def test_findings_that_concern_different_things_are_two() -> None:
    """Sentences do not tell them apart."""
    said = [finding("M148", "config", "text", 1.0, f"cluster/{name}") for name in ("c", "b", "c")]
    changed = answer("east-1", "agent", node=NODES, findings=said)
    found = summarize(east(east_1_agent=changed), NOW).findings
    assert [one["about"] for one in found] == [["cluster/b"], ["cluster/c"]]


def test_processes_that_are_away_come_first() -> None:
    """They explain the rest, which follows by code, object and field."""
    reported = [finding("S401", "b"), finding("E301", "b"), finding("E301", "a")]
    status = summarize(
        east(
            east_1_agent=answer("east-1", "agent", node=NODES, findings=reported),
            east_1_speaker=answer("east-1", "speaker", DEAD),
        ),
        NOW,
    )
    found = [(one["code"], one["object"]) for one in status.findings]
    assert found == [("B290", "east-1/speaker"), ("E301", "a"), ("E301", "b"), ("S401", "b")]


def test_a_process_that_is_starting_is_not_healthy() -> None:
    """`lab up` waits for this."""
    starting = answer("east-1", "agent", node=NODES, ready=False)
    assert codes(east(east_1_agent=starting)) == ["D693"]


def test_answers_of_half_started_processes_do_no_harm() -> None:
    """No status, no rows, rows without keys, findings without fields."""
    odd = Answer(
        Process("east-1", "agent", Path("/run/x.sock")),
        {"findings": [{}]},
        {"node": [{}], "peer": [{}], "egress": [{}], "cluster": [{}]},
        refused={"node": "KeyError"},
    )
    status = summarize([odd], NOW)
    assert not status.healthy
    assert "KeyError" in screen(status, NOW)


def test_nothing_runs() -> None:
    """An empty machine is not healthy."""
    assert codes([]) == ["M199"]


def test_clusters_show_the_age_of_their_sync_by_who_sees_it() -> None:
    """East lost etcd five minutes ago, so its view of west is that old; west's own is fresh."""
    seen = {"cluster": "west", "id": 2, "nodes": 2, "synced": True}
    lost = finding("M151", "etcd cilium/", "no answer", NOW - 300, "store")
    answers = east(
        east_1_controller=answer("east-1", "controller", cluster=[seen], findings=[lost]),
        west_1_controller=answer("west-1", "controller", cluster=[seen]),
    )
    text = screen(summarize(answers, NOW), NOW)
    rows = [line.split()[:6] for line in text.splitlines() if line.split()[:1] == ["west"]]
    assert ["west", "2", "east", "5", "min", "ago"] in rows
    assert ["west", "2", "west", "0", "s", "ago"] in rows


def test_a_cluster_that_was_never_complete_says_never() -> None:
    """Its canaries are missing."""
    seen = {"cluster": "west", "id": 2, "nodes": 1, "synced": False}
    (row, _) = summarize(
        east(east_1_controller=answer("east-1", "controller", cluster=[seen])), NOW
    ).clusters
    assert age(row["synced"], NOW) == "never"


def test_a_cluster_that_is_kept_from_another_store_is_shown_as_held() -> None:
    """Not as fresh, and not as never seen."""
    seen = {"cluster": "west", "id": 2, "nodes": 2, "synced": False, "state": "held"}
    answers = east(east_1_controller=answer("east-1", "controller", cluster=[seen]))
    text = screen(summarize(answers, NOW), NOW)
    rows = [line.split()[:5] for line in text.splitlines() if line.split()[:1] == ["west"]]
    assert ["west", "2", "east", "held", "2"] in rows


def test_the_screen_ends_with_the_findings() -> None:
    """Who, what, since when."""
    healthy = screen(summarize(east(), NOW), NOW)
    assert healthy.splitlines()[-1] == "Healthy: nothing found"
    late = finding("E301", "erp.yaml", "no such pool", NOW - 7200)
    ill = summarize(east(east_2_agent=answer("east-2", "agent", findings=[late])), NOW)
    assert screen(ill, NOW).splitlines()[-2:] == [
        "Findings: 1",
        "  E301  erp.yaml spec: no such pool (since 2 h ago)",
    ]


def test_ages_are_words() -> None:
    """Seconds up to two minutes, then the unit that fits."""
    assert [age(NOW - s, NOW) for s in (0, 119, 120, 7200, 200_000)] == [
        "0 s ago",
        "119 s ago",
        "2 min ago",
        "2 h ago",
        "2 d ago",
    ]
    assert (age(0, NOW), age(None, NOW)) == ("never", "-")


def test_status_says_how_long_each_loop_was_busy_and_with_what() -> None:
    loop = {"longest_step_ms": 12.5, "turns": 7, "dearest": [{"name": "own service", "runs": 1}]}
    answers = east(east_1_agent=answer("east-1", "agent", node=NODES, ready=True, loop=loop))
    (row,) = summarize(answers, NOW).processes
    assert row == {"process": answers[0].process.name, **loop}


# --- Drops and what is in use ---------------------------------------------------------------------


def test_drops_and_usage_of_all_agents_are_one_list() -> None:
    drops = [{"reason": "No NAT mapping", "packets": 120, "node": "east-1"}]
    usage = [{"what": "ports 198.51.100.10", "node": "east-2", "used": 900, "size": 1024}]
    status = summarize(
        east(
            east_1_agent=answer("east-1", "agent", node=NODES, drops=drops, ready=True),
            east_2_agent=answer("east-2", "agent", usage=usage, ready=True),
        ),
        NOW,
    )
    assert (status.drops, status.usage) == (drops, usage)
    lines = screen(status, NOW).splitlines()
    assert "Drops in the last minute: 120" in lines
    assert "  No NAT mapping  120      east-1" in lines
    assert "  ports 198.51.100.10  east-2  900   1024  88%" in lines


def test_events_beyond_their_senders_share_are_a_line() -> None:
    unshown = [{"sender": "shop/web-1", "events": 9000, "node": "east-1"}]
    status = summarize(
        east(east_1_agent=answer("east-1", "agent", node=NODES, unshown=unshown, ready=True)), NOW
    )
    assert status.unshown == unshown
    lines = screen(status, NOW).splitlines()
    at = lines.index("Flows not shown in the last minute, beyond their sender's share: 9000")
    assert lines[at + 2].split() == ["shop/web-1", "9000", "east-1"]


def test_a_map_is_a_line_only_when_it_is_half_full() -> None:
    usage = [
        {"what": what, "node": "east-1", "used": used, "size": 100}
        for what, used in (("mg_egress", 50), ("mg_address", 49), ("connections IPv4", 0))
    ]
    status = summarize(east(east_1_agent=answer("east-1", "agent", node=NODES, usage=usage)), NOW)
    text = screen(status, NOW)
    assert "mg_egress" in text
    assert "mg_address" not in text
    assert "connections IPv4" in text


def test_equal_findings_of_several_processes_are_one_line_with_a_count() -> None:
    said = finding("M103", "shop.yaml", "unknown field")
    status = summarize(
        east(
            east_1_agent=answer("east-1", "agent", node=NODES, findings=[said]),
            east_2_agent=answer("east-2", "agent", findings=[said]),
            east_1_controller=answer("east-1", "controller", findings=[finding("M104", "x")]),
        ),
        NOW,
    )
    first, second = screen(status, NOW).splitlines()[-2:]
    assert first.endswith(", said by 2 processes)")
    assert "said by" not in second
