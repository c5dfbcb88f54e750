"""The real plugin and a real agent: a runtime's calls, and what they leave in the kernel."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.runtime import EGRESS, Node, add, running, wait

VERSIONS = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def node(made: Node) -> Iterator[Node]:
    """The node with a living agent."""
    if "agent" not in made.processes:
        made.start("agent")
    wait(made.ready, 30, lambda: made.log("agent"))
    yield made
    if "agent" in made.processes:
        made.signal("agent", signal.SIGCONT)


def test_add_returns_when_the_rows_of_the_pod_are_in_the_maps(node: Node) -> None:
    space, container, said = add(node, "first")
    result = said.row
    host, inside = result["interfaces"]
    assert (inside["name"], inside["sandbox"]) == ("eth0", str(space))
    addresses = [one["address"] for one in result["ips"]]
    assert set(addresses) == node.addresses(space)
    assert [one["gateway"] for one in result["ips"]] == ["169.254.1.1", "fe80::1"]
    assert [one["dst"] for one in result["routes"]] == ["0.0.0.0/0", "::/0"]
    ifindex = node.ip(node.space, "link", "show", host["name"])[0]["ifindex"]
    rows = node.rows()
    for one in addresses:
        row = rows[one.rpartition("/")[0]]
        assert row["ifindex"] == ifindex
        assert row["identity"] >> 16 == 1
    assert node.call("DEL", space, container, pod="first").status == 0
    assert host["name"] not in node.devices()
    assert not node.addresses(space)


def test_a_covered_pod_has_its_class_when_add_returns(node: Node) -> None:
    """The egress gate: the class in the pod's row, and before it the rows of the class.

    It has ports, too, so its first packet is translated.
    """
    space, container, said = add(node, "covered", app="client")
    addresses = [one["address"].rpartition("/")[0] for one in said.row["ips"]]
    classes = {node.rows()[one]["egress_class"] for one in addresses}
    assert 0 not in classes
    assert classes <= node.classes()
    assert node.own_blocks() == {EGRESS}
    node.call("DEL", space, container, pod="covered")


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_has_its_form(node: Node, version: str) -> None:
    name = f"v{version.replace('.', '-')}"
    space, container, said = add(node, name, config=node.config(version))
    assert said.row["cniVersion"] == version
    families = [one.get("version") for one in said.row["ips"]]
    assert families == (["4", "6"] if version < "1" else [None, None])
    assert ("mtu" in said.row["interfaces"][0]) == (version == "1.1.0")
    checked = node.config(version, prevResult=said.row)
    check = node.call("CHECK", space, container, pod=name, config=checked)
    assert check.code == (1 if version == "0.3.1" else 0), check.text
    for command in ("GC", "STATUS"):
        answer = node.call(command, config=node.config(version))
        assert answer.code == (0 if version == "1.1.0" else 1), answer.text
    assert node.call("DEL", space, container, config=node.config(version)).status == 0


def test_a_version_that_nobody_knows_is_code_1(node: Node) -> None:
    answer = node.call("ADD", node.sandbox(), "c-odd", pod="odd", config=node.config("9.9.9"))
    assert answer.code == 1
    spoken = node.call("VERSION", config={"cniVersion": "1.0.0"}).row
    assert spoken == {"cniVersion": "1.0.0", "supportedVersions": VERSIONS}


def test_a_repeated_add_gives_the_same_result(node: Node) -> None:
    space, container, said = add(node, "twice")
    again = node.call("ADD", space, container, pod="twice")
    assert (again.status, again.row) == (0, said.row)
    node.call("DEL", space, container)


def test_an_interface_of_anything_else_is_code_100(node: Node) -> None:
    node.pod("taken")
    space = node.sandbox()
    subprocess.run(
        ["ip", "-n", space.name, "link", "add", "eth0", "type", "veth", "peer", "name", "eth9"],
        check=True,
    )
    answer = node.call("ADD", space, "c-taken", pod="taken")
    assert answer.code == 100, answer.text
    assert "eth0" in answer.row["msg"]
    assert not any("taken" in alias for alias in node.devices().values())
    other, container, _ = add(node, "holder")
    node.pod("taken")
    answer = node.call("ADD", other, "c-taken", pod="taken")
    assert answer.code == 100, answer.text
    assert node.call("ADD", space, container, pod="holder").code == 100
    node.call("DEL", other, container)


def test_a_late_del_of_the_old_sandbox_leaves_the_new_one(node: Node) -> None:
    """A pod may have two sandboxes for a moment; the newest is the pod's in the mesh."""
    old, container, said = add(node, "moved")
    before = {one["address"] for one in said.row["ips"]}
    new = node.sandbox()
    moved = node.call("ADD", new, "c-moved-2", pod="moved")
    after = {one["address"] for one in moved.row["ips"]}
    assert not before & after
    assert node.addresses(old) == before
    assert node.addresses(new) == after
    rows = node.rows()
    assert {one.rpartition("/")[0] for one in before | after} <= rows.keys()
    wanted = sorted(one.rpartition("/")[0] for one in after)
    wait(lambda: said_by(node, "moved") == wanted, 5, lambda: f"{node.entries()}")
    assert node.call("DEL", old, container, pod="moved").status == 0
    assert node.addresses(new) == after
    assert {one.rpartition("/")[0] for one in after} <= node.rows().keys()
    assert said_by(node, "moved") == wanted
    assert moved.row["interfaces"][0]["name"] in node.devices()
    node.call("DEL", new, "c-moved-2", pod="moved")
    wait(lambda: "moved" not in node.entries(), 5, "the key goes with the last sandbox")


