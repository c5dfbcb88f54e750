"""Pods of a node: addresses, links, rows of ``mg_pod_addr``."""
