"""CNI on a node: what a container runtime asks for by the plugin ``meshgate-cni``.

frames (bytes), versions, requests, results (pure) | attachments, conflist, plugins | agent, server.
"""
