"""The command line over real sockets: golden output, exit status, start-up time."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml

from mesh import cli
from mesh.core.noun import Rows
from mesh.nouns import NOUNS
from mesh.observe.drops import drop_rows
from mesh.observe.events import reason_texts
from mesh.observe.hubble import Observer
from tests.fixtures.flow_events import drop, event, flows, ping6, translated
from tests.fixtures.serving import served

ISSUE = {
    "node": "cluster name addresses podCIDRs locator mtu",
    "pod": "cluster namespace name node addresses identity",
    "identity": "cluster id labels",
    "address": "address identity cluster node",
    "service": "cluster namespace name addresses ports global backends",
    "egress": "cluster policy addresses owners gateway gateways pods state",
    "block": "address number first last cluster node epoch",
    "peer": "node address asn state reason families received advertised bfd since",
    "flow": "time node source destination protocol verdict reason translated service",
    "drop": "node reason number packets since",
    "host": "node setting was now why",
}
EAST = {
    "cluster": "east",
    "name": "east-1",
    "addresses": ["10.99.0.11", "fd99::11"],
    "podCIDRs": ["10.1.0.0/24"],
    "locator": "fcbb:bb01:1::/48",
}
WEST = EAST | {"cluster": "west", "name": "west-1", "locator": None}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command against the processes of a run directory of our own."""
    monkeypatch.setenv("MESHGATE_RUN", str(tmp_path))

    def one(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return one


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ExitStack]:
    """Two agents and a controller of each cluster, one agent with flows."""
    seen = flows(event(), translated(), drop(), ping6(), drop(reason=222))
    west = flows(event(source_port=7, time=time.monotonic_ns() - 10**9))
    with ExitStack() as stack:
        for cluster, kept in (("east", seen), ("west", west)):
            host = f"{cluster}-1"
            status = {"role": "agent", "host": host, "cluster": cluster, "findings": []}
            nouns = {
                "node": [EAST | {"locator": cluster}, WEST | {"locator": cluster}],
                "identity": [{"cluster": "east", "id": 65537, "labels": ["k8s:app=web"]}],
            }
            agent = tmp_path / host / "agent.sock"
            stack.enter_context(served(agent, nouns, status, Observer(kept)))
            controller = tmp_path / host / "controller.sock"
            stack.enter_context(served(controller, {}, status | {"role": "controller"}))
        yield stack


def test_the_columns_are_those_of_the_issue() -> None:
    """Others script against them."""
    assert {name: " ".join(NOUNS[name].columns) for name in ISSUE} == ISSUE


@pytest.mark.usefixtures("lab")
def test_a_table_is_aligned_and_plain_in_a_pipe(run: Run) -> None:
    """Rows of several processes appear once, those of a cluster's own process win."""
    status, out, err = run("node", "list")
    assert out.splitlines() == [
        "CLUSTER  NAME    ADDRESSES            PODCIDRS     LOCATOR  MTU",
        "east     east-1  10.99.0.11,fd99::11  10.1.0.0/24  east     -",
        "west     west-1  10.99.0.11,fd99::11  10.1.0.0/24  west     -",
    ]
    assert (status, err) == (0, "")


@pytest.mark.usefixtures("lab")
def test_json_and_yaml_have_the_same_rows(run: Run) -> None:
    """An array with exactly the keys of the noun, absent ones as null."""
    status, text, _ = run("node", "list", "-o", "json")
    rows = json.loads(text)
    assert status == 0
    assert [(row["name"], row["locator"]) for row in rows] == [
        ("east-1", "east"),
        ("west-1", "west"),
    ]
    assert yaml.safe_load(run("node", "list", "-o", "yaml")[1]) == rows
    assert list(rows[0]) == ISSUE["node"].split()


@pytest.mark.usefixtures("lab")
def test_an_empty_table_is_an_empty_array(run: Run) -> None:
    """Nobody serves blocks here, and that is no error."""
    assert run("block", "list", "-o", "json") == (0, "[]\n", "")


