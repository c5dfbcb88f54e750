"""The folder of manifests: what is used, what is kept, what is deleted, and what is said about it.

Time does not pass in these tests: files are made old by their modification time, and a look at the
folder is one call of ``scan``.
"""

import asyncio
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.policy import POLICIES
from mesh.core.model import PodKey
from mesh.core.strict import parse_yaml
from mesh.objects import folder as manifest_files
from mesh.objects.findings import (
    BROKEN_FILE,
    DUPLICATE,
    FOLDER,
    REFUSED,
    STATE,
    UNKNOWN_KIND,
    UNSUPPORTED,
)
from mesh.objects.folder import torn_rest_s
from mesh.objects.kinds import KINDS
from mesh.objects.kubernetes import HOST_PODS, NAMESPACES, PODS
from mesh.objects.manifests import Manifests
from mesh.process import Since


def pod(name: str, node: str = "east-1") -> str:
    return f"""apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: shop
  labels:
    app: web
spec:
  nodeName: {node}
"""


POLICY = """apiVersion: meshgate.io/v1alpha1
kind: EgressPolicy
metadata: {name: erp}
spec:
  selectors: [{podSelector: {matchLabels: {app: client}}}]
  destinationCIDRs: [192.0.2.0/24]
  addresses: [198.51.100.10]
  gateways: {nodeSelector: {}}
"""


