"""The objects that a process of this host reads, read once: for commands, without any process.

Its configuration names the folder of manifests or the API server.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mesh import sources
from mesh.config import SpeakerConfig, load_speaker
from mesh.k8s import watches
from mesh.objects.kinds import KINDS
from mesh.objects.tables import ObjectNoun, Objects

_RUN = Path("/run/meshgate")
#: How long the objects may take to be there.
WITHIN_S = 20.0


def of_clusters(
    nouns: Sequence[ObjectNoun[Any, Any]], paths: Iterable[Path] | None = None
) -> dict[str, Objects]:
    """Objects by cluster, as the configurations of speakers name them.

    Without ``paths`` these are all of the run directory.

    Raises:
        OSError: there is no configuration, or the objects are not there in time.
        ValueError: a configuration is wrong.

    """
    return {name: asyncio.run(_objects(config, nouns)) for name, config in _configs(paths).items()}


def _configs(paths: Iterable[Path] | None) -> Mapping[str, SpeakerConfig]:
    """One configuration of each cluster, by its name."""
    run = Path(os.environ.get("MESHGATE_RUN") or _RUN)
    files = list(paths or sorted([*run.glob("speaker.yaml"), *run.glob("*/speaker.yaml")]))
    if not files:
        raise FileNotFoundError(f"no speaker.yaml under {run}; say --config FILE")
    return {config.cluster.name: config for config in map(load_speaker, files)}


async def _objects(config: SpeakerConfig, nouns: Sequence[ObjectNoun[Any, Any]]) -> Objects:
    with tempfile.TemporaryDirectory() as state:
        source = sources.of(
            config, config.cluster.name, Path(state), partial(watches.of_nouns, nouns=nouns),
            kinds=KINDS, accepted=tuple,
        )  # fmt: skip
        tables = [source.objects[noun] for noun in nouns]
        wake = asyncio.Event()
        for table in tables:
            table.listen(wake.set)
        jobs = [asyncio.create_task(job()) for job in source.jobs().values()]
        try:
            async with asyncio.timeout(WITHIN_S):
                while not all(table.synced for table in tables):
                    wake.clear()
                    await wake.wait()
        except TimeoutError:
            text = f"objects of {config.cluster.name} are not there within {WITHIN_S:.0f} s"
            raise TimeoutError(text) from None
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        return source.objects
