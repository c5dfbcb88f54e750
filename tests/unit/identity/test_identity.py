"""Label sets as text, and identities from claims."""

import pytest

from mesh.core.model import Claim, Identity, Namespace, Pod
from mesh.identity.labels import (
    identity_labels,
    identity_range,
    identity_rows,
    label_text,
    namespace_of,
    numbers_by_labels,
    parse_label_text,
)

SHOP = Namespace("berlin", "shop", (("kubernetes.io/metadata.name", "shop"), ("team", "a")))


def pod(**labels: str) -> Pod:
    return Pod("berlin", "shop", "cart-1", "n1", labels=tuple(sorted(labels.items())))


def test_the_text_has_the_pods_labels_and_its_surroundings_sorted_by_key() -> None:
    assert identity_labels(pod(app="cart"), SHOP) == (
        "k8s:app=cart;"
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;"
        "k8s:io.cilium.k8s.namespace.labels.team=a;"
        "k8s:io.cilium.k8s.policy.cluster=berlin;"
        "k8s:io.cilium.k8s.policy.serviceaccount=default;"
        "k8s:io.kubernetes.pod.namespace=shop;"
    )


def test_keys_sort_before_their_extensions() -> None:
    assert label_text([("app-x", "2"), ("app", "1")]) == "k8s:app=1;k8s:app-x=2;"


def test_a_namespace_without_an_object_is_like_one_without_labels() -> None:
    bare = Namespace("berlin", "shop", (("kubernetes.io/metadata.name", "shop"),))
    assert namespace_of(pod(), {}) == bare
    assert namespace_of(pod(), {"shop": SHOP}) == SHOP


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("app", True),
        ("app.kubernetes.io/name", True),
        ("example.com/tier", True),
        ("pod-template-hash", False),
        ("controller-revision-hash", False),
        ("statefulset.kubernetes.io/pod-name", False),
        ("apps.kubernetes.io/pod-index", False),
        ("kubernetes.io/x", False),
        ("io.kubernetes.pod.namespace", True),
    ],
)
def test_labels_that_only_number_copies_make_no_identity(key: str, *, kept: bool) -> None:
    text = identity_labels(Pod("berlin", "shop", "p", "n", labels=((key, "v"),)), SHOP)
    assert (f"k8s:{key}=" in text) is kept


def test_surroundings_come_from_the_cluster_not_from_the_pod() -> None:
    labels = (("io.cilium.k8s.policy.cluster", "paris"), ("io.kubernetes.pod.namespace", "x"))
    text = identity_labels(Pod("berlin", "shop", "p", "n", labels=labels), SHOP)
    assert text == identity_labels(pod(), SHOP)


def test_text_parses_back() -> None:
    labels = (("a", ""), ("app", "web"), ("b", "c=d"))
    assert parse_label_text(label_text(labels)) == labels
    assert parse_label_text("") == ()


def test_identities_of_another_clusters_range_are_left_out() -> None:
    claims = [
        Claim("identity", "labels", 0x30007, "k8s:a=b;", 12),
        Claim("block", "198.51.100.10", 0x30008, "east-1/0", 13),
        Claim("identity", "labels", 0x40007, "k8s:foreign=;", 14),
        Claim("identity", "labels", 7, "k8s:reserved=;", 15),
    ]
    rows = identity_rows(claims, "berlin", 3)
    assert rows == {0x30007: Identity("berlin", 0x30007, "k8s:a=b;")}
    assert numbers_by_labels(rows.values()) == {"k8s:a=b;": 0x30007}


def test_identity_ranges() -> None:
    """24 bits with the cluster id on top; cluster 0 starts behind the reserved numbers."""
    assert (identity_range(7)[0], identity_range(7)[-1]) == (458752, 524287)
    assert identity_range(0)[0] == 256
