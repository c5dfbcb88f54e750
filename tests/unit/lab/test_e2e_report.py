"""How a suite's report is read, and what is printed of it."""

from pathlib import Path
from typing import Any

import msgspec

from mesh.install import chart
from mesh.lab.kube import configs, installed, topology
from mesh.objects import schema
from mesh.objects.kinds import KINDS
from tests.e2e import report, run

SERVE = "[sig-network] Services should serve a basic endpoint from pods [Conformance]"
DNS = "[sig-network] DNS should resolve (or not) [Conformance]"
SCTP = "[sig-network] SCTP should create a Pod [Feature:SCTPConnectivity]"
JUNIT = f"""<testsuites><testsuite>
<testcase name="[BeforeSuite]" status="passed"/>
<testcase name="[It] {SERVE} [sig-network, Conformance]" status="passed"/>
<testcase name="[It] {DNS} [sig-network, Conformance]" status="timedout"/>
<testcase name="[It] {SCTP} [sig-network]" status="skipped">
  <skipped message="skipped - no SCTP here"/></testcase>
<testcase name="[It] [sig-network] Other one [sig-network]" status="skipped">
  <skipped message="skipped"/></testcase>
</testsuite></testsuites>"""


def test_only_specs_that_were_selected_have_an_outcome() -> None:
    assert report.outcomes(JUNIT) == {SERVE: "passed", DNS: "failed", SCTP: "skipped"}


def test_a_skip_without_its_line_and_a_spec_that_did_not_run_fail_the_suite() -> None:
    gone = "[sig-network] Gone"
    found = report.judged("some", [SERVE, DNS, SCTP, gone], JUNIT, [])
    assert found.lines() == [
        "some 1 passed, 2 failed, 1 skipped",
        f"    failed: {DNS}",
        f"    not run: {gone}",
        f"    unexpected skip: {SCTP}",
    ]
    assert not found.is_good


def test_an_expected_skip_is_good_in_its_own_suite_only() -> None:
    assert report.judged("some", [SERVE, SCTP], JUNIT, [f"some: {SCTP}"]).is_good
    assert not report.judged("some", [SERVE, SCTP], JUNIT, [f"other: {SCTP}"]).is_good


def test_the_focus_selects_names_to_the_letter() -> None:
    assert report.focus(["a (b) [C]", "d"]) == r"a \(b\) \[C\]$|d$"


def test_the_smoke_test_is_a_part_of_conformance() -> None:
    assert set(report.specs("smoke")) < set(report.specs("conformance"))
    assert (len(report.specs("smoke")), len(report.specs("conformance"))) == (10, 45)


def test_the_committed_lists_name_each_spec_once() -> None:
    for path in report.SPECS.glob("*.txt"):
        names = report.specs(path.stem)
        assert len(names) == len(set(names))


def test_every_suite_has_specs_and_agents_are_killed_where_the_chart_is() -> None:
    for suite in run.SUITES.values():
        assert report.specs(suite.specs or suite.name)
        (cluster,) = topology.load(suite.bed).clusters
        assert cluster.cni == "none" or not suite.kills_agents


def test_a_node_of_the_bed_names_its_own_group_to_the_chart() -> None:
    shape = topology.load(run.SUITES["smoke"].bed)
    (cluster,) = shape.clusters
    options = installed.values(shape, cluster)
    assert f"--set=host.cgroupRoot={configs.CGROUP}" in options
    assert "--set=agentNotReadyTaint=true" in options
    assert not [one for one in options if "kubernetes.host" in one]
    bare = msgspec.structs.replace(cluster, proxy="none")
    assert "--set=kubernetes.host=https://172.30.0.11:6443" in installed.values(shape, bare)


def test_clusters_that_share_an_etcd_are_whole_or_beside_and_the_chart_takes_it() -> None:
    shape = topology.load(run.BEDS / "two.yaml")
    for cluster, mode in zip(shape.clusters, ("whole", "beside"), strict=True):
        options = installed.values(shape, cluster)
        words = [word.partition("=") for word in options]
        files = [Path(value) for name, _, value in words if name == "--values"]
        made: Any = chart.values_of(files, [value for name, _, value in words if name == "--set"])
        assert made["mode"] == mode
        assert made["etcd"]["external"]["endpoints"] == ["https://172.30.0.31:2379"]
        assert chart.render(made).objects


def test_the_objects_of_a_bed_are_good() -> None:
    for suite in run.SUITES.values():
        shape = topology.load(suite.bed)
        for cluster in shape.clusters:
            for one in installed.objects(shape, cluster):
                head = schema.head(one)
                place = schema.Place(cluster.name, "", KINDS.key_of(head))
                assert KINDS.parse(head, place, one).row