def said_by(node: Node, pod: str) -> list[str]:
    """Addresses of a pod's key in the store."""
    entry = node.entries().get(pod)
    return sorted(entry["addresses"]) if entry else []


def test_add_waits_for_the_pod_object(node: Node) -> None:
    space = node.sandbox()
    end = node.begin("ADD", space, "c-late", pod="late")
    time.sleep(0.5)
    node.pod("late")
    said = end()
    assert said.status == 0, said.text
    assert said.took_s > 0.5
    node.call("DEL", space, "c-late")


def test_add_waits_for_the_object_with_the_uid_of_the_sandbox(node: Node) -> None:
    """The pod that went before had the same name, and other labels."""
    node.pod("again", uid="11")
    space = node.sandbox()
    end = node.begin("ADD", space, "c-again", pod="again", uid="22")
    time.sleep(0.5)
    assert not any("again" in alias for alias in node.devices().values())
    node.pod("again", app="client", uid="22")
    said = end()
    assert said.status == 0, said.text
    address = said.row["ips"][0]["address"].rpartition("/")[0]
    assert node.rows()[address]["egress_class"]
    node.call("DEL", space, "c-again")


def test_del_is_idempotent_and_needs_no_namespace(node: Node) -> None:
    assert node.call("DEL", "/run/netns/never", "c-never").status == 0
    space, container, said = add(node, "gone")
    subprocess.run(["ip", "netns", "del", space.name], check=True)
    first = node.call("DEL", space, container)
    assert first.status == 0
    assert first.took_s < 4, "the device is gone, so there is nothing to wait for"
    assert node.call("DEL", "", container).status == 0
    assert said.row["interfaces"][0]["name"] not in node.devices()


def test_a_call_without_its_variables_is_code_4(node: Node) -> None:
    space = node.sandbox()
    assert node.call("ADD", space, "c-x").code == 4  # no pod
    assert node.call("ADD", "", "c-x", pod="first").code == 4
    assert node.call("DEL", space).code == 4
    assert node.call("ADD", "/run/netns/never", "c-x", pod="first").code == 3
    assert node.call("NEVER").code == 4
    assert node.call("ADD", space, "c-x", pod="first", interface="a/b").code == 4
    nameless = {"cniVersion": "1.1.0", "socket": str(node.socket)}
    assert node.call("ADD", space, "c-x", pod="first", config=nameless).code == 7


