"""Nodes of all clusters: pools of prefixes, tunnel endpoints, next hops, discard routes."""
