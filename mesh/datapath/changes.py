"""What names in two layouts cannot tell: renamed maps and fields, and fields made from others.

A row stays until no agent of a version before it can still be running.
"""

from __future__ import annotations

from bpf.migrate import Declared

DECLARED: Declared = ()
