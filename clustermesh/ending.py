"""The end of the certificate with which a process speaks to etcd, as a finding of each process."""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh.etcd.client import Client
from clustermesh.findings import CERTIFICATE_ENDS
from mesh.core.model import Finding


def ending(client: Client, *about: str) -> Iterable[Finding]:
    """The finding while little time is left, or none."""
    text = client.ending()
    if text:
        place = f"certificate {client.endpoint.cert or client.endpoint.ca}"
        yield Finding(CERTIFICATE_ENDS, place, "", text, about)