@pytest.mark.usefixtures("lab")
def test_a_dead_process_is_named_and_hides_nobody(run: Run, tmp_path: Path) -> None:
    """The rows of the others still come, but they may not be all: exit status 1."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "west-1" / "speaker.sock"))
    status, out, err = run("identity", "list")
    assert status == 1
    assert out.splitlines()[1].split() == ["east", "65537", "k8s:app=web"]
    assert err.startswith("meshgate: west-1/speaker: ")


@pytest.mark.usefixtures("lab")
def test_the_socket_of_the_cni_plugin_is_no_process(run: Run, tmp_path: Path) -> None:
    """It lies in the run directory, and speaks another protocol."""
    with socket.socket(socket.AF_UNIX) as plugins:
        plugins.bind(str(tmp_path / "cni.sock"))
        plugins.listen()
        assert run("identity", "list")[0] == 0


def test_without_any_process_the_run_directory_is_named(run: Run, tmp_path: Path) -> None:
    """Exit status 1, nothing on standard output."""
    for noun in ("node", "flow"):
        status, out, err = run(noun, "list", "-o", "json")
        assert (status, out) == (1, "")
        assert str(tmp_path) in err


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("noun", ["node", "flow"])
def test_an_answer_that_is_not_whole_is_an_error_and_stays_an_array(
    run: Run, tmp_path: Path, noun: str
) -> None:
    """A process that answers nobody is named; what the others said is printed."""
    (tmp_path / "east-9").mkdir()
    whole = run(noun, "list", "-o", "json")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "east-9" / "agent.sock"))
    status, out, err = run(noun, "list", "-o", "json")
    assert whole[0] == 0
    assert (status, json.loads(out)) == (1, json.loads(whole[1]))
    assert "east-9/agent: nobody listens on its socket" in err


def test_rows_before_a_failure_are_printed_and_the_process_is_named(
    run: Run, tmp_path: Path
) -> None:
    """A list that ends in the middle is a list, an error and a name."""

    def shown(number: int) -> dict[str, object]:
        return {"address": f"10.0.{number // 250}.{number % 250}"} if number < 4000 else 1 // 0

    rows = Rows.of(range(5000), shown)
    with served(tmp_path / "agent.sock", {"address": lambda: rows}, {"cluster": "east"}):
        status, out, err = run("address", "list", "-o", "json")
    assert status == 1
    assert 3000 < len(json.loads(out)) <= 4000
    assert err.startswith("meshgate: agent: ")
    assert "ZeroDivisionError" in err


def test_a_column_that_the_noun_does_not_have_is_an_error(run: Run, tmp_path: Path) -> None:
    """A misspelt column would be printed as one that has no value."""
    rows = [{"cluster": "east", "policy": "erp", "adresses": "east-1"}]
    with served(tmp_path / "agent.sock", {"egress": rows}, {"cluster": "east"}):
        status, out, err = run("egress", "list", "-o", "json")
    assert (status, json.loads(out)[0]["policy"]) == (1, "erp")
    assert err == "meshgate: agent: columns that egress does not have: adresses\n"


def test_rows_of_one_key_are_joined(run: Run, tmp_path: Path) -> None:
    """Each process gives the columns that it knows; what the first one says stands, nulls too."""
    key = {"cluster": "east", "policy": "erp"}
    controller = key | {"addresses": ["198.51.100.10"], "gateway": None}
    agent = key | {"gateway": "east-2", "pods": 3}
    with (
        served(tmp_path / "controller.sock", {"egress": [controller]}, {"cluster": "east"}),
        served(tmp_path / "agent.sock", {"egress": [agent]}, {"cluster": "west"}),
    ):
        (row,) = json.loads(run("egress", "list", "-o", "json")[1])
    expected = {"addresses": ["198.51.100.10"], "gateway": None, "gateways": None, "pods": 3}
    expected |= {"owners": None, "state": None}
    assert row == key | expected


def test_a_long_list_is_one_array(run: Run, tmp_path: Path) -> None:
    """It is printed in pieces, and reads like a short one."""
    rows = [{"cluster": "east", "id": number, "labels": []} for number in range(2500)]
    with served(tmp_path / "agent.sock", {"identity": rows}, {"cluster": "east"}):
        status, out, _ = run("identity", "list", "-o", "json")
    assert (status, json.loads(out)) == (0, rows)
    assert out == json.dumps(rows, indent=2) + "\n"


@pytest.mark.usefixtures("lab")
def test_flows_are_sorted_by_time_with_the_keys_of_the_issue(run: Run) -> None:
    """West's older flow comes first; the keys are exactly those promised."""
    status, text, _ = run("flow", "list", "-o", "json")
    rows = json.loads(text)
    assert status == 0
    assert rows[0]["source"]["port"] == 7
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert all(list(row) == ISSUE["flow"].split() for row in rows)
    assert list(rows[0]["source"]) == ["address", "port", "identity", "labels"]
    assert len(rows) == 6


