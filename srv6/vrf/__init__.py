"""VRFs: tenants' networks, exchanged with routers as SRv6 L3VPN and between our nodes by etcd.

``kind`` (documents), ``accepted`` (which of them count), ``members`` (which pods), ``claims`` and
``known`` (numbers, SIDs and addresses as claims), ``routes`` (what our nodes have for each other),
``imports`` (what routers have), ``paths``, ``rows``, ``maps`` and ``pins`` (what the datapath
reads), ``domain`` (who may send to SIDs), then one file for each process.
"""