def test_check_says_what_is_not_as_add_made_it(node: Node) -> None:
    space, container, said = add(node, "checked")
    config = node.config(prevResult=said.row)

    def check() -> int:
        return node.call("CHECK", space, container, pod="checked", config=config).code

    assert check() == 0
    assert node.call("CHECK", space, "c-unknown", config=config).code == 3
    assert node.call("CHECK", space, container).code == 7
    subprocess.run(
        ["ip", "-n", space.name, "addr", "flush", "dev", "eth0", "scope", "global"], check=True
    )
    assert check() == 101
    subprocess.run(["ip", "-n", space.name, "link", "del", "eth0"], check=True)
    wait(lambda: check() == 0, 10, "the agent has connected the pod again")
    assert node.addresses(space) == {one["address"] for one in said.row["ips"]}
    node.call("DEL", space, container)


def test_gc_ends_what_is_not_listed_and_nothing_without_a_list(node: Node) -> None:
    kept, lost = add(node, "kept"), add(node, "lost")
    assert node.call("GC").status == 0
    names = [one[2].row["interfaces"][0]["name"] for one in (kept, lost)]
    assert set(names) <= node.devices().keys()
    other = node.config(**{"name": "other", "cni.dev/valid-attachments": []})
    assert node.call("GC", config=other).status == 0
    assert set(names) <= node.devices().keys()
    valid = [{"containerID": kept[1], "ifname": "eth0"}]
    config = node.config(**{"cni.dev/valid-attachments": valid})
    assert node.call("GC", config=config).status == 0
    assert names[0] in node.devices()
    assert names[1] not in node.devices()
    node.call("DEL", kept[0], kept[1])


def test_a_restarting_agent_keeps_its_pods_and_serves_the_add_that_waits(node: Node) -> None:
    space, container, said = add(node, "steady")
    device, before = said.row["interfaces"][0]["name"], node.rows()
    index = node.ip(node.space, "link", "show", device)[0]["ifindex"]
    node.kill("agent")
    node.pod("waiting")
    late = node.sandbox()
    end = node.begin("ADD", late, "c-waiting", pod="waiting")
    deleted = node.call("DEL", "/run/netns/never", "c-never")
    assert (deleted.status, deleted.text) == (0, "")
    assert deleted.took_s < 1
    node.start("agent")
    waited = end()
    assert waited.status == 0, f"{waited.text}{node.log('agent')}"
    again = node.call("ADD", space, container, pod="steady")
    assert again.row == said.row
    assert node.ip(node.space, "link", "show", device)[0]["ifindex"] == index
    assert before.items() <= node.rows().items()
    for one in ((space, container), (late, "c-waiting")):
        node.call("DEL", *one)


def test_an_agent_catches_up_with_the_del_that_it_missed(node: Node) -> None:
    space, container, said = add(node, "missed")
    node.kill("agent")
    assert node.call("DEL", space, container).status == 0
    subprocess.run(["ip", "netns", "del", space.name], check=True)
    assert node.call("STATUS").code == 50
    assert node.call("GC").status == 0
    assert node.call("VERSION").row["supportedVersions"] == VERSIONS
    node.start("agent")
    wait(node.ready, 30, lambda: node.log("agent"))
    address = said.row["ips"][0]["address"].rpartition("/")[0]
    wait(lambda: address not in node.rows(), 5, "the row goes")
    attachments = json.loads((node.place / "agent/attachments.json").read_text())
    assert container not in [one["container"] for one in attachments]


