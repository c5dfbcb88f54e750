"""The renderer: what Go's templates do with white space, values and calls. Helm is asked in e2e."""

from __future__ import annotations

import pytest

from mesh.install.template import TemplateError, Templates, Value

ROOT: Value = {
    "Values": {"name": "east", "none": "", "on": True, "list": ["a", "b"], "map": {"x": 1}}
}


def rendered(text: str, **more: str) -> str:
    return Templates({"one": text, **more}).render("one", ROOT)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a {{ .Values.name }} b", "a east b"),
        ("a  {{- .Values.name -}}  b", "aeastb"),
        ("a{{- /* a word */ -}} b", "ab"),
        ("{{ .Values.on }}", "true"),
        ("{{ .Values.none | default .Values.name }}", "east"),
        ("{{ .Values.name | quote }}", '"east"'),
        ("{{ .Values.list | toJson }}", '["a","b"]'),
        ("x:{{ toYaml .Values.map | nindent 2 }}", "x:\n  x: 1"),
        ("{{ if .Values.none }}a{{ else if .Values.on }}b{{ else }}c{{ end }}", "b"),
        ('{{ if eq .Values.name "west" }}a{{ else }}c{{ end }}', "c"),
        ("{{ if not .Values.none }}a{{ end }}", "a"),
        ("{{ range .Values.list }}<{{ . }}{{ $.Values.name }}>{{ end }}", "<aeast><beast>"),
        ("{{ with .Values.map }}{{ .x }}{{ end }}", "1"),
        ("{{ with .Values.none }}a{{ end }}", ""),
        ('{{ define "f" }}[{{ .Values.name }}]{{ end }}{{ include "f" . }}', "[east]"),
        ('{{ .Values.none | default (include "g" .) }}{{ define "g" }}g{{ end }}', "g"),
        ('{{ merge (dict "a" "1") .Values.map | toJson }}', '{"a":"1","x":1}'),
    ],
)
def test_a_template_is_rendered(text: str, wanted: str) -> None:
    assert rendered(text) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{ .Values.title }}", "nothing is there: .Values.title"),
        ("{{ if .Values.on }}", "if without an end"),
        ("{{ end }}", "unexpected end"),
        ("{{ tpl .Values.name . }}", "may not use tpl"),
        ("{{ .Values.map }}", "a dict is printed"),
        ('{{ include "no" . }}', "no template is called no"),
        ("{{ .Values.name .Values.on }}", "expected one value"),
    ],
)
def test_what_cannot_be_rendered_is_refused(text: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why) as raised:
        rendered(text)
    assert str(raised.value).startswith("one: ")
