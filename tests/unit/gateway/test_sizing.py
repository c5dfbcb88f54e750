"""``docs/sizing.md`` has the numbers that blocks and runs give."""

from pathlib import Path

import pytest

from gateway.blocks import OWN_BLOCKS, block_count
from gateway.history import RUN_PORTS

TEXT = (Path(__file__).parents[3] / "docs" / "sizing.md").read_text()


def pods(runs: int, pods_of_node: int, block_size: int = 256) -> int:
    """Pods that an address serves, when each node has a spare block."""
    blocks = -(-runs * pods_of_node * RUN_PORTS // block_size)
    assert blocks <= OWN_BLOCKS
    return block_count(block_size) // (blocks + 1) * pods_of_node


@pytest.mark.parametrize("runs", [1, 4, 16])
def test_the_table_says_how_many_pods_an_address_serves(runs: int) -> None:
    most = block_count(256) * 256 // RUN_PORTS // runs
    row = (runs, runs * RUN_PORTS, most, pods(runs, 10), pods(runs, 20))
    assert "| " + " | ".join(f"{number:,}" for number in row) + " |" in TEXT


def test_smaller_blocks_serve_more_small_nodes() -> None:
    assert f"{pods(1, 10, 64):,} pods" in TEXT
