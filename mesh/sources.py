"""Makes the sources of a process's objects from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mesh.k8s.findings import IN_BOTH
from mesh.k8s.settings import Kubernetes
from mesh.k8s.watches import Watch
from mesh.objects.manifests import Manifests
from mesh.objects.schema import Kinds
from mesh.objects.sources import Source, Sources

if TYPE_CHECKING:
    from mesh.k8s.source import ApiServer


class Config(Protocol):
    """What a configuration says about objects; at least one of the two is there."""

    @property
    def manifests(self) -> Path | None: ...
    @property
    def kubernetes(self) -> Kubernetes | None: ...


def of(
    config: Config,
    cluster: str,
    state: Path,
    watches: Callable[[Kinds], Sequence[Watch]],
    *,
    kinds: Kinds,
    accepted: Callable[[], Container[str]],
) -> Sources:
    """The sources that the configuration names; ``watches`` says what is read of an API server.

    ``accepted`` are the API servers that an operator has accepted in place of a former one.
    """
    found: dict[str, Source] = {}
    if config.manifests is not None:
        found["manifests"] = Manifests(config.manifests, cluster, state, kinds=kinds)
    if config.kubernetes is not None:
        found["API server"] = _api_server(
            config.kubernetes, cluster, state, watches(kinds), kinds, accepted
        )
    return Sources(found, kinds, IN_BOTH)


def _api_server(
    settings: Kubernetes,
    cluster: str,
    state: Path,
    watches: Sequence[Watch],
    kinds: Kinds,
    accepted: Callable[[], Container[str]],
) -> ApiServer:
    # Imported when needed: the libraries take 26 MB, and a folder needs none of them.
    from mesh.k8s.access import Access  # noqa: PLC0415
    from mesh.k8s.api import Api  # noqa: PLC0415
    from mesh.k8s.source import ApiServer  # noqa: PLC0415

    return ApiServer(Api(Access(settings)), watches, cluster, state, kinds=kinds, accepted=accepted)
