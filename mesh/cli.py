"""The command line: dispatches to the lab."""

from __future__ import annotations

import argparse
import sys

from mesh.lab import cli as lab


def main() -> None:
    """Run one command; its result is the exit status."""
    parser = argparse.ArgumentParser(prog="meshgate")
    lab.add(parser.add_subparsers(dest="noun", required=True, metavar="NOUN"))
    options = parser.parse_args()
    sys.exit(options.run(options))


if __name__ == "__main__":
    main()
