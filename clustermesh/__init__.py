"""Shared etcd: etcd (client), claims, wire (codec), publish, imports, certs."""
