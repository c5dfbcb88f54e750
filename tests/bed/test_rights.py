"""What our accounts have asked of the API server while the other tests ran, by its audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from conftest import Bed

from mesh.lab.kube.installed import NAMESPACE

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:"
PROCESSES = {"meshgate-agent", "meshgate-controller", "meshgate-speaker"}


def asked(bed: Bed) -> Iterator[dict[str, Any]]:
    """Requests of our accounts, as the API server has noted them."""
    log = bed.lab.host_run(bed.cluster.control_plane.name) / "audit.log"
    for line in log.read_text().splitlines():
        row = json.loads(line)
        if row["user"].get("username", "").startswith(ACCOUNT):
            yield row


def test_no_request_of_our_accounts_was_refused(bed: Bed) -> None:
    """Each process has asked something, so the accounts are the ones that are meant."""
    rows = list(asked(bed))
    accounts = {row["user"]["username"].removeprefix(ACCOUNT) for row in rows}
    assert accounts >= PROCESSES
    refused = {
        (row["user"]["username"], row["verb"], row["requestURI"].partition("?")[0])
        for row in rows
        if row.get("responseStatus", {}).get("code") in (401, 403)
    }
    assert refused == set()


def test_nobody_of_ours_writes_what_is_another_ones(bed: Bed) -> None:
    writes = {
        (
            row["user"]["username"].removeprefix(ACCOUNT),
            row["verb"],
            "/".join(filter(None, map(row["objectRef"].get, ("resource", "subresource")))),
        )
        for row in asked(bed)
        if row["verb"] in ("create", "update", "patch", "delete")
    }
    of_agents = {what for account, _, what in writes if account == "meshgate-agent"}
    assert of_agents <= {"nodes", "configmaps"}
    assert not [account for account, *_ in writes if account == "meshgate-speaker"]
    controllers = {what for account, _, what in writes if account == "meshgate-controller"}
    assert {what for what in controllers if not what.endswith("/status")} <= {
        "events",
        "tokenreviews",
    }
