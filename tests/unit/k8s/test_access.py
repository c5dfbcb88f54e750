"""Where the API server is and who we are: service account, kubeconfig, exec plugin."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustermesh.issued import write_pki
from mesh.k8s.access import Access, NoAccessError, Way
from mesh.k8s.settings import Kubernetes


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    return write_pki(tmp_path / "pki", (), ()).ca


def account(place: Path, ca: Path, token: str = "one") -> tuple[Path, Path]:  # noqa: S107
    """The files of a service account."""
    path = place / "token"
    path.write_text(f"{token}\n")
    return path, ca


def kubeconfig(place: Path, ca: Path, **user: Any) -> Path:
    cluster = {"server": "https://api:6443/", "certificate-authority": str(ca)}
    tree = {
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": cluster}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": user}],
    }
    path = place / "kubeconfig"
    path.write_text(yaml.safe_dump(tree))
    return path


def way(access: Access) -> tuple[Way, str]:
    return asyncio.run(access.way())


def test_a_pod_finds_the_api_server_in_its_environment(
    tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    token, authority = account(tmp_path, ca)
    found, said = way(Access(Kubernetes(), token=token, ca=authority))
    assert (found.host, said) == ("https://[fd00::1]:443", "Bearer one")


def test_a_configured_host_needs_no_environment(
    tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    token, authority = account(tmp_path, ca)
    access = Access(Kubernetes(host="https://10.0.0.1:6443"), token=token, ca=authority)
    assert access.name == "API server https://10.0.0.1:6443"
    assert way(access)[0].host == "https://10.0.0.1:6443"


def test_the_environments_proxy_is_used_unless_it_exempts_the_host(
    tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    token, authority = account(tmp_path, ca)
    settings = Kubernetes(host="https://10.0.0.1:6443")
    assert way(Access(settings, token=token, ca=authority))[0].proxy == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", "example.com,10.0.0.1")
    assert way(Access(settings, token=token, ca=authority))[0].proxy is None


def test_a_refused_token_is_read_again_at_once(tmp_path: Path, ca: Path) -> None:
    token, authority = account(tmp_path, ca)
    access = Access(Kubernetes(host="https://h:1"), token=token, ca=authority)
    assert way(access)[1] == "Bearer one"
    token.write_text("two")
    assert way(access)[1] == "Bearer one", "the package reads it again after a minute"
    access.renew()
    assert way(access)[1] == "Bearer two"


def test_a_kubeconfig_that_has_changed_is_read_again(tmp_path: Path, ca: Path) -> None:
    access = Access(Kubernetes(kubeconfig=kubeconfig(tmp_path, ca, token="one")))  # noqa: S106
    first, said = way(access)
    assert (first.host, said) == ("https://api:6443", "Bearer one")
    assert way(access)[0] is first, "connections go on as long as nothing has changed"
    kubeconfig(tmp_path, ca, token="second")  # noqa: S106
    second, said = way(access)
    assert said == "Bearer second"
    assert second is not first


def test_a_renewed_certificate_makes_new_connections(tmp_path: Path, ca: Path) -> None:
    copy = tmp_path / "ca.crt"
    copy.write_bytes(ca.read_bytes())
    access = Access(Kubernetes(kubeconfig=kubeconfig(tmp_path, copy, token="one")))  # noqa: S106
    first, _ = way(access)
    copy.write_bytes(write_pki(tmp_path / "other", (), ()).ca.read_bytes())
    assert way(access)[0] is not first


def test_an_exec_plugin_runs_again_when_its_token_has_ended(tmp_path: Path, ca: Path) -> None:
    script, runs = tmp_path / "plugin", tmp_path / "runs"
    version = "client.authentication.k8s.io/v1"
    status = {"token": "secret", "expirationTimestamp": "2020-01-01T00:00:00Z"}
    answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    script.write_text(f"#!/bin/sh\necho run >> {runs}\necho '{answer}'\n")
    script.chmod(0o755)
    plugin = {"apiVersion": version, "command": str(script), "interactiveMode": "Never"}
    access = Access(Kubernetes(kubeconfig=kubeconfig(tmp_path, ca, exec=plugin)))
    assert way(access)[1] == "Bearer secret"
    before = runs.read_text()
    assert way(access)[1] == "Bearer secret"
    assert len(runs.read_text()) > len(before)


def test_what_cannot_be_read_is_named(tmp_path: Path, ca: Path) -> None:
    nothing = Access(Kubernetes(host="https://h:1"), token=tmp_path / "none", ca=ca)
    with pytest.raises(NoAccessError, match="token file does not exist"):
        way(nothing)
    path = tmp_path / "kubeconfig"
    path.write_text("clusters: [")
    with pytest.raises(NoAccessError, match="while parsing"):
        way(Access(Kubernetes(kubeconfig=path)))
    path.write_text("current-context: x")
    with pytest.raises(NoAccessError, match="contexts"):
        way(Access(Kubernetes(kubeconfig=path)))
    lost = kubeconfig(tmp_path, tmp_path / "no-ca.crt", token="one")  # noqa: S106
    with pytest.raises(NoAccessError, match="no-ca"):
        way(Access(Kubernetes(kubeconfig=lost)))
