"""In which form ``show`` and ``ps`` print."""

from __future__ import annotations

import argparse
import json


def outputs(parser: argparse.ArgumentParser) -> None:
    """Give a command the option ``-o``."""
    formats = ("table", "json", "yaml")
    parser.add_argument("-o", "--output", choices=formats, default="table")


def print_tree(tree: object, output: str) -> None:
    """Print a tree for scripts, or for people as YAML."""
    if output == "json":
        print(json.dumps(tree, indent=1))
    else:
        import yaml  # here, since scripts ask for JSON hundreds of times

        print(yaml.safe_dump(tree, sort_keys=False), end="")
