"""Nodes of all clusters: pod CIDRs, tunnel endpoints, next hops, discard routes."""
