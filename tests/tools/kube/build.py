"""Commands of real Kubernetes for tests, built as the bed builds them (``mesh.lab.kube``)."""

from __future__ import annotations

from pathlib import Path

from mesh.lab.kube import builds


def cache() -> Path:
    """Where programs are kept, outside of the work tree."""
    return builds.cache()


def version() -> str:
    """The version of Kubernetes that the module pins."""
    return builds.KUBERNETES.version()


def binary(name: str) -> Path:
    """A command of k8s.io/kubernetes. Raises LabError, without a Go toolchain too."""
    return builds.programs(name)[name]
