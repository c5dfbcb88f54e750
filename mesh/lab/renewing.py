"""The timer of the lab: renews certificates in place. ``python -m mesh.lab.renewing PKI``.

It does what ``meshgate cluster renew`` does, where the CA is; on real machines a timer of systemd
calls the verb. Processes find the new files by themselves.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from clustermesh.issued import Folder

log = logging.getLogger(__name__)

#: Seconds between looks. A certificate of minutes, as tests have it, is renewed in time as well.
LOOK_S = 5.0


def run(pki: Path) -> None:
    """Renew what is half over, for ever."""
    while True:
        try:
            folder = Folder(pki)
            with folder.locked():
                renewed = folder.renew()
        except (OSError, ValueError):
            log.exception("event=not_renewed")
        else:
            for user in renewed:
                log.info("event=renewed user=%s", user)
        time.sleep(LOOK_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    run(Path(sys.argv[1]))
