"""``python -m tests.bench``."""
import sys
from pathlib import Path
import tempfile
from bpf.build import build
from bpf.object import mount_bpffs
from mesh.lab import bringup, places
from tests.bench import paths
from tests.bench.frames import pin_thread
import os
os.environ["MESHGATE_LAB"]="mgb"; os.environ["MESHGATE_RUN"]="/run/meshgate-mgb"
lab = places.current()
build(); mount_bpffs()
bringup.down(lab, force=True)
with tempfile.TemporaryDirectory() as d:
    build(Path(__file__).parent, Path(d))
    pin_thread()
    try:
        for f in paths.measure(lab, Path(d), int(sys.argv[1])):
            print(f.title, f.ours, f.peer, f.ratios, f.problem)
    finally:
        bringup.down(lab, force=True)
