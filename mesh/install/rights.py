"""What an account would need for the chart, and may not do."""

from __future__ import annotations

from collections.abc import Iterator

from mesh.install.api import Api, path_of
from mesh.install.chart import Object, render, values_of


def denied(api: Api, namespace: str) -> Iterator[str]:
    """What of the chart the user may not make. Raises ApiError."""
    rendered = render(values_of((), ["cluster.name=any"]), namespace)
    every: list[Object] = [*rendered.definitions, *rendered.objects]
    every += [one for found in rendered.hooks.values() for one in found]
    for place in sorted({_place(path_of(one)) for one in every}):
        group, plural, inside = place
        attributes = {"group": group, "resource": plural, "verb": "create", "namespace": inside}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = api.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        if not answer["status"]["allowed"]:
            yield f"create {plural}"


def _place(path: str) -> tuple[str, str, str]:
    """Group, resource and namespace of an object's path."""
    parts = path.strip("/").split("/")
    group = parts[1] if parts[0] == "apis" else ""
    rest = parts[3:] if group else parts[2:]
    return (group, rest[2], rest[1]) if len(rest) == 4 else (group, rest[0], "")