@pytest.mark.usefixtures("lab")
def test_flows_tell_reason_and_translation(run: Run) -> None:
    """Drops have a reason in words, translated ones the address and port outside."""
    rows = json.loads(run("flow", "list", "-o", "json")[1])
    reasons = [row["reason"] for row in rows if row["verdict"] == "DROPPED"]
    outside = [row["translated"] for row in rows if row["translated"]]
    assert reasons == ["No NAT mapping", "No block"]
    assert outside == [{"address": "198.51.100.10", "port": 1030}]
    assert {row["protocol"] for row in rows} == {"TCP", "UDP", "ICMPv6"}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--last", "2"), 2),
        (("--last", "0"), 6),
        (("--verdict", "dropped"), 2),
        (("--pod", "shop/client"), 5),
        (("--pod", "client-1"), 5),
        (("--pod", "east/shop/client-1", "--verdict", "FORWARDED"), 3),
        (("--pod", "west/shop/client-1"), 0),
    ],
)
@pytest.mark.usefixtures("lab")
def test_flow_options_select(run: Run, options: tuple[str, ...], count: int) -> None:
    """The agents filter; ``--last`` counts over all of them."""
    assert len(json.loads(run("flow", "list", "-o", "json", *options)[1])) == count


def test_flow_watch_prints_what_happens(tmp_path: Path) -> None:
    """One line a flow, as it happens, until the reader has enough."""
    kept = flows()
    path = tmp_path / "east-2" / "agent.sock"
    command = [sys.executable, "-m", "mesh.cli", "flow", "watch", "--verdict", "DROPPED"]
    with (
        served(path, {}, {}, Observer(kept)) as loop,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={"MESHGATE_RUN": str(tmp_path)}
        ) as watching,
    ):
        assert watching.stdout
        line = ""
        for _ in range(500):  # the stream begins some time after the process
            loop.call_soon_threadsafe(kept.append, drop())
            ready = _readable(watching, 0.02)
            if ready:
                line = watching.stdout.readline()
                break
        watching.terminate()
    assert re.fullmatch(
        r"\S+Z east-1: east/shop/client-1:40000 \(70001\) -> 192\.0\.2\.10:53 \(2\) UDP DROPPED "
        r"\(No NAT mapping\)\n",
        line,
    )


def _readable(process: subprocess.Popen[str], timeout_s: float) -> bool:
    import select  # noqa: PLC0415

    return bool(select.select([process.stdout], [], [], timeout_s)[0])


def test_watching_dead_agents_ends_and_names_them(run: Run, tmp_path: Path) -> None:
    """Nobody is left to follow, which is an error and not silence."""
    (tmp_path / "east-1").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "east-1" / "agent.sock"))
    status, out, err = run("flow", "watch")
    assert (status, out) == (1, "")
    assert "east-1/agent: nobody listens on its socket" in err


@pytest.mark.usefixtures("lab")
def test_status_is_health(run: Run, tmp_path: Path) -> None:
    """Exit status 0 and an empty list, or 1 and a finding with all its fields."""
    status, text, _ = run("status", "-o", "json")
    whole = {"healthy": True, "findings": [], "drops": [], "usage": [], "unshown": []}
    assert (status, json.loads(text)) == (0, whole)
    (tmp_path / "west-1" / "speaker.yaml").touch()
    status, text, _ = run("status", "-o", "json")
    (one,) = json.loads(text)["findings"]
    assert status == 1
    assert (one["code"], one["object"]) == ("B290", "west-1/speaker")
    assert one.keys() == {"code", "object", "field", "text", "about", "since"}
    assert run("status")[1].splitlines()[-2] == "Findings: 1"


def test_drops_are_summed_over_cpus() -> None:
    """Only reasons that have counted something, by number, with the text of the enumerator."""
    values = np.zeros((256, 2), [("packets", "<u8"), ("bytes", "<u8")])
    values["packets"][167] = [3, 4]
    values["packets"][230] = [0, 1]
    texts = reason_texts({"DROP_NO_NAT_MAPPING": 167})
    assert drop_rows("east-1", np.arange(256, dtype="<u4"), values, texts, 5.0) == [
        {"node": "east-1", "reason": text, "number": number, "packets": packets, "since": 5.0}
        for text, number, packets in (("No NAT mapping", 167, 7), ("reason 230", 230, 1))
    ]


def test_reasons_read_as_text() -> None:
    """From the names of the enum alone."""
    names = {"DROP_INVALID_IPV6_EXTENSION": 156, "DROP_TTL_EXCEEDED": 196, "DROP_MID_STREAM": 223}
    assert list(reason_texts(names).values()) == [
        "Invalid IPv6 extension",
        "TTL exceeded",
        "Mid stream",
    ]


