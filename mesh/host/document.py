"""Prints ``docs/host.md`` from the table of settings; ``make docs`` writes the document."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mesh.host.settings import SETTINGS, Setting

_HEAD = """# What Meshgate sets on a host

This page is written by `make docs` from `mesh/host/settings.py`, the one table of everything that
an agent sets on its host. `meshgate host list` shows the settings of each node with the value that
was there before and the one that is there now. A setting that is not as it should be is finding
D640, a lost default route D642, a firewall that drops what Meshgate leaves to the kernel D641.

Former values are kept in `host.json` in the state directory of the agent, until the host is booted.
To uninstall, stop the agent, then

    meshgate host restore --config AGENT.YAML

It detaches the programs, removes devices and routes, and writes the former values back. A sysctl
that another program has changed since stays as it is, and is named.
"""


def document() -> str:
    """The table as Markdown."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for one in SETTINGS:
        yield f"## {title(one)}\n"
        yield f"- **Where:** {one.where}."
        yield f"- **Why:** {one.why}."
        yield f"- **What else follows:** {one.implies}."
        yield f"- **When it is taken back:** {one.undo.value}.\n"


def title(one: Setting) -> str:
    """The setting as people write it."""
    name = one.name.replace("{device}", "DEVICE").replace("{pod}", "POD")
    if name.startswith("net/"):
        return f"{name.replace('/', '.')} = {one.value}"
    return name


if __name__ == "__main__":
    sys.stdout.write(document())
