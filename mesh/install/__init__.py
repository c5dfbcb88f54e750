"""The way onto a cluster and off it, for people without Helm, and the preflight.

Downwards: ``verbs`` (the command line); ``installing`` and ``uninstalling`` (what is applied, asked
and deleted, in which order); ``chart`` (values → objects, by ``schema`` and ``template``); ``api``
(requests). ``pod`` is what runs around a process in its pod: its certificate, and the request to
leave the node. ``preflight`` is ``meshgate verify``.
"""
