"""``install``, ``uninstall``, ``verify``, ``etcd``, and the commands that the chart's pods run."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from mesh.install.api import Api
    from mesh.install.chart import Rendered
    from mesh.install.preflight import Check, Wanted

_NAMESPACE = "meshgate-system"
_NODE_CLAIM = "authentication.kubernetes.io/node-name"


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    install = commands.add_parser("install", help="apply the chart to a cluster, without Helm")
    _add_api(install)
    _add_values(install)
    install.add_argument(
        "--dry-run", action="store_true", help="print objects; judge them, if asked"
    )
    install.add_argument("--no-wait", action="store_true", help="do not wait until pods are ready")
    text = "only the definitions of our kinds"
    install.add_argument("--definitions", action="store_true", help=text)
    install.set_defaults(run=_install)
    uninstall = commands.add_parser("uninstall", help="take Meshgate off all nodes and delete it")
    _add_api(uninstall)
    uninstall.add_argument("--dry-run", action="store_true", help="print what would be deleted")
    text = "delete the definitions of our kinds, and with them all objects of these kinds"
    uninstall.add_argument("--crds", action="store_true", help=text)
    text = "end the pods that have links of Meshgate; without it they are in the way"
    uninstall.add_argument("--evict", action="store_true", help=text)
    text = "let translated connections go on for so long, then reset them; beside another CNI"
    uninstall.add_argument("--drain", type=_seconds, default=0, metavar="SECONDS", help=text)
    text = "clean the nodes, and leave the chart to Helm"
    uninstall.add_argument("--nodes-only", action="store_true", help=text)
    uninstall.set_defaults(run=_uninstall)
    _add_verify(commands)
    _add_etcd(commands)
    _add_pod(commands)


def _seconds(text: str) -> int:
    """Seconds of an option: ``300``, ``300s`` or ``5m``."""
    number = text.removesuffix("s").removesuffix("m")
    if not number.isdecimal() or text.endswith("ms"):
        raise argparse.ArgumentTypeError(f"expected seconds as 300s or 5m, got {text!r}")
    return int(number) * (60 if text.endswith("m") else 1)


def _add_api(parser: argparse.ArgumentParser) -> None:
    given = os.environ.get("KUBECONFIG")
    text = "who we are at the API server; without it, and without KUBECONFIG, a pod's account"
    parser.add_argument(
        "--kubeconfig", type=Path, default=Path(given) if given else None, metavar="FILE", help=text
    )
    text = "https://HOST:PORT in place of the address that is named there"
    parser.add_argument("--kubernetes-host", metavar="URL", help=text)
    parser.add_argument("--namespace", "-n", default=_NAMESPACE, metavar="NAME")


def _add_values(parser: argparse.ArgumentParser) -> None:
    text = "values, as for Helm; more files come over the first"
    parser.add_argument("--values", "-f", type=Path, action="append", metavar="FILE", help=text)
    text = "one value; {A,B} is a list"
    parser.add_argument("--set", action="append", metavar="PATH=VALUE", help=text)


def _add_verify(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser("verify", help="whether this node, and a cluster, will do")
    _add_api(verify)
    verify.add_argument("--mode", choices=("whole", "beside"), default="whole")
    verify.add_argument(
        "--config", type=Path, metavar="FILE", help="an agent's, in place of --mode"
    )
    verify.add_argument("--no-cluster", action="store_true", help="look at this node only")
    verify.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    verify.set_defaults(run=_verify)


def _add_etcd(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    verbs = commands.add_parser("etcd", help="the CA and the users of an etcd").add_subparsers(
        metavar="VERB", required=True
    )
    init = verbs.add_parser("init", help="make CA, certificates and users; may be repeated")
    _add_api(init)
    init.add_argument("--cluster", default="", metavar="NAME")
    where = init.add_mutually_exclusive_group(required=True)
    text = "files in this folder (`--pki` of `meshgate cluster`); for hosts that are no nodes"
    where.add_argument("--into", type=Path, metavar="DIR", help=text)
    text = "Secrets, for an etcd at this port of the node with the label meshgate.io/etcd"
    where.add_argument("--make", type=int, metavar="PORT", help=text)
    text = "a Secret that is there, with ca.crt, ca.key, root.crt and root.key"
    where.add_argument("--secret", metavar="NAME", help=text)
    init.add_argument("--address", action="append", metavar="NAME", help="of etcd, with --into")
    text = "where etcd answers; its users are made, too"
    init.add_argument("--etcd", action="append", metavar="URL", help=text)
    init.set_defaults(run=_etcd_init)
    issue = verbs.add_parser("issue", help="be the issuer of a cluster's certificates, in a pod")
    _add_api(issue)
    issue.add_argument("--cluster", required=True, metavar="NAME")
    issue.add_argument("--pki", type=Path, required=True, metavar="DIR")
    issue.add_argument("--port", type=int, required=True)
    issue.add_argument("--hours", type=float, default=24.0, metavar="N")
    issue.add_argument(
        "--into", type=Path, required=True, metavar="DIR", help="the controller's own"
    )
    issue.set_defaults(run=_etcd_issue)


def _add_pod(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    prepare = commands.add_parser("prepare", help="make a node ready for an agent, in its pod")
    prepare.add_argument("--config", type=Path, required=True, metavar="FILE")
    prepare.add_argument("--mount", type=Path, required=True, metavar="DIR", help="bpffs")
    prepare.add_argument(
        "--plugin", type=Path, required=True, metavar="DIR", help="for meshgate-cni"
    )
    prepare.set_defaults(run=_prepare)
    pod = commands.add_parser("run", help="run a process in its pod, with the node's certificate")
    pod.add_argument("role", choices=("agent", "speaker", "feed"))
    pod.add_argument("--config", type=Path, required=True, metavar="FILE")
    pod.add_argument("--kubernetes-host", metavar="URL")
    text = "take the taint meshgate.io/agent-not-ready off the node once its agent serves"
    pod.add_argument("--untaint", action="store_true", help=text)
    pod.set_defaults(run=_pod)
    leave = commands.add_parser("leave", help="undo everything that an agent has set on its host")
    which = leave.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", type=Path, metavar="FILE", help="of the agent")
    text = "where the host's root is, for the places of the chart; folders are emptied, too"
    which.add_argument("--root", type=Path, metavar="DIR", help=text)
    leave.set_defaults(run=_leave)


# Commands


def _told(lines: Callable[[], Iterable[str]], what: str) -> int:
    """Print lines as they come; the exit status."""
    from mesh.config import ConfigError
    from mesh.install.api import ApiError
    from mesh.install.chart import ChartError
    from mesh.install.installing import InstallError

    try:
        for line in lines():
            print(line, flush=True)
    except (ApiError, ChartError, InstallError, ConfigError, OSError, ValueError) as error:
        for line in str(error).splitlines():
            print(f"meshgate: {what}: {line}", file=sys.stderr)
        return 1
    return 0


def _api(parsed: argparse.Namespace) -> Api:
    from mesh.install import api

    if parsed.kubeconfig:
        return api.of_kubeconfig(parsed.kubeconfig, parsed.kubernetes_host)
    return api.of_pod(parsed.kubernetes_host)


def _rendered(parsed: argparse.Namespace, *more: str) -> Rendered:
    from mesh.install import chart

    values = chart.values_of(parsed.values or (), [*(parsed.set or ()), *more])
    return chart.render(values, parsed.namespace)


def _install(parsed: argparse.Namespace) -> int:
    from mesh.install import installing

    def lines() -> Iterable[str]:
        if parsed.definitions:
            from mesh.objects.crds import definitions

            yield from installing.applied(_api(parsed), [dict(one) for one in definitions()])
            return
        rendered = _rendered(parsed)
        if not parsed.dry_run:
            api, wait = _api(parsed), not parsed.no_wait
            yield from installing.install(api, rendered, parsed.namespace, wait=wait)
            yield rendered.notes
        elif parsed.kubeconfig:
            yield from installing.dry_run(_api(parsed), rendered, parsed.namespace)
        else:
            yield _documents(rendered)

    return _told(lines, "not installed")


def _documents(rendered: Rendered) -> str:
    """Everything of the chart as YAML, in the order in which it is applied."""
    import yaml

    hooks = rendered.hooks.get("pre-install", ())
    every = [*rendered.definitions, *hooks, *rendered.objects]
    return str(yaml.safe_dump_all(every, sort_keys=False)).rstrip()


def _uninstall(parsed: argparse.Namespace) -> int:
    from mesh.install import uninstalling
    from mesh.install.installing import name_of

    def lines() -> Iterable[str]:
        everything = _everything(parsed)
        if parsed.dry_run:
            doomed = [*everything.objects, *(everything.definitions if parsed.crds else ())]
            yield from (f"{name_of(one)} would be deleted" for one in doomed)
            return
        api = _api(parsed)
        if not parsed.nodes_only:
            uninstalling.refuse_helm(api, parsed.namespace)
        yield from uninstalling.leave_nodes(
            api, parsed.namespace, evict=parsed.evict, drain_s=parsed.drain
        )
        if not parsed.nodes_only:
            yield from uninstalling.delete_chart(
                api, everything, parsed.namespace, definitions=parsed.crds
            )

    return _told(lines, "not uninstalled")


def _everything(parsed: argparse.Namespace) -> Rendered:
    """Every object that any values make: what was installed with them is not known here."""
    from mesh.install import chart

    settings = ("cluster.name=any", "agentNotReadyTaint=true")
    return chart.render(chart.values_of((), settings), parsed.namespace)


def _verify(parsed: argparse.Namespace) -> int:
    from mesh.install import preflight

    wanted = preflight.Wanted(mode=parsed.mode)
    if parsed.mode == "beside":
        wanted = preflight.Wanted(mode="beside", overlay_port=8473)
    if parsed.config:
        try:
            wanted = _wanted_by(parsed.config)
        except (OSError, ValueError, AttributeError) as error:
            print(f"meshgate: {parsed.config}: {error}", file=sys.stderr)
            return 2
    checks = list(preflight.judged(preflight.look(wanted), wanted))
    if not parsed.no_cluster:
        checks += _cluster_checks(parsed, wanted)
    _print_checks(checks, parsed.output)
    return int(any(one.verdict == preflight.BAD for one in checks))


def _wanted_by(config: Path) -> Wanted:
    """By the words of an agent's file: certificates that it names need not be there yet.

    Raises OSError, ValueError.
    """
    import yaml

    from mesh.install.preflight import Wanted

    try:
        found: Any = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    mode = found.get("mode", "whole")
    return Wanted(
        mode=mode,
        overlay_port=found.get("overlayPort") or (8472 if mode == "whole" else 8473),
        uplink=found.get("uplink", "auto"),
        bpffs=Path(found.get("bpffs", "/sys/fs/bpf/meshgate")).parent,
        cgroup=Path(found.get("cgroup", "/sys/fs/cgroup")),
        conf=Path((found.get("cni") or {}).get("confDir", "/etc/cni/net.d")),
    )


def _cluster_checks(parsed: argparse.Namespace, wanted: Wanted) -> Sequence[Check]:
    from mesh.install import preflight
    from mesh.install.api import ApiError
    from mesh.install.rights import denied

    try:
        api = _api(parsed)
        version, date = api.version()
        skew = time.time() - parsedate_to_datetime(date).timestamp() if date else None
        found = list(preflight.of_cluster(version, skew, list(denied(api, parsed.namespace))))
        if wanted.mode == "beside":
            path = "/api/v1/namespaces/kube-system/configmaps/cilium-config"
            found += preflight.exclusive(api.find(path))
    except ApiError as error:
        mend = "say --kubeconfig FILE, or --no-cluster to look at this node only"
        return [preflight.Check("API server", preflight.BAD, str(error), mend)]
    return found


def _print_checks(checks: Sequence[Check], form: str) -> None:
    from dataclasses import asdict

    if form != "table":
        from mesh.observe import render

        sys.stdout.write(render.document([asdict(one) for one in checks], form))
        return
    width = max(len(one.name) for one in checks)
    for one in checks:
        mend = f". Mend: {one.mend}" if one.mend else ""
        print(f"{one.verdict:4}  {one.name:{width}}  {one.text}{mend}")


def _prepare(parsed: argparse.Namespace) -> int:
    from mesh.cni.install import install
    from mesh.install import preflight

    try:
        wanted = _wanted_by(parsed.config)
        if not preflight.look(wanted).bpffs:
            subprocess.run(["mount", "-t", "bpf", "bpf", str(parsed.mount)], check=True)
            print(f"bpffs mounted on {parsed.mount}")
        print(f"{install(parsed.plugin)} installed")
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"meshgate: the node is not ready: {error}", file=sys.stderr)
        return 1
    checks = list(preflight.judged(preflight.look(wanted), wanted))
    _print_checks(checks, "table")
    return int(any(one.verdict == preflight.BAD for one in checks))


def _pod(parsed: argparse.Namespace) -> int:
    from mesh.install import pod
    from mesh.install.api import ApiError, of_pod

    try:
        api = of_pod(parsed.kubernetes_host)
        return pod.main(parsed.role, parsed.config, api, untaint=parsed.untaint)
    except (ApiError, OSError) as error:
        print(f"meshgate: {error}", file=sys.stderr)
        return 1


def _leave(parsed: argparse.Namespace) -> int:
    from mesh.install import leaving

    def lines() -> Iterable[str]:
        if parsed.root:
            return leaving.by_hand(parsed.root)
        import yaml

        return leaving.leave(leaving.Places.of(yaml.safe_load(parsed.config.read_text())))

    return _told(lines, "something is left")


# etcd


def _etcd_init(parsed: argparse.Namespace) -> int:
    from mesh.install import etcd

    def lines() -> Iterable[str]:
        if parsed.into:
            return etcd.make_files(parsed.into, parsed.address or [], parsed.etcd or [])
        if parsed.make:
            return etcd.make_secrets(_api(parsed), parsed.namespace, parsed.make)
        return etcd.take_secret(_api(parsed), parsed.namespace, parsed.secret, parsed.etcd or [])

    return _told(lines, "etcd is not ready")


def _etcd_issue(parsed: argparse.Namespace) -> int:
    """Be the issuer until a signal ends it."""
    import logging

    from clustermesh.asking import RefusedError
    from clustermesh.etcd.errors import EtcdError
    from clustermesh.issuer import Issuer
    from mesh.install.etcd import reviewed

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    log = logging.getLogger(__name__)
    endpoints = os.environ["MESHGATE_ETCD"].split(",")
    issuer = Issuer(parsed.cluster, parsed.pki, endpoints, timedelta(hours=parsed.hours))
    api = _api(parsed)
    server = issuer.server(
        f"[::]:{parsed.port}", lambda token: reviewed(api, parsed.namespace, token)
    )
    started = False
    while True:
        try:
            if not started:
                issuer.found_users()
                server.start()
                started = True
            issuer.own(os.environ["MESHGATE_INSTANCE"], parsed.into)
        except (EtcdError, OSError, RefusedError) as error:
            log.warning("event=no_certificate error=%s", error)
            time.sleep(2)
            continue
        time.sleep(60)