def test_the_command_line_starts_light() -> None:
    """Neither numpy nor gRPC before a command needs them; the aim is 0.35 s for a list.

    Every room's nouns are known then, so no module of nouns imports them either.
    """
    heavy = "{'grpc', 'numpy', 'rich', 'yaml', 'msgspec', 'pyroute2'} & set(sys.modules)"
    code = f"import sys, mesh.cli; mesh.cli._parser(['node', 'list']); print({heavy})"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "set()\n"


def test_listing_needs_no_numpy() -> None:
    """It costs 0.1 s that nobody needs for a table."""
    code = "import sys, mesh.observe.watch, mesh.observe.status; print('numpy' in sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "False\n"


# --- What a newcomer types ------------------------------------------------------------------------

PODS = [
    {"cluster": cluster, "namespace": namespace, "name": name, "node": f"{cluster}-{number}"}
    for cluster, namespace, name, number in (
        ("east", "shop", "web-1", 1),
        ("east", "bank", "web-1", 2),
        ("west", "shop", "web-1", 1),
        ("west", "shop", "client-1", 1),
    )
]


def names(text: str) -> list[str]:
    return [f"{row['cluster']}/{row['namespace']}/{row['name']}" for row in json.loads(text)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["client-1"], ["west/shop/client-1"]),
        (["bank/web-1"], ["east/bank/web-1"]),
        (["west/shop/web-1"], ["west/shop/web-1"]),
        (["--cluster", "east"], ["east/bank/web-1", "east/shop/web-1"]),
        (["--namespace", "bank"], ["east/bank/web-1"]),
        (["--node", "east-2"], ["east/bank/web-1"]),
        (["web-1", "--cluster", "west"], ["west/shop/web-1"]),
        (["nobody"], []),
    ],
)
def test_a_list_takes_names_and_places(
    run: Run, tmp_path: Path, words: list[str], found: list[str]
) -> None:
    with served(tmp_path / "agent.sock", {"pod": PODS}, {"cluster": "east"}):
        status, out, err = run("pod", "list", *words, "-o", "json")
    assert (status, names(out), err) == (0, found, "")


def test_show_prints_everything_about_one(run: Run, tmp_path: Path) -> None:
    with served(tmp_path / "agent.sock", {"pod": PODS}, {"cluster": "east"}):
        status, out, _ = run("pod", "show", "shop/client-1")
        missing, nothing, err = run("pod", "show", "nobody")
    assert status == 0
    assert "NAME       client-1" in out.splitlines()
    assert (missing, nothing) == (1, "")
    assert "no pod is called nobody" in err


def test_nouns_without_a_place_do_not_take_it(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("identity", "list", "--namespace", "shop")
    assert "--namespace" in capsys.readouterr().err


def test_help_and_version_name_what_a_newcomer_looks_for(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (("-h", "MESHGATE_RUN"), ("--version", "meshgate 0.")):
        with pytest.raises(SystemExit) as end:
            run(words)
        assert end.value.code == 0
        assert said in capsys.readouterr().out


def test_status_without_processes_names_the_directory(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("status")
    assert status == 1
    assert f"{tmp_path} has no socket" in out
    assert "MESHGATE_RUN" in out


def test_a_gateway_that_cannot_carry_is_seen_in_the_list(run: Run, tmp_path: Path) -> None:
    """For people; scripts read the name alone."""
    policies = [
        {"cluster": "east", "policy": f"for-{node}", "gateway": node, "addresses": [], "pods": []}
        for node in ("east-1", "east-2", None)
    ]
    wrong = {"code": "D642", "about": ["node/east-2"]}
    status = {"role": "agent", "host": "east-2", "cluster": "east", "findings": [wrong]}
    with served(tmp_path / "east-2" / "agent.sock", {"egress": policies}, status):
        out = run("egress", "list")[1]
        rows = json.loads(run("egress", "list", "-o", "json")[1])
    assert "east-2 (D642)" in out
    assert "none: covered packets are dropped" in out
    assert "east-1 (" not in out
    assert [row["gateway"] for row in rows] == [None, "east-1", "east-2"]


@pytest.mark.usefixtures("lab")
def test_flows_of_one_node(run: Run) -> None:
    rows = json.loads(run("flow", "list", "--node", "west-1", "-o", "json")[1])
    assert {row["node"] for row in rows} <= {"west-1"}
