"""Clusters, routers and legacy networks on one machine, hosts being network namespaces."""
