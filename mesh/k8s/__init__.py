"""The API server as a source of objects: the door to Kubernetes.

Downwards: ``source`` (fills ``Objects``) reads by one ``informer`` for each kind (list, then
watch). Kinds are declared in ``watches``. ``identity`` says which API server it is. ``api`` has the
requests, and is the door to aiohttp. ``access`` has host, certificates and token, and is the door
to the package kubernetes. ``kept`` has the last good objects on the disk.
"""
