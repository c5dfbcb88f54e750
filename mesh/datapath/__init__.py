"""The BPF programs of a node: loaded, attached, swept."""