class Rig:
    """A folder, its state, and a process that is started and looks when told to."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "manifests"
        self.state = root / "state"
        self.folder.mkdir()
        self.start()

    def start(self) -> None:
        """A new process on the same folder and state."""
        self.manifests = Manifests(self.folder, "east", self.state, kinds=KINDS)

    def write(self, name: str, text: str, age_s: float = 60.0) -> None:
        """A file that was last changed ``age_s`` ago."""
        path = self.folder / name
        path.write_text(text)
        self.age(name, age_s)

    def age(self, name: str, age_s: float) -> None:
        then = time.time() - age_s
        os.utime(self.folder / name, (then, then))

    def look(self) -> None:
        """Two looks: the first one finds what is gone, the second one is sure of it."""
        self.manifests.scan()
        self.manifests.scan()

    def put(self, name: str, text: str) -> None:
        self.write(name, text)
        self.look()

    def restart(self) -> None:
        self.start()
        self.look()

    @property
    def pods(self) -> list[str]:
        return sorted(key.name for key in self.manifests.objects[PODS].rows)

    @property
    def findings(self) -> list[tuple[str, str, str]]:
        """Code, object without the folder, field."""
        rows = self.manifests.objects.findings.rows.values()
        return sorted(
            (one.code, one.object.removeprefix(f"{self.folder}/"), one.field) for one in rows
        )

    def node_of(self, name: str) -> str:
        return self.manifests.objects[PODS].rows[PodKey("east", "shop", name)].node


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_several_documents_and_files_fill_the_tables(rig: Rig) -> None:
    rig.write("a.yaml", f"{pod('p1')}---\n{POLICY}---\n")
    rig.write("b.yml", pod("p2"))
    text = '{"apiVersion": "v1", "kind": "Namespace",\n\t"metadata": {"name": "shop"}}'
    rig.put("c.json", text)
    assert rig.pods == ["p1", "p2"]
    assert list(rig.manifests.objects[POLICIES].rows) == ["erp"]
    assert list(rig.manifests.objects[NAMESPACES].rows) == ["shop"]
    assert rig.findings == []
    assert rig.manifests.objects[PODS].synced


def test_other_files_are_no_manifests(rig: Rig) -> None:
    for name in (".a.yaml", "a.yaml~", "#a.yaml#", "a.yaml.swp", "README.md", "4913"):
        rig.write(name, pod("p1"))
    rig.look()
    assert rig.pods == []
    assert rig.findings == []


def test_nothing_is_rewritten_when_nothing_changed(rig: Rig) -> None:
    rig.put("a.yaml", pod("p1"))
    revision = rig.manifests.objects[PODS].revision
    rig.age("a.yaml", 30)
    rig.look()
    assert rig.manifests.objects[PODS].revision == revision


def test_an_edited_object_is_replaced_and_one_that_is_missing_is_deleted(rig: Rig) -> None:
    rig.put("a.yaml", f"{pod('p1')}---\n{pod('p2')}")
    rig.put("a.yaml", f"{pod('p2', 'east-2')}---\n{pod('p3')}")
    assert rig.pods == ["p2", "p3"]
    assert rig.node_of("p2") == "east-2"


def test_a_removed_file_deletes_its_objects_after_the_second_look(rig: Rig) -> None:
    """An editor that renames the old file before it writes the new one deletes nothing."""
    rig.put("a.yaml", pod("p1"))
    (rig.folder / "a.yaml").unlink()
    rig.manifests.scan()
    assert rig.pods == ["p1"]
    rig.manifests.scan()
    assert rig.pods == []
    rig.restart()
    assert rig.pods == []


def test_a_file_that_went_while_nobody_looked_never_shows_up_again(rig: Rig) -> None:
    rig.write("b.yaml", pod("p2"))
    rig.put("a.yaml", pod("p1"))
    (rig.folder / "a.yaml").unlink()
    rig.start()
    rig.manifests.scan()
    assert rig.pods == ["p2"]
    assert not rig.manifests.objects[PODS].synced
    rig.manifests.scan()
    assert rig.pods == ["p2"]
    assert rig.manifests.objects[PODS].synced


def test_a_file_that_was_just_written_is_not_read_yet(rig: Rig) -> None:
    rig.write("a.yaml", pod("p1"), age_s=0)
    rig.manifests.scan()
    assert rig.pods == []
    assert not rig.manifests.objects[PODS].synced
    rig.age("a.yaml", 1)
    rig.manifests.scan()
    assert rig.pods == ["p1"]
    assert rig.manifests.objects[PODS].synced


def test_a_file_that_comes_and_goes_before_it_is_read_leaves_nothing(rig: Rig) -> None:
    rig.write("a.yaml", pod("p1"), age_s=-5)
    rig.manifests.scan()
    (rig.folder / "a.yaml").unlink()
    rig.look()
    assert rig.pods == []
    assert rig.manifests.objects[PODS].synced


def test_files_that_never_rest_do_not_delay_the_first_sync_for_ever(rig: Rig) -> None:
    rig.write("a.yaml", pod("p1"))
    for _ in range(20):
        rig.write("b.yaml", pod("p2"), age_s=-5)
        rig.manifests.scan()
    assert rig.manifests.objects[PODS].synced
    assert rig.pods == ["p1"]


BROKEN = {
    "truncated in a line": POLICY[: len(POLICY) // 2],
    "truncated in the first line": "apiVersion: meshg",
    "tabs": POLICY.replace("  selectors", "\tselectors"),
    "unbalanced": POLICY.replace("gateways: {nodeSelector: {}}", "gateways: {nodeSelector: {}"),
    "empty": "",
    "white space": "\n\n  \n",
    "only a comment": "# nothing yet\n",
    "only separators": "---\n---\n",
    "a text": "hello\n",
    "a list": "- a\n- b\n",
    "binary": "\x00\x01\x02",
    "wrong type": POLICY.replace("[192.0.2.0/24]", "192.0.2.0/24"),
    "unknown field": POLICY.replace("addresses:", "adresses:"),
    "missing field": POLICY.replace("  addresses: [198.51.100.10]\n", ""),
    "misspelled kind": POLICY.replace("EgressPolicy", "EgresPolicy"),
    "unknown version": POLICY.replace("v1alpha1", "v9"),
    "no name": POLICY.replace("{name: erp}", "{}"),
    "bad name": POLICY.replace("{name: erp}", "{name: ../erp}"),
    "duplicate key": POLICY + "kind: EgressPolicy\n",
    "deep": "[" * 5000,
    "null": "null\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_keeps_its_last_good_objects_also_over_a_restart(rig: Rig, text: str) -> None:
    rig.put("a.yaml", POLICY)
    good = rig.manifests.objects[POLICIES].rows["erp"]
    revision = rig.manifests.objects[POLICIES].revision
    rig.put("a.yaml", text)
    assert rig.manifests.objects[POLICIES].revision == revision
    assert rig.findings
    assert all(finding[1].startswith("a.yaml") for finding in rig.findings)
    said = rig.findings
    rig.restart()
    assert rig.manifests.objects[POLICIES].rows == {"erp": good}
    assert rig.manifests.objects[POLICIES].synced
    assert rig.findings == said
    rig.put("a.yaml", POLICY)
    assert rig.findings == []


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_file_that_never_was_good_has_no_objects_and_harms_no_other(rig: Rig, text: str) -> None:
    rig.write("b.yaml", pod("p1"))
    rig.put("a.yaml", text)
    assert rig.pods == ["p1"]
    assert list(rig.manifests.objects[POLICIES].rows) == []
    assert rig.manifests.objects[PODS].synced


def test_a_finding_names_file_object_and_field(rig: Rig) -> None:
    rig.put("a.yaml", POLICY.replace("podSelector", "podSelectr"))
    assert rig.findings == [
        (REFUSED, "a.yaml EgressPolicy/erp", "spec.selectors[0].podSelectr"),
    ]
    rig.put("a.yaml", "a: [1\n")
    assert rig.findings == [(BROKEN_FILE, "a.yaml", "line 2")]
    rig.put("a.yaml", f"{pod('p1')}---\nkind: Pod\n")
    assert rig.findings == [(REFUSED, "a.yaml", "document 2: apiVersion")]


def test_a_finding_keeps_the_time_since_when_it_holds(rig: Rig) -> None:
    since = Since(rig.manifests.objects.findings.rows.values)
    rig.put("a.yaml", "a: [1\n")
    [first] = since.dated()
    rig.put("b.yaml", pod("p1"))
    rig.put("a.yaml", "a: [2\n")
    assert {one.since for one in since.dated()} >= {first.since}
    assert first.since == pytest.approx(time.time(), abs=60)


def test_one_wrong_object_does_not_stop_the_others_of_its_file(rig: Rig) -> None:
    rig.put("a.yaml", f"{pod('p1')}---\n{pod('p2')}---\n{pod('p3')}")
    wrong = pod("p2").replace("nodeName: east-1", "nodeName: 5")
    rig.put("a.yaml", f"{pod('p1', 'east-2')}---\n{wrong}---\n{pod('p4')}")
    assert rig.pods == ["p1", "p2", "p4"]
    assert rig.node_of("p1") == "east-2"
    assert rig.findings == [(REFUSED, "a.yaml Pod/shop/p2", "spec.nodeName")]
    rig.put("a.yaml", "now: [broken\n")
    rig.restart()
    assert rig.pods == ["p1", "p2", "p4"]
    assert rig.node_of("p1") == "east-2"


def test_kinds_that_are_not_read_are_no_findings(rig: Rig) -> None:
    """Whatever else stands in them: what a chart renders, names that are none of ours."""
    other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: p1}\n"
    role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'a:b'}\n"
    odd = "apiVersion: v1\nkind: ConfigMap\n"
    rig.put("a.yaml", f"{pod('p1')}---\n{other}---\n{role}---\n{odd}---\n{pod('p2')}")
    assert (rig.pods, rig.findings) == (["p1", "p2"], [])


def test_an_object_goes_although_a_kind_that_is_not_read_has_its_name(rig: Rig) -> None:
    """A valid change replaces the past: no misspelt Pod can be meant by a Deployment."""
    other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: p1}\n"
    rig.put("a.yaml", f"{pod('p1')}---\n{other}")
    rig.put("a.yaml", other)
    assert (rig.pods, rig.findings) == ([], [])


def test_a_pod_that_lost_its_node_is_gone_until_it_has_one_again(rig: Rig) -> None:
    """A pod that was made anew and waits for room is none yet, and no finding."""
    rig.put("a.yaml", pod("p1", "east-2"))
    pending = pod("p1").replace("  nodeName: east-1\n", "  containers: []\n")
    rig.put("a.yaml", pending)
    assert (rig.pods, rig.findings) == ([], [])
    rig.restart()
    assert (rig.pods, rig.findings) == ([], [])
    rig.put("a.yaml", pod("p1", "east-1"))
    assert rig.node_of("p1") == "east-1"


def test_a_pod_that_moves_into_its_nodes_network_is_in_one_table(rig: Rig) -> None:
    def tables() -> list[list[str]]:
        objects = rig.manifests.objects
        return [sorted(key.name for key in objects[noun].rows) for noun in (PODS, HOST_PODS)]

    rig.put("a.yaml", pod("p1"))
    assert tables() == [["p1"], []]
    rig.put("a.yaml", pod("p1") + "  hostNetwork: true\n")
    assert tables() == [[], ["p1"]]
    rig.put("b.yaml", pod("p1"))
    assert (tables(), rig.findings[0][:2]) == ([[], ["p1"]], (DUPLICATE, "b.yaml Pod/shop/p1"))
    rig.put("a.yaml", pod("p2"))
    assert (tables(), rig.findings) == ([["p1", "p2"], []], [])


def test_a_kind_that_is_misspelt_is_a_finding_and_harmless(rig: Rig) -> None:
    other = "apiVersion: v1\nkind: Podd\nmetadata: {name: x}\n"
    rig.put("a.yaml", f"{pod('p1')}---\n{other}---\n{pod('p2')}")
    rig.put("a.yaml", f"{pod('p1')}---\n{other}")
    assert rig.pods == ["p1"]
    assert rig.findings == [(UNKNOWN_KIND, "a.yaml Podd/x", "kind")]


def test_the_same_object_in_two_files_first_by_name_wins(rig: Rig) -> None:
    rig.write("b.yaml", pod("p1", "east-2"))
    rig.put("a.yaml", pod("p1", "east-1"))
    assert rig.node_of("p1") == "east-1"
    [finding] = rig.manifests.objects.findings.rows.values()
    assert (finding.code, finding.object) == (DUPLICATE, f"{rig.folder}/b.yaml Pod/shop/p1")
    assert f"{rig.folder}/a.yaml" in finding.text
    (rig.folder / "a.yaml").unlink()
    rig.look()
    assert rig.node_of("p1") == "east-2"
    assert rig.findings == []


def test_the_same_object_twice_in_a_file_the_first_counts(rig: Rig) -> None:
    rig.put("a.yaml", f"{pod('p1', 'east-1')}---\n{pod('p1', 'east-2')}")
    assert rig.node_of("p1") == "east-1"
    assert [finding[0] for finding in rig.findings] == [DUPLICATE]


def test_both_kinds_of_egress_policy_share_one_space_of_names(rig: Rig) -> None:
    cilium = """apiVersion: cilium.io/v2
