"""The lock: how it is made, and that the committed one fits pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy import lock
from deploy.lock import Chosen, LockError

PIN = re.compile(r"([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")

PAGE = """
<a href="../../files/ab/one_two-1.0-py3-none-any.whl#sha256=aa">one_two-1.0-py3-none-any.whl</a>
<a href="../../files/cd/one_two-1.0.tar.gz#sha256=bb">one_two-1.0.tar.gz</a>
<a href="../../files/ef/one_two-1.0.1.tar.gz#sha256=cc">one_two-1.0.1.tar.gz</a>
<a href="../../files/ef/one_two-1.0-py3.11.egg#sha256=dd">one_two-1.0-py3.11.egg</a>
<a href="../../files/gh/one_two-1.0-cp311-cp311-linux_aarch64.whl#md5=ee">without SHA-256</a>
"""


def committed(path: Path = lock.LOCK) -> dict[str, str]:
    """Version by package."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith(lock.HEAD)
    body = text.removeprefix(lock.HEAD)
    assert PIN.sub("", body) == "", "only pins with hashes: no address, no range"
    return {match[1]: match[2] for match in PIN.finditer(body)}


def test_every_requirement_of_the_project_is_locked_within_its_range() -> None:
    """When it fails after a change of pyproject.toml, `make lock` writes a lock that fits."""
    pins = committed() | committed(lock.DEV_LOCK)
    project = tomllib.loads(lock.PROJECT.read_text(encoding="utf-8"))
    for one in map(Requirement, lock.requirements(project)):
        assert one.specifier.contains(pins[lock.normalized(one.name)]), str(one)


def test_the_hashes_of_all_files_of_one_version_are_taken() -> None:
    assert lock.hashes(PAGE, "1.0") == {"aa", "bb"}
    assert lock.hashes(PAGE, "1.0.1") == {"cc"}
    assert lock.hashes(PAGE, "2.0") == set()


def test_the_environment_counts_more_than_a_file_of_settings() -> None:
    """Folders, further indexes and caches of this machine are left out."""
    listed = [
        ":env:.find-links='/wheels'",
        ":env:.index-url='https://b.test/simple'",
        "global.extra-index-url='https://c.test/simple'",
        "global.index-url='https://a.test/simple'",
        "install.no-index='true'",
        "user.cert='/ca.pem'",
    ]
    found = lock.settings("\n".join(listed))
    assert found == {"index-url": "https://b.test/simple", "cert": "/ca.pem"}


def test_an_account_in_the_index_s_address_becomes_a_header() -> None:
    request = lock.request_for("https://me:a%2Fb@a.test/simple/one/")
    assert request.full_url == "https://a.test/simple/one/"
    assert request.get_header("Authorization") == "Basic bWU6YS9i"
    assert not lock.request_for("https://a.test/simple/one/").has_header("Authorization")


def test_a_package_that_differs_by_machine_is_refused() -> None:
    text = 'fast; platform_machine == "x86_64"'
    lock.refuse_machines([Chosen("one", "1", "", (text + ' and extra == "all"', "two>=1"))])
    with pytest.raises(LockError, match=r"one 1 depends on the machine: fast; "):
        lock.refuse_machines([Chosen("one", "1", "", (text,))])


def test_a_pin_is_written_with_its_hashes_in_order() -> None:
    text = lock.text_of([(Chosen("one", "1.0", "aa"), {"bb", "aa"})])
    pin = "one==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
    assert text == lock.HEAD + pin


def test_a_node_gets_no_package_of_tests_and_checks() -> None:
    """No package stands in both locks; what pyproject.toml asks for to run is in the first."""
    run, dev = committed(), committed(lock.DEV_LOCK)
    assert run.keys() & dev.keys() == set()
    project = tomllib.loads(lock.PROJECT.read_text(encoding="utf-8"))
    assert {lock.normalized(Requirement(text).name) for text in lock.runtime(project)} <= run.keys()
    tools = project["project"]["optional-dependencies"]["dev"]
    assert {lock.normalized(Requirement(text).name) for text in tools} <= dev.keys()


def test_a_package_that_a_node_needs_is_no_package_of_tests() -> None:
    one, two = Chosen("one", "1", ""), Chosen("two", "2", "")
    assert lock.split([one, two], [two]) == {lock.LOCK: [two], lock.DEV_LOCK: [one]}
    with pytest.raises(LockError, match="three"):
        lock.split([one], [Chosen("three", "3", "")])


def test_exabgp_is_one_version_since_its_code_is_changed() -> None:
    project = tomllib.loads(lock.PROJECT.read_text(encoding="utf-8"))
    (found,) = (one for one in map(Requirement, lock.runtime(project)) if one.name == "exabgp")
    assert [one.operator for one in found.specifier] == ["=="]


def test_each_package_of_the_tree_is_installed_on_a_node() -> None:
    """By name, since several top-level packages cannot be discovered."""
    project = tomllib.loads(lock.PROJECT.read_text(encoding="utf-8"))
    tops = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    found = [path.parent for top in tops for path in (lock.ROOT / top).rglob("__init__.py")]
    names = {".".join(path.relative_to(lock.ROOT).parts) for path in found}
    assert set(project["tool"]["setuptools"]["packages"]) == names
