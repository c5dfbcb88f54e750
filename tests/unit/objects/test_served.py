"""A field that something else may serve is a finding of the nodes on which nothing does."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from mesh.core.findings import Code
from mesh.objects.fields import FieldServer
from mesh.objects.kinds import KINDS
from mesh.objects.manifests import Manifests
from mesh.objects.sources import Source, Sources

IN_BOTH = Code("M399", "An object is in two places.", "Remove one.")
FOLDER = """
apiVersion: v1
kind: Service
metadata:
  {name: web, namespace: shop, annotations: {service.cilium.io/type: LoadBalancer}}
spec:
  {type: NodePort, clusterIP: 10.96.0.10, sessionAffinity: ClientIP,
   selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: east-1, containers: [{name: web, ports: [{containerPort: 80, hostPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: broken, namespace: shop}
spec: {clusterIP: nonsense}
"""
PROXIED = {"spec.type", "spec.ports[].nodePort", "spec.sessionAffinity"}
MAPPED = {"spec.containers[].ports[].hostPort"}
OF_CNI = {"metadata.annotations[service.cilium.io/type]"}
ALWAYS = {"spec.clusterIP"}


@pytest.fixture(params=[1, 2], ids=["a folder", "a folder beside another source"])
def sources(request: pytest.FixtureRequest, tmp_path: Path) -> Sources:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "all.yaml").write_text(FOLDER)
    os.utime(tmp_path / "a" / "all.yaml", (1.5, 1.5))  # it has rested
    (tmp_path / "b").mkdir()
    folders = {name: Manifests(tmp_path / name, "east", kinds=KINDS) for name in ("a", "b")}
    found: dict[str, Source] = dict(list(folders.items())[: request.param])
    made = Sources(found, KINDS, IN_BOTH)
    for folder in folders.values():
        folder.scan()
    for _ in made.merged.step() if made.merged else ():
        pass
    return made


@pytest.mark.parametrize(
    ("served", "found"),
    [
        ((), PROXIED | MAPPED | OF_CNI | ALWAYS),
        ([FieldServer.PROXY], MAPPED | OF_CNI | ALWAYS),
        ([FieldServer.PORTMAP], PROXIED | OF_CNI | ALWAYS),
        (list(FieldServer), ALWAYS),
        (None, ALWAYS),
    ],
    ids=["nothing", "a kube-proxy", "portmap", "another CNI", "a process that knows no node"],
)
def test_who_serves_a_field_decides(
    sources: Sources, served: Collection[str] | None, found: set[str]
) -> None:
    assert {one.field for one in sources.findings(served)} == found