kind: CiliumEgressGatewayPolicy
metadata: {name: erp}
spec:
  selectors: [{podSelector: {}}]
  destinationCIDRs: [192.0.2.0/24]
  egressGateway: {nodeSelector: {}, egressIP: 198.51.100.99}
"""
    rig.put("a.yaml", f"{POLICY}---\n{cilium}")
    assert str(rig.manifests.objects[POLICIES].rows["erp"].addresses[0]) == "198.51.100.10"
    assert [finding[:2] for finding in rig.findings] == [
        (DUPLICATE, "a.yaml CiliumEgressGatewayPolicy/erp")
    ]


def test_a_renamed_file_moves_its_objects_without_a_gap(rig: Rig) -> None:
    rig.put("a.yaml", pod("p1"))
    (rig.folder / "a.yaml").rename(rig.folder / "b.yaml")
    rig.manifests.scan()
    assert rig.pods == ["p1"]
    assert rig.findings == []
    rig.manifests.scan()
    assert rig.pods == ["p1"]


def test_an_object_that_moves_stays_while_its_new_file_rests(rig: Rig) -> None:
    """A text without a newline at its end rests for a second: it may be torn."""
    rig.put("a.yaml", pod("p1"))
    rig.write("b.yaml", pod("p1").rstrip(), 0.5)
    (rig.folder / "a.yaml").unlink()
    rig.look()
    assert rig.pods == ["p1"]
    rig.age("b.yaml", 60)
    rig.look()
    assert rig.pods == ["p1"]
    assert not rig.manifests.deferred
    (rig.folder / "b.yaml").unlink()
    rig.look()
    assert rig.pods == []


def test_an_object_that_moves_between_files_stays_while_the_other_rests(rig: Rig) -> None:
    rig.put("a.yaml", f"{pod('p1')}---\n{pod('p2')}")
    rig.put("b.yaml", pod("p3"))
    rig.write("a.yaml", pod("p1"))
    rig.write("b.yaml", f"{pod('p3')}---\n{pod('p2', 'east-2')}", 0.0)
    rig.look()
    assert rig.pods == ["p1", "p2", "p3"]
    assert rig.node_of("p2") == "east-1"
    rig.age("b.yaml", 60)
    rig.look()
    assert rig.pods == ["p1", "p2", "p3"]
    assert rig.node_of("p2") == "east-2"


def test_a_file_that_cannot_be_read_does_not_hold_up_deletes_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.put("a.yaml", pod("p1"))
    (rig.folder / "b.yaml").symlink_to("nowhere")
    rig.look()
    (rig.folder / "a.yaml").unlink()
    rig.look()
    assert rig.pods == ["p1"]
    monkeypatch.setattr(manifest_files, "UNREAD_S", 0.0)
    rig.look()
    assert rig.pods == []


def test_a_folder_that_is_gone_deletes_nothing(rig: Rig) -> None:
    rig.put("a.yaml", pod("p1"))
    hidden = rig.folder.with_name("hidden")
    rig.folder.rename(hidden)
    rig.look()
    assert rig.pods == ["p1"]
    assert [(finding.code, finding.object) for finding in finding_rows(rig)] == [
        (FOLDER, str(rig.folder))
    ]
    rig.restart()
    assert rig.pods == ["p1"]
    assert not rig.manifests.objects[PODS].synced
    hidden.rename(rig.folder)
    rig.look()
    assert rig.pods == ["p1"]
    assert rig.findings == []
    assert rig.manifests.objects[PODS].synced


def finding_rows(rig: Rig) -> Iterator:
    return iter(rig.manifests.objects.findings.rows.values())


def test_a_folder_that_was_replaced_by_an_empty_one_deletes_nothing(rig: Rig) -> None:
    rig.put("a.yaml", pod("p1"))
    rig.folder.rename(rig.folder.with_name("old"))
    rig.folder.mkdir()
    rig.look()
    rig.look()
    assert rig.pods == ["p1"]
    assert [finding.code for finding in finding_rows(rig)] == [FOLDER]
    rig.put("b.yaml", pod("p2"))
    assert rig.pods == ["p2"]
    assert rig.findings == []


def test_a_folder_that_is_not_there_at_first_is_no_sync(rig: Rig) -> None:
    rig.folder.rmdir()
    rig.look()
    assert not rig.manifests.objects[PODS].synced
    assert [finding.code for finding in finding_rows(rig)] == [FOLDER]
    rig.folder.mkdir()
    rig.look()
    assert rig.manifests.objects[PODS].synced
    assert rig.findings == []


@pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link"])
def test_a_name_that_is_no_readable_file_keeps_its_objects(rig: Rig, kind: str) -> None:
    rig.put("a.yaml", pod("p1"))
    path = rig.folder / "a.yaml"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
        assert stat.S_ISFIFO(path.stat().st_mode)
    else:
        path.symlink_to(rig.folder / "nothing")
    if kind != "dangling link":
        rig.age("a.yaml", 10)
    rig.look()
    assert rig.pods == ["p1"]
    assert [finding[:2] for finding in rig.findings] == [(BROKEN_FILE, "a.yaml")]


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-be-with-mark"])
@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_byte_order_mark_says_how_a_file_is_to_be_read(rig: Rig, coding: str, name: str) -> None:
    text = pod("p1") if name == "a.yaml" else json.dumps(parse_yaml(pod("p1"))[0])
    mark = "\ufeff" if coding.endswith("-with-mark") else ""
    raw = f"{mark}{text}".encode(coding.removesuffix("-with-mark"))
    (rig.folder / name).write_bytes(raw)
    rig.age(name, 60)
    rig.look()
    assert (rig.pods, rig.findings) == (["p1"], [])


def test_files_that_were_appended_to_each_other_have_marks_inside(rig: Rig) -> None:
    rig.put("a.yaml", f"\ufeff{pod('p1')}\ufeff---\n{pod('p2')}")
    assert (rig.pods, rig.findings) == (["p1", "p2"], [])


def test_subfolders_belong_to_the_folder(rig: Rig) -> None:
    """Their files come, change, move and go as others do, also over a restart."""
    for name in ("apps/shop", ".git", "empty"):
        (rig.folder / name).mkdir(parents=True)
    rig.write(".git/x.yaml", pod("p9"))
    rig.write("apps/shop/a.yaml", pod("p1"))
    rig.put("b.yaml", pod("p2"))
    assert (rig.pods, rig.findings) == (["p1", "p2"], [])
    rig.put("apps/shop/a.yaml", pod("p1", "east-2"))
    rig.put("apps/c.yaml", pod("p3"))
    assert (rig.pods, rig.node_of("p1")) == (["p1", "p2", "p3"], "east-2")
    rig.put("apps/shop/a.yaml", "a: [\n")
    rig.restart()
    assert (rig.pods, [one[:2] for one in rig.findings]) == (
        ["p1", "p2", "p3"],
        [(BROKEN_FILE, "apps/shop/a.yaml")],
    )
    (rig.folder / "apps/shop/a.yaml").rename(rig.folder / "apps/shop/d.yaml")
    rig.put("apps/shop/d.yaml", pod("p4"))
    assert (rig.pods, rig.findings) == (["p2", "p3", "p4"], [])
    shutil.rmtree(rig.folder / "apps")
    rig.look()
    assert (rig.pods, rig.findings) == (["p2"], [])


def test_a_subfolder_that_cannot_be_read_holds_nobody_else_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objects stay as they were; those of the others come and go."""
    (rig.folder / "sub").mkdir()
    rig.write("sub/a.yaml", pod("p1"))
    rig.put("b.yaml", pod("p2"))
    scandir = os.scandir

    def denied(path: str) -> object:
        if path.endswith("/sub/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(manifest_files.os, "scandir", denied)
        rig.write("c.yaml", pod("p3"))
        (rig.folder / "b.yaml").unlink()
        rig.look()
        assert rig.pods == ["p1", "p3"]
        assert [one[0] for one in rig.findings] == [FOLDER]
    (rig.folder / "sub/a.yaml").unlink()
    rig.look()
    assert (rig.pods, rig.findings) == (["p3"], [])


def test_a_list_in_a_list_that_is_none_costs_itself_only(rig: Rig) -> None:
    pods = {"apiVersion": "v1", "kind": "PodList", "items": parse_yaml(pod("p1"))}
    wrong = {"apiVersion": "v1", "kind": "List", "items": "x"}
    whole = {"apiVersion": "v1", "kind": "List", "items": [pods, wrong, *parse_yaml(pod("p2"))]}
    rig.put("a.json", json.dumps(whole))
    assert rig.pods == ["p1", "p2"]
    assert rig.findings == [(REFUSED, "a.json", "document 2: items")]


def test_links_to_folders_are_not_followed(rig: Rig) -> None:
    """They may lead in a circle."""
    (rig.folder / "loop").symlink_to(rig.folder)
    rig.put("a.yaml", pod("p1"))
    assert (rig.pods, rig.findings) == (["p1"], [])


def test_a_field_that_is_not_used_is_one_finding_for_all_objects(rig: Rig) -> None:
    """With their number and the first three names, whichever files they are in."""

    def service(name: str, more: str = "") -> str:
        spec = f"{{clusterIP: 10.97.1.1, ports: [{{port: 80}}]{more}}}"
        return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"

    def texts() -> dict[str, str]:
        rows = rig.manifests.objects.findings.rows.values()
        assert {(o.code, o.object) for o in rows} <= {(UNSUPPORTED, f"{rig.folder} Service")}
        return {one.field: one.text.partition(":")[0] for one in rows}

    sticky = ", sessionAffinity: ClientIP"
    rig.write("b.yaml", "".join(service(f"s{number}", sticky) for number in (5, 3, 4)))
    rig.put("a.yaml", service("s6", f"{sticky}, internalTrafficPolicy: Local") + service("s1"))
    assert texts() == {
        "spec.sessionAffinity": "4 objects (default/s3, default/s4, default/s5, …)",
        "spec.internalTrafficPolicy": "1 object (default/s6)",
    }
    rig.put("a.yaml", service("s6") + service("s1", sticky))
    assert texts() == {"spec.sessionAffinity": "4 objects (default/s1, default/s3, default/s4, …)"}
    rig.put("b.yaml", service("s5"))
    assert texts() == {"spec.sessionAffinity": "1 object (default/s1)"}
    rig.put("a.yaml", service("s1"))
    assert texts() == {}


def test_a_field_of_an_object_that_does_not_count_is_not_counted(rig: Rig) -> None:
    """The second one of two, and a pod that has ended."""
    port = "  containers: [{ports: [{containerPort: 80, hostPort: 80}]}]\n"
    rig.write("a.yaml", pod("p1"))
    rig.put("b.yaml", pod("p1") + port)
    assert [one[0] for one in rig.findings] == [DUPLICATE]
    rig.put("a.yaml", pod("p2"))
    field = "spec.containers[].ports[].hostPort"
    assert [one[::2] for one in rig.findings] == [(UNSUPPORTED, field)]
    rig.put("b.yaml", pod("p1") + port + "status: {phase: Failed}\n")
    assert rig.findings == []


def test_not_utf8_keeps_the_objects(rig: Rig) -> None:
    rig.put("a.yaml", pod("p1"))
    (rig.folder / "a.yaml").write_bytes(b"kind: \xff\n")
    rig.age("a.yaml", 10)
    rig.look()
    assert rig.pods == ["p1"]
    assert [finding[:2] for finding in rig.findings] == [(BROKEN_FILE, "a.yaml")]


def test_links_are_followed(rig: Rig) -> None:
    """A mounted ConfigMap is a link to a link in a hidden folder."""
    hidden = rig.folder / "..data"
    hidden.mkdir()
    (hidden / "a.yaml").write_text(pod("p1"))
    os.utime(hidden / "a.yaml", (1, 1))
    (rig.folder / "a.yaml").symlink_to("..data/a.yaml")
    rig.look()
    assert rig.pods == ["p1"]


# Half-written texts that are valid YAML by chance


TWO = f"{pod('p1')}---\n{pod('p2')}"


@pytest.mark.parametrize(
    ("text", "last", "rest_s"),
    [
        (TWO, "", 0.0),
        (TWO, TWO, 0.0),
        ("", TWO, 0.0),
        (TWO.rstrip("\n"), TWO, 0.0),
        (TWO.replace("p1", "p9").rstrip("\n"), TWO, 10.0),
        (TWO.replace("p1", "p9").rstrip("\n"), TWO.rstrip("\n"), 1.0),
        (TWO.rstrip("\n"), "", 1.0),
        ('{"kind": "Pod"}', TWO, 1.0),
        (TWO.replace("p1", "p9"), TWO, 0.0),
        (pod("p1"), TWO, 1.0),
        (pod("p1") + "---\n", TWO, 10.0),
        (TWO[: TWO.rindex("spec:")], TWO, 10.0),
        (TWO[:-4], TWO, float("inf")),
        (TWO[:40], TWO, float("inf")),
        ("a: 1", "a: 1\nb: 2", 10.0),
        ("a: 1", "a: 1\nb: 2\n", float("inf")),
    ],
)
def test_how_long_a_text_must_rest(text: str, last: str, rest_s: float) -> None:
    assert torn_rest_s(text, last) == rest_s


def test_a_text_that_was_cut_inside_a_line_is_never_believed(rig: Rig) -> None:
    """``nodeName: east-1`` cut to ``nodeName: east`` is valid YAML."""
    rig.put("a.yaml", pod("p1"))
    rig.put("a.yaml", pod("p1")[:-3])
    assert rig.node_of("p1") == "east-1"
    assert [finding[:2] for finding in rig.findings] == [(BROKEN_FILE, "a.yaml")]
    rig.restart()
    assert rig.node_of("p1") == "east-1"


def test_a_text_that_was_cut_between_documents_is_believed_after_a_second(rig: Rig) -> None:
    rig.put("a.yaml", TWO)
    rig.write("a.yaml", pod("p1"), age_s=0.5)
    rig.look()
    assert rig.pods == ["p1", "p2"]
    rig.age("a.yaml", 1.5)
    rig.look()
    assert rig.pods == ["p1"]


def test_a_text_that_was_cut_between_lines_is_believed_after_ten_seconds(rig: Rig) -> None:
    """``labels:`` without its lines is valid, and selects other pods."""
    rig.put("a.yaml", pod("p1"))
    shorter = pod("p1").replace("spec:\n  nodeName: east-1\n", "")
    rig.write("b.yaml", pod("p2") + "---\n" + pod("p3") + "  serviceAccountName: web\n")
    rig.look()
    rig.write("b.yaml", pod("p2") + "---\n" + pod("p3"), age_s=5)
    rig.write("a.yaml", shorter, age_s=5)
    rig.look()
    key = PodKey("east", "shop", "p3")
    assert rig.manifests.objects[PODS].rows[key].service_account == "web"
    assert [finding[:2] for finding in rig.findings] == [
        (BROKEN_FILE, "a.yaml"),
        (BROKEN_FILE, "b.yaml"),
    ]
    rig.age("b.yaml", 11)
    rig.age("a.yaml", 11)
    rig.look()
    assert rig.manifests.objects[PODS].rows[key].service_account == "default"
    assert [finding[:2] for finding in rig.findings] == [(REFUSED, "a.yaml Pod/shop/p1")]
    assert rig.pods == ["p1", "p2", "p3"]


# State


def test_a_state_that_cannot_be_written_is_a_finding(rig: Rig) -> None:
    rig.state.write_text("a file where the folder should be")
    rig.start()
    rig.put("a.yaml", pod("p1"))
    assert rig.pods == ["p1"]
    assert [finding[0] for finding in rig.findings] == [STATE]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"text": 5}', '{"text": "", "documents": [5]}']
)
def test_a_damaged_state_is_not_used(rig: Rig, content: str) -> None:
    rig.put("a.yaml", pod("p1"))
    [kept] = (rig.state / "manifests").iterdir()
    kept.write_text(content)
    rig.restart()
    assert rig.pods == ["p1"]
    rig.put("a.yaml", pod("p1", "east-2"))
    assert rig.node_of("p1") == "east-2"
    rig.restart()
    assert rig.findings == []


