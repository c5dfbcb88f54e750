"""Off a node: what is removed of its host, and the first process of a pod."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh.install import leaving, pod
from mesh.install.leaving import Places, Report, Request
from mesh.pods import links

ROOT = Path(__file__).parents[3]
FIRST = """
import sys
from mesh.install.pod import Process
sys.exit(Process(sys.argv[1:]).to_its_end())
"""


def test_the_name_of_pods_devices_is_that_of_their_room() -> None:
    assert leaving.DEVICE_PREFIX == links.DEVICE_PREFIX


def test_a_request_is_read_as_it_was_written() -> None:
    request = Request("17", leaving.LEAVE, evict=True)
    assert leaving.request_of(request.document("meshgate-system")) == request
    assert leaving.request_of(None) is None
    assert leaving.request_of({"data": {"id": "1"}}) is None


def test_reports_are_read_and_odd_ones_left_out() -> None:
    good = json.dumps({"id": "17", "state": "left", "text": "x"})
    found = leaving.reports_of({"data": {"n1": good, "n2": "no json", "n3": "{}"}})
    assert found == {"n1": Report("17", "left", "x")}


def test_folders_are_emptied_of_what_is_ours(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    state = "var/lib/meshgate"
    ours = [f"{state}/agent/host.json", f"{state}/etcd/data/x", "run/meshgate/cni.sock"]
    theirs = ["var/lib/meshgate/notes.txt", "run/meshgate/other.sock", "var/lib/kubelet/x"]
    for name in [*ours, *theirs]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "var/lib/meshgate/speaker").symlink_to(tmp_path / "var/lib/kubelet")
    lines = list(leaving.wipe(places))
    assert len(lines) == 4
    assert [name for name in [*ours, *theirs] if (tmp_path / name).exists()] == theirs
    assert list(leaving.wipe(places)) == []


def test_a_folder_that_root_may_not_empty_goes_by_the_container_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real script; the refusal is what root without CAP_DAC_OVERRIDE gets."""
    pipe, folder = tmp_path / "pipe", tmp_path / "var/lib/meshgate/controller"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.setenv("MESHGATE_SWEEP", str(pipe))

    def refused(path: Path) -> None:
        raise PermissionError(13, "permission denied", str(path))

    monkeypatch.setattr(leaving.shutil, "rmtree", refused)
    with pytest.raises(PermissionError):
        list(leaving.wipe(Places.below(tmp_path)))
    with subprocess.Popen([ROOT / "deploy/image/meshgate-sweep", str(pipe)]) as sweep:
        try:
            while not pipe.exists():
                assert sweep.poll() is None
                time.sleep(0.01)
            assert list(leaving.wipe(Places.below(tmp_path))) == [f"{folder} removed"]
            sweep.send_signal(signal.SIGTERM)
            assert sweep.wait(5) == 0
        finally:  # the end of ``with`` waits for ever
            sweep.terminate()
    assert not folder.exists()


def first(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FIRST, *words]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)


def test_the_first_process_has_the_status_of_its_child() -> None:
    assert first("sh", "-c", "exit 7").wait(60) == 7
    assert first("sh", "-c", "kill -KILL $$").wait(60) == 128 + 9


CHILD = """
import signal, sys, time
def end(*_):
    print("ended", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""


def test_a_signal_reaches_the_child_and_the_pod_ends() -> None:
    running = first(sys.executable, "-c", CHILD)
    assert running.stdout
    assert running.stdout.readline() == "up\n"
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, out) == (3, "ended\n")


def test_a_node_is_free_for_pods_when_the_runtime_finds_our_list(tmp_path: Path) -> None:
    places = Places.below(tmp_path)
    assert not pod.serves(places)
    for name in leaving.LISTS:
        places.conf.mkdir(parents=True, exist_ok=True)
        (places.conf / name).touch()
        assert pod.serves(places)
        (places.conf / name).unlink()


def test_the_places_are_those_of_the_agents_file() -> None:
    text = {"socket": "/a/agent.sock", "bpffs": "/b/meshgate", "stateDir": "/c/agent"}
    found = Places.of({**text, "cni": {"confDir": "/d", "binDir": "/e"}})
    assert found == Places(*map(Path, ("/a/agent.sock", "/b/meshgate", "/c", "/d", "/e")))
    with pytest.raises(ValueError, match="bpffs: required"):
        Places.of({"socket": "/a/agent.sock"})


def test_the_list_stays_while_the_runtime_has_no_other_to_end_pods_by(tmp_path: Path) -> None:
    places = leaving.Places.below(tmp_path)
    leaving.give_way(places)  # a host without the folder
    places.conf.mkdir(parents=True)
    ours = places.conf / "05-meshgate.conflist"
    ours.touch()
    (places.conf / "README").touch()
    leaving.give_way(places)
    assert ours.exists()
    (places.conf / "10-other.conflist").touch()
    leaving.give_way(places)
    assert [path.name for path in sorted(places.conf.iterdir())] == ["10-other.conflist", "README"]
