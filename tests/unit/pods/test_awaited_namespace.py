"""Behind an API server a pod sends nothing before the labels of its namespace are known.

A policy or a VRF may select it by them, and the watches of Pods and Namespaces know no order.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from mesh.core.model import Namespace, PodKey, PodSelector, Requirement, Selector
from mesh.objects.kubernetes import NAMESPACES, PODS
from mesh.pods.rows import PodIdentity
from tests.fixtures.rooms import ENDPOINT, IDENTITY, Rooms, policy

KEY = PodKey("east", "shop", "web-1")
HOME = (("kubernetes.io/metadata.name", "shop"), ("tier", "prod"))
ADDRESS = ip_address("10.1.0.7")


def rooms(tmp_path: Path, *, awaits: bool) -> Rooms:
    """A policy selects all pods of namespaces of tier prod; a pod is there, its namespace not."""
    made = Rooms(tmp_path, awaits_namespaces=awaits)
    made.egress.derive(made.loop)
    made.pods.derive(made.loop)
    made.put_node("east-1", str(ENDPOINT), "gateway")
    prod = Selector((Requirement("tier", "In", ("prod",)),))
    one = policy("p1", ["web"], 1, "gateway")
    object.__setattr__(one, "selectors", (PodSelector(prod, Selector(())),))
    made.put_policy(one)
    made.put_pod("web-1", "web", 7)
    made.loop.derive_all()
    return made


def text_of(made: Rooms) -> str | None:
    return made.pods._labels.rows.get(KEY)  # noqa: SLF001


def test_a_pod_of_an_unknown_namespace_has_no_row(tmp_path: Path) -> None:
    made = rooms(tmp_path, awaits=True)
    assert text_of(made) is None
    made.objects[NAMESPACES].upsert({"shop": Namespace("east", "shop", HOME)})
    made.loop.derive_all()
    assert "tier=prod" in (text_of(made) or "")
    assert made.egress.mark.numbers.rows[KEY], "the class comes with the labels"


def test_a_pod_does_not_outlive_its_namespace_uncovered(tmp_path: Path) -> None:
    """Deleted by force, it may run on for a while."""
    made = rooms(tmp_path, awaits=True)
    home = Namespace("east", "shop", HOME)
    pod, device = made.objects[PODS].rows[KEY], made.pods.devices.rows[KEY]
    identity_of = made.pods._identity_of  # noqa: SLF001
    assert identity_of(KEY, pod, IDENTITY, device, home) == {KEY: PodIdentity(7, IDENTITY)}
    assert identity_of(KEY, pod, IDENTITY, device, None) == {}


def test_a_folder_need_not_have_an_object_of_each_namespace(tmp_path: Path) -> None:
    made = rooms(tmp_path, awaits=False)
    assert text_of(made) is not None
    assert made.pods.claimed.rows == {KEY: IDENTITY}


@pytest.mark.parametrize("awaits", [False, True])
def test_a_known_namespace_is_waited_for_by_nobody(tmp_path: Path, *, awaits: bool) -> None:
    made = rooms(tmp_path, awaits=awaits)
    made.objects[NAMESPACES].upsert({"shop": Namespace("east", "shop", HOME)})
    made.loop.derive_all()
    assert "tier=prod" in (text_of(made) or "")