def test_a_broken_file_is_kept_with_its_documents(rig: Rig) -> None:
    """The former version reads this form: going back to it loses no policy whose file is broken."""
    rig.put("a.yaml", POLICY)
    kept = rig.state / "manifests" / "a.yaml.last"
    assert kept.read_text().endswith(f"\n{POLICY}")
    rig.put("a.yaml", "a: [\n")
    content = json.loads(kept.read_text())
    assert content["text"] == POLICY
    assert [document["kind"] for document in content["documents"]] == ["EgressPolicy"]
    rig.put("a.yaml", POLICY)
    assert kept.read_text().endswith(f"\n{POLICY}")


def test_a_first_look_at_many_files_survives_a_restart(rig: Rig) -> None:
    """Their copies are written with one sync for many."""
    for number in range(50):
        rig.write(f"{number:02}.yaml", pod(f"p{number:02}"))
    rig.look()
    assert len(list((rig.state / "manifests").iterdir())) == 50
    for number in range(50):
        rig.write(f"{number:02}.yaml", "a: [\n")
    rig.restart()
    assert rig.pods == [f"p{number:02}" for number in range(50)]
    assert {finding[0] for finding in rig.findings} == {BROKEN_FILE}


def test_many_rows_are_written_in_slices(tmp_path: Path) -> None:
    """Others run in between, and nothing counts as complete before the last slice."""
    rig = Rig(tmp_path)
    rig.write("a.yaml", "---\n".join(pod(f"p{number}") for number in range(1200)))
    table = rig.manifests.objects[PODS]
    counts: list[tuple[int, bool]] = []
    table.listen(lambda: counts.append((len(table.rows), table.synced)))
    rig.manifests.scan()
    assert counts == [(500, False), (1000, False), (1200, False), (1200, True)]


