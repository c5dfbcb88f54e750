"""The objects of the chart ``deploy/helm/meshgate`` for the values of a user.

The same chart as Helm's: same values, same schema, same templates. Values of the user come over the
chart's own as in Helm: objects are merged, everything else is replaced, null takes a value away.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mesh.install.schema import problems
from mesh.install.template import TemplateError, Templates, Value

#: In a checkout and in the image: beside the packages.
FOLDER = Path(__file__).parents[2] / "deploy/helm/meshgate"
RELEASE, NAMESPACE = "meshgate", "meshgate-system"
_HOOK = "helm.sh/hook"
_WEIGHT = "helm.sh/hook-weight"
#: What must be there before others, as in Helm: what is not named comes last.
_ORDER = (
    "Namespace", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap",
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
    "Service", "DaemonSet", "Deployment", "StatefulSet", "Job",
)  # fmt: skip

Object = dict[str, Value]
#: The safe loader in C, ten times as fast where PyYAML has it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ChartError(Exception):
    """Values or a chart that cannot be used; each line of the text is one mistake."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything of the chart, each list in the order in which it is applied.

    ``hooks`` are the objects by the moment at which they are made: ``pre-install`` …
    """

    definitions: Sequence[Object]
    objects: Sequence[Object]
    hooks: Mapping[str, Sequence[Object]]
    notes: str


def values_of(files: Iterable[Path], settings: Iterable[str], folder: Path = FOLDER) -> Object:
    """The chart's values with those of these files and ``path=value`` settings over them.

    Raises ChartError.
    """
    values = _read(folder / "values.yaml")
    for file in files:
        values = _over(values, _read(file))
    for setting in settings:
        path, is_setting, text = setting.partition("=")
        if not is_setting or not path:
            raise ChartError(f"--set: expected path=value, got {setting!r}")
        values = _over(values, _tree(path.split("."), _scalar(text)))
    return values


def render(values: Object, namespace: str = NAMESPACE, folder: Path = FOLDER) -> Rendered:
    """The chart's objects. Raises ChartError: one line for each value that is refused."""
    schema = json.loads((folder / "values.schema.json").read_text())
    if wrong := list(problems(schema, values)):
        raise ChartError("\n".join(wrong))
    chart = _read(folder / "Chart.yaml")
    root: Value = {
        "Values": values,
        "Chart": {
            "Name": chart["name"],
            "Version": chart["version"],
            "AppVersion": chart["appVersion"],
        },
        "Release": {"Name": RELEASE, "Namespace": namespace, "Service": "meshgate"},
    }
    paths = sorted((folder / "templates").iterdir())
    try:
        templates = Templates({path.name: path.read_text() for path in paths})
        texts = [templates.render(path.name, root) for path in paths if path.suffix == ".yaml"]
        notes = templates.render("NOTES.txt", root)
    except TemplateError as error:
        raise ChartError(str(error)) from error
    every = [one for text in texts for one in yaml.load_all(text, _Loader) if one]
    hooks: dict[str, list[Object]] = {}
    for one in every:
        for moment in filter(None, _annotations(one).get(_HOOK, "").split(",")):
            hooks.setdefault(moment, []).append(one)
    return Rendered(
        [_read(path) for path in sorted((folder / "crds").glob("*.yaml"))],
        sorted((one for one in every if _HOOK not in _annotations(one)), key=_rank),
        {moment: sorted(found, key=_by_weight) for moment, found in hooks.items()},
        notes,
    )


def _read(path: Path) -> Object:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ChartError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ChartError(f"{path}: expected an object")
    return document


def _over(values: Object, others: Object) -> Object:
    """A copy of ``values`` with ``others`` over it."""
    merged = copy.deepcopy(values)
    for key, value in others.items():
        former = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(former, dict) and isinstance(value, dict):
            merged[key] = _over(former, value)
        else:
            merged[key] = value
    return merged


def _tree(path: Sequence[str], value: Value) -> Object:
    return {path[0]: _tree(path[1:], value) if path[1:] else value}


def _scalar(text: str) -> Value:
    """As Helm reads the value of ``--set``; ``{a,b}`` is a list."""
    if text.startswith("{") and text.endswith("}"):
        return [_scalar(one) for one in text[1:-1].split(",") if one]
    if text in ("true", "false"):
        return text == "true"
    if text == "null":
        return None
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and (digits == "0" or digits[0] != "0") else text


def _annotations(one: Object) -> Mapping[str, str]:
    metadata = one["metadata"]
    found = metadata.get("annotations") if isinstance(metadata, dict) else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _rank(one: Object) -> int:
    kind = str(one["kind"])
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _by_weight(one: Object) -> tuple[int, int]:
    return int(_annotations(one).get(_WEIGHT, "0")), _rank(one)
