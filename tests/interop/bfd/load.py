"""What an agent does for BFD and nothing else: load, arm, attach, pin; then it is dead.

Usage: ``python -m tests.interop.bfd.load PINS DEVICE [SALT]``. With another salt it is another
build of the same programs: a replacement.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bpf import links
from bpf.build import HERE, build
from bpf.object import Object
from bpf.testrun import call

#: Tables that no test here fills.
_SMALL = ("mg_ct_v4", "mg_ct_v6", "mg_nat_v4", "mg_nat_v6")


def main(pins: Path, device: str, salt: int) -> None:
    """Replace what is there, or begin."""
    build()
    for name in ("uplink", "sweep"):
        with Object.open(HERE / "obj" / f"{name}.o") as opened:
            if name == "uplink":
                opened.set_config("cfg", {"drop_events": 1, "permutation_key": salt})
            for map_ in _SMALL:
                if map_ in opened.specs:
                    opened.set_max_entries(map_, 1024)
            opened.pin(pins)
            opened.load()
            opened.pin_programs(pins / "programs")
            if name == "uplink":
                program = opened.programs["mg_from_uplink"]
                links.tcx(program, device, pins / "link", ingress=True)
            else:
                call(opened.programs["mg_bfd_arm"], np.zeros((), np.uint64))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
