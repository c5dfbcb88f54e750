"""Which labels and pods a selector selects."""

import pytest

from mesh.core.model import Namespace, Pod, PodSelector, Requirement, Selector
from mesh.identity.selectors import matches, matches_pod

LABELS = {"app": "web", "tier": "front"}
POD = Pod("east", "shop", "web-1", "east-1", labels=(("app", "web"),), service_account="web")
SHOP = Namespace("east", "shop", (("kubernetes.io/metadata.name", "shop"), ("team", "billing")))


def selector(*requirements: tuple[str, str, tuple[str, ...]]) -> Selector:
    return Selector(tuple(Requirement(*one) for one in requirements))


@pytest.mark.parametrize(
    ("requirement", "selected"),
    [
        (("app", "In", ("web",)), True),
        (("app", "In", ("web", "db")), True),
        (("app", "In", ("db",)), False),
        (("other", "In", ("web",)), False),
        (("app", "NotIn", ("db",)), True),
        (("app", "NotIn", ("web",)), False),
        (("other", "NotIn", ("web",)), True),
        (("app", "Exists", ()), True),
        (("other", "Exists", ()), False),
        (("other", "DoesNotExist", ()), True),
        (("app", "DoesNotExist", ()), False),
    ],
)
def test_operators(requirement: tuple[str, str, tuple[str, ...]], *, selected: bool) -> None:
    assert matches(selector(requirement), LABELS) is selected


def test_all_requirements_must_hold_and_none_selects_everything() -> None:
    both = selector(("app", "In", ("web",)), ("tier", "In", ("back",)))
    assert not matches(both, LABELS)
    assert matches(Selector(), LABELS)
    assert matches(Selector(), {})


@pytest.mark.parametrize(
    ("chosen", "selected"),
    [
        (PodSelector(None, selector(("app", "In", ("web",)))), True),
        (PodSelector(None, Selector()), True),
        (PodSelector(Selector(), None), True),
        (PodSelector(selector(("team", "In", ("billing",))), None), True),
        (PodSelector(selector(("team", "In", ("ops",))), None), False),
        (
            PodSelector(selector(("team", "In", ("billing",))), selector(("app", "In", ("db",)))),
            False,
        ),
        (PodSelector(None, selector(("io.kubernetes.pod.namespace", "In", ("shop",)))), True),
        (PodSelector(None, selector(("io.kubernetes.pod.namespace", "In", ("bank",)))), False),
        (
            PodSelector(
                None, selector(("io.cilium.k8s.namespace.labels.team", "In", ("billing",)))
            ),
            True,
        ),
        (PodSelector(None, selector(("io.cilium.k8s.policy.cluster", "In", ("west",)))), False),
        (PodSelector(None, Selector(), selector(("disk", "In", ("ssd",)))), True),
        (PodSelector(None, Selector(), selector(("disk", "In", ("hdd",)))), False),
    ],
)
def test_the_parts_of_a_pod_selector_are_anded(chosen: PodSelector, *, selected: bool) -> None:
    assert matches_pod(chosen, POD, SHOP, {"disk": "ssd"}) is selected


def test_a_pods_own_labels_cannot_pretend_another_namespace() -> None:
    liar = Pod("east", "shop", "x", "n", labels=(("io.kubernetes.pod.namespace", "bank"),))
    bank = PodSelector(None, selector(("io.kubernetes.pod.namespace", "In", ("bank",))))
    assert not matches_pod(bank, liar, SHOP, {})
