"""The door to etcd: channel, requests, errors, client."""