def test_without_an_agent_add_and_check_are_to_be_tried_again(node: Node) -> None:
    """After 30 s, in the version of stdin; a stopped agent does not answer either."""
    space, container, said = add(node, "alone")
    node.signal("agent", signal.SIGSTOP)
    node.pod("alone-2")
    config = node.config("1.0.0", prevResult=said.row)
    ends = [
        node.begin("ADD", node.sandbox(), "c-alone-2", pod="alone-2", config=node.config("0.4.0")),
        node.begin("CHECK", space, container, pod="alone", config=config),
    ]
    assert node.call("DEL", "/run/netns/never", "c-never").status == 0
    answers = [end() for end in ends]
    assert [(one.code, one.row["cniVersion"]) for one in answers] == [(11, "0.4.0"), (11, "1.0.0")]
    assert all(29 < one.took_s < 33 for one in answers)
    node.signal("agent", signal.SIGCONT)
    node.call("DEL", space, container)
    node.call("DEL", "", "c-alone-2")


def test_a_killed_agent_leaves_nothing_half_done(node: Node) -> None:
    """Killed at some moment of an ADD; the runtime deletes it, or asks again."""
    for number in range(4):
        name = f"half-{number}"
        node.pod(name)
        space = node.sandbox()
        end = node.begin("ADD", space, f"c-{name}", pod=name)
        time.sleep(0.004 * number)
        node.kill("agent")
        if number % 2:
            node.call("DEL", space, f"c-{name}")
            subprocess.run(["ip", "netns", "del", space.name], check=True)
        node.start("agent")
        said = end()
        if not number % 2:
            assert said.status == 0, said.text
            assert node.addresses(space) == {one["address"] for one in said.row["ips"]}
            node.call("DEL", space, f"c-{name}")
        wait(node.ready, 30, lambda: node.log("agent"))
        wait(lambda n=name: not any(n in one for one in node.devices().values()), 5, name)  # type: ignore[misc]
        wait(lambda n=name: n not in node.entries(), 5, name)  # type: ignore[misc]


def test_a_pod_whose_object_was_deleted_by_force_runs_until_its_sandbox_goes(node: Node) -> None:
    space, container, said = add(node, "forced", app="client")
    address = said.row["ips"][0]["address"].rpartition("/")[0]
    row = node.rows()[address]
    node.drop("forced")
    time.sleep(1)
    assert node.rows()[address] == row
    node.kill("agent")
    node.start("agent")
    wait(node.ready, 30, lambda: node.log("agent"))
    time.sleep(1)
    assert node.rows()[address] == row
    assert node.addresses(space) == {one["address"] for one in said.row["ips"]}
    node.call("DEL", space, container)
    wait(lambda: address not in node.rows(), 5, "the row goes with the sandbox")


def test_the_list_is_written_when_add_can_be_served(node: Node) -> None:
    path = node.conf_dir / "05-meshgate.conflist"
    wait(path.exists, 5, "the list")
    written = json.loads(path.read_text())
    assert written["cniVersion"] == "1.1.0"
    assert [one["type"] for one in written["plugins"]] == ["meshgate-cni"]
    before = path.stat().st_ino
    node.kill("agent")
    assert path.stat().st_ino == before
    node.start("agent")
    wait(node.ready, 30, lambda: node.log("agent"))
    portmap(node.bin_dir / "portmap", "0.4.0", "1.0.0")
    wait(lambda: "portmap" in path.read_text(), 3, "portmap is chained")
    written = json.loads(path.read_text())
    assert written["cniVersion"] == "1.0.0"
    assert written["plugins"][1] == {"type": "portmap", "capabilities": {"portMappings": True}}
    (node.bin_dir / "portmap").unlink()
    wait(lambda: "portmap" not in path.read_text(), 3, "portmap is chained no more")


def portmap(path: Path, *versions: str) -> None:
    """A plugin that says which versions it speaks, and nothing else."""
    text = json.dumps({"cniVersion": versions[-1], "supportedVersions": versions})
    fresh = path.with_name("fresh")
    fresh.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{text}'\n")
    fresh.chmod(0o755)
    fresh.replace(path)
