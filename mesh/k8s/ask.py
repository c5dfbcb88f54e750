"""Which API server answers now: what ``meshgate cluster accept-apiserver`` asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mesh.core.strict import convert
from mesh.k8s.access import Access
from mesh.k8s.api import Api, ApiError
from mesh.k8s.identity import who
from mesh.k8s.settings import Kubernetes


def uid_of(section: Mapping[str, str]) -> str:
    """The UID of the API server that this section of a configuration names.

    Raises OSError, and ValueError for a section that is wrong.
    """
    return asyncio.run(_uid(convert(section, Kubernetes)))


async def _uid(settings: Kubernetes) -> str:
    api = Api(Access(settings))
    try:
        return (await who(api))[0]
    except ApiError as error:
        raise OSError(f"{api.access.name}: {error}") from error
    finally:
        await api.aclose()
