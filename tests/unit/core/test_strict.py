"""YAML as Kubernetes reads it, and what is refused."""

import pytest

from mesh.core.strict import MAX_NODES, Unreadable, Wrong, parse_json, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("100", 100),
        ("017", 15),
        ("0o17", 15),
        ("0x1F", 31),
        ("089", "089"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("'10'", "10"),
        ("!!str 10", "10"),
        ("12:30:00", "12:30:00"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("9" * 5000, "9" * 5000),
        ("fd01::/48", "fd01::/48"),
    ],
)
def test_plain_scalars_are_typed_as_in_kubernetes(text: str, value: object) -> None:
    [document] = parse_yaml(f"a: {text}\n")
    assert document["a"] == value
    assert type(document["a"]) is type(value)


def test_documents_aliases_and_comments() -> None:
    text = "# c\n---\na: &x [1, {b: 2}]\nc: *x\n---\n---\nd: |\n  text\n...\n"
    assert parse_yaml(text) == [{"a": [1, {"b": 2}], "c": [1, {"b": 2}]}, {"d": "text\n"}]
    assert parse_yaml("") == parse_yaml("# nothing\n---\n") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<<: {a: 1}\nb: 2\n", {"a": 1, "b": 2}),
        ("a: 3\n<<: {a: 1, b: 2}\n", {"a": 3, "b": 2}),
        ("<<: {a: 1, b: 2}\na: 3\n", {"a": 3, "b": 2}),
        ("<<: [{a: 1}, {a: 2, b: 2}]\n", {"a": 1, "b": 2}),
        ("x: &x {a: {<<: {b: 1}}}\ny: {<<: *x, c: 2}\n", None),
        ("'<<': 1\n", {"<<": 1}),
        ("a: &a '<<'\n*a : 1\n", {"a": "<<", "<<": 1}),
    ],
)
def test_merge_keys_are_followed(text: str, expected: object) -> None:
    """A mapping's own keys count before merged ones, and of several the first ones."""
    [found] = parse_yaml(text)
    assert found == (expected or {"x": {"a": {"b": 1}}, "y": {"a": {"b": 1}, "c": 2}})


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3", "duplicate key 'a'"),
        ("a: !!binary aGk=\n", "line 1", "tag tag:yaml.org,2002:binary is not supported"),
        ("a: !x {b: 1}\n", "line 1", "tag !x is not supported"),
        ("a: *b\n", "line 1", "unknown alias b"),
        ("a: &a [*a]\n", "line 1", "unknown alias a"),
        ("<<: 1\n", "line 1", "a merge key needs a mapping, or a list of mappings"),
        ("<<: [{a: 1}, b]\n", "line 1", "a merge key needs a mapping, or a list of mappings"),
        ("<<: {a: 1}\n<<: {b: 1}\n", "line 2", "duplicate key '<<'"),
        ("? [a]\n: 1\n", "line 1", "a key must be a text"),
        ("- " * 70 + "a\n", "line 1", "nested more than 64 levels deep"),
        ("[" * 70 + "]" * 70, "line 1", "nested more than 64 levels deep"),
    ],
)
def test_what_is_refused_is_named_by_its_line(text: str, path: str, problem: str) -> None:
    with pytest.raises(Wrong) as caught:
        parse_yaml(text)
    assert caught.value.path == path
    assert caught.value.text.startswith(problem)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a:\n\tb: 1\n", 2, 1),
        ("a: [1, 2\nb: 3\n", 2, 2),
        ("a: 'open\n", 2, 1),
        ("a: \x01\n", 0, 0),
    ],
)
def test_what_is_no_yaml_is_named_by_line_and_column(text: str, line: int, column: int) -> None:
    """The rest of the sentence is the parser's, in the words of its version."""
    with pytest.raises(Unreadable) as caught:
        parse_yaml(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert caught.value.path == (f"line {line}" if line else "")
    assert caught.value.text.startswith("not YAML: ")


def test_what_is_no_json_is_named_by_line_and_column() -> None:
    with pytest.raises(Unreadable, match="line 2: not JSON: ") as caught:
        parse_json('{\n"a": ')
    assert (caught.value.line, caught.value.column) == (2, 6)


def test_aliases_cannot_blow_a_document_up() -> None:
    lines = ["a0: &a0 [" + ",".join("x" * 10) + "]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(Wrong, match="aliases make the document too large"):
        parse_yaml("\n".join(lines))
    assert MAX_NODES < 10**9


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ("[" * 100_000, "nested too deeply"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("9" * 5000, "a number is too long"),
    ],
)
def test_json_is_refused_alike(text: str, error: str) -> None:
    with pytest.raises(Wrong, match=error):
        parse_json(text)


def test_json_may_be_indented_by_tabs() -> None:
    assert parse_json('{\n\t"a": 1\n}') == [{"a": 1}]
    assert parse_json(" \n") == []


def test_json_documents_may_follow_each_other() -> None:
    """As kubectl takes them; an error is named where it stands."""
    assert parse_json('{"a": 1}\n{"a": 2}\n') == [{"a": 1}, {"a": 2}]
    with pytest.raises(Unreadable, match="line 3: not JSON: ") as caught:
        parse_json('{"a": 1}\n{"a": 2}\n}\n')
    assert (caught.value.line, caught.value.column) == (3, 1)
