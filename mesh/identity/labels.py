"""Identities: the label set of a pod as text, and the number that the text has been given.

The text is Cilium's: ``k8s:<key>=<value>;`` for each label, sorted by key
(``reference/clustermesh-wire.md`` 3.7). Pods with the same text share one identity. Labels that
only number the copies of a pod (``pod-template-hash`` and the like) stay out, as they do there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.core.model import Claim, Identity, Labels, Namespace, Pod

NAMESPACE_KEY = "io.kubernetes.pod.namespace"
NAMESPACE_LABEL_PREFIX = "io.cilium.k8s.namespace.labels."
CLUSTER_KEY = "io.cilium.k8s.policy.cluster"
ACCOUNT_KEY = "io.cilium.k8s.policy.serviceaccount"
#: The noun and pool of identity claims.
NOUN, POOL = "identity", "labels"
#: Of an identity's 24 bits the cluster's id has the upper 8: ``IDENTITY_CLUSTER_SHIFT``. The number
#: stands here, because a controller claims identities without a datapath.
CLUSTER_SHIFT = 16
#: Bytes of a label text that can be an identity. Other clusters read no longer one, and etcd takes
#: no request of more than 1.5 MiB, in which the text stands four times.
LONGEST_TEXT = 64 << 10
#: Identities below are reserved and mean the same in every cluster: ``IDENTITY_RESERVED_END``.
FIRST_IDENTITY = 256
#: Added to every namespace by the API server.
_NAMESPACE_NAME_KEY = "kubernetes.io/metadata.name"

_SOURCE = "k8s:"
#: Of labels that BGP communities have become: they name networks that a router has announced.
_LEARNED = "bgp:"
#: The longest prefix that fits decides.
_KEPT = ("app.kubernetes.io",)
_LEFT_OUT = (
    "io.kubernetes",
    "kubernetes.io",
    "k8s.io",
    "beta.kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
)


def namespace_of(pod: Pod, namespaces: Mapping[str, Namespace]) -> Namespace:
    """The pod's namespace; one without an object has only the label that all have."""
    labels = ((_NAMESPACE_NAME_KEY, pod.namespace),)
    return namespaces.get(pod.namespace) or Namespace(pod.cluster, pod.namespace, labels)


def pod_labels(pod: Pod, namespace: Namespace) -> dict[str, str]:
    """All labels of a pod and its surroundings, what selectors look at."""
    return {**dict(pod.labels), **_surroundings(pod, namespace)}


def identity_labels(pod: Pod, namespace: Namespace) -> str:
    """The text that says which identity a pod has."""
    own = {key: value for key, value in pod.labels if _is_identity(key)}
    return label_text({**own, **_surroundings(pod, namespace)}.items())


def _surroundings(pod: Pod, namespace: Namespace) -> dict[str, str]:
    """Labels that a pod cannot choose; they win over its own of the same name."""
    labels = {NAMESPACE_LABEL_PREFIX + key: value for key, value in namespace.labels}
    return labels | {
        NAMESPACE_KEY: pod.namespace,
        CLUSTER_KEY: pod.cluster,
        ACCOUNT_KEY: pod.service_account,
    }


def label_text(labels: Iterable[tuple[str, str]]) -> str:
    """Labels in the wire's form: sorted by key, each with its semicolon."""
    return "".join(f"{_SOURCE}{key}={value};" for key, value in sorted(labels))


def parse_label_text(text: str) -> Labels:
    """The labels of a text; the source in front of each key is dropped."""
    labels = []
    for label in text.split(";"):
        source, _, rest = label.partition(":")
        if source and rest:
            key, _, value = rest.partition("=")
            labels.append((key, value))
    return tuple(sorted(labels))


def learned_text(cluster: str, labels: Labels) -> str:
    """The text of a learned network: its labels, and the cluster that has learned it."""
    named = [(key, f"{_LEARNED}{key}={value};") for key, value in labels]
    return "".join(text for _, text in sorted([*named, (CLUSTER_KEY, _of_cluster(cluster))]))


def learned_labels(text: str) -> Labels:
    """The labels of a learned network; empty for an identity of pods."""
    parts = [part.removeprefix(_LEARNED) for part in text.split(";") if part.startswith(_LEARNED)]
    pairs = [part.partition("=") for part in parts]
    return tuple(sorted((key, value) for key, _, value in pairs))


def _of_cluster(cluster: str) -> str:
    return label_text([(CLUSTER_KEY, cluster)])


def identity_rows(claims: Iterable[Claim], cluster: str, cluster_id: int) -> dict[int, Identity]:
    """Identities by number, from the claims of this cluster; foreign numbers are left out."""
    return {
        claim.number: Identity(cluster, claim.number, claim.owner)
        for claim in claims
        if claim.noun == NOUN and claim.number >> CLUSTER_SHIFT == cluster_id
    }


def numbers_by_labels(identities: Iterable[Identity]) -> dict[str, int]:
    """Identity by label text."""
    return {identity.labels: identity.id for identity in identities}


def identity_range(cluster_id: int) -> range:
    """The identities that a cluster may have."""
    first = cluster_id << CLUSTER_SHIFT
    return range(max(first, FIRST_IDENTITY), first + (1 << CLUSTER_SHIFT))


def _is_identity(key: str) -> bool:
    kept = max((len(prefix) for prefix in _KEPT if key.startswith(prefix)), default=0)
    left_out = max((len(prefix) for prefix in _LEFT_OUT if key.startswith(prefix)), default=0)
    return kept >= left_out