def test_without_a_state_folder_nothing_is_written(rig: Rig, tmp_path: Path) -> None:
    rig.manifests = Manifests(rig.folder, "east", kinds=KINDS)
    rig.put("a.yaml", pod("p1"))
    rig.put("a.yaml", "a: [\n")
    assert rig.pods == ["p1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifests"]


def test_run_watches_the_folder(rig: Rig) -> None:
    async def watch() -> None:
        rig.manifests.interval_s = 0.005
        task = asyncio.create_task(rig.manifests.run())
        async with asyncio.timeout(5):
            for count in (1, 2):
                rig.write(f"{count}.yaml", pod(f"p{count}"))
                while len(rig.pods) < count:
                    await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(watch())
    assert rig.pods == ["p1", "p2"]


def test_a_changed_file_is_read_when_it_has_rested_and_not_a_look_later(rig: Rig) -> None:
    """The first look finds it, and the next one comes with the end of its rest."""

    async def watch() -> None:
        manifests = Manifests(rig.folder, "east", rig.state, 30.0, kinds=KINDS)
        rig.write("pod.yaml", pod("a"), age_s=0)
        task = asyncio.create_task(manifests.run())
        try:
            async with asyncio.timeout(10):
                while not manifests.objects[PODS].rows:
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()

    asyncio.run(watch())
