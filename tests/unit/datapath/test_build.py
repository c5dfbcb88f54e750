"""Objects are built when something they depend on has changed, and only then."""

import os
from pathlib import Path

import pytest

from bpf.build import BuildError, build

SOURCE = 'char _license[] __attribute__((section("license"), used)) = "GPL";\n'


def test_an_unchanged_source_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.bpf.c").write_text(SOURCE)
    build(tmp_path)
    built = (tmp_path / "obj" / "one.o").stat()
    monkeypatch.setenv("PATH", str(tmp_path))
    os.utime(tmp_path / "one.bpf.c")
    build(tmp_path)
    assert (tmp_path / "obj" / "one.o").stat().st_ino == built.st_ino
    (tmp_path / "one.h").write_text("")
    with pytest.raises(FileNotFoundError, match="clang"):
        build(tmp_path)


def test_a_changed_source_or_a_lost_object_is_built_again(tmp_path: Path) -> None:
    source, target = tmp_path / "one.bpf.c", tmp_path / "obj" / "one.o"
    source.write_text(SOURCE)
    build(tmp_path)
    first = target.read_bytes()
    source.write_text(SOURCE + "int mg_value = 3;\n")
    build(tmp_path)
    second = target.read_bytes()
    assert first != second
    target.unlink()
    build(tmp_path)
    assert target.read_bytes() == second
    assert {path.name for path in target.parent.iterdir()} == {"one.o", "manifest.json"}


def test_a_source_that_goes_back_after_a_failure_elsewhere_is_built_again(tmp_path: Path) -> None:
    source, target = tmp_path / "one.bpf.c", tmp_path / "obj" / "one.o"
    source.write_text(SOURCE)
    build(tmp_path)
    first = target.read_bytes()
    source.write_text(SOURCE + "int mg_value = 3;\n")
    (tmp_path / "two.bpf.c").write_text("broken")
    with pytest.raises(BuildError):
        build(tmp_path)
    (tmp_path / "two.bpf.c").unlink()
    source.write_text(SOURCE)
    build(tmp_path)
    assert target.read_bytes() == first


def test_a_warning_is_an_error_and_keeps_the_last_object(tmp_path: Path) -> None:
    source, target = tmp_path / "one.bpf.c", tmp_path / "obj" / "one.o"
    source.write_text(SOURCE)
    build(tmp_path)
    first = target.read_bytes()
    source.write_text(SOURCE + "static int unused;\n")
    for _ in range(2):
        with pytest.raises(BuildError, match=r"one\.bpf\.c:2:\d+: .*-Wunused"):
            build(tmp_path)
    assert target.read_bytes() == first


def test_an_object_does_not_tell_where_it_was_built(tmp_path: Path) -> None:
    (tmp_path / "one.bpf.c").write_text(SOURCE + "int mg_value = 3;\n")
    build(tmp_path)
    content = (tmp_path / "obj" / "one.o").read_bytes()
    assert str(tmp_path).encode() not in content
