"""Codes of findings about what the host does to our traffic, and we to the host."""

from mesh.core.findings import Code

NOT_SET = Code(
    "D640",
    "A setting of the host is not what Meshgate needs, because it could not be written or because "
    "another program has changed it since. The text says what does not work.",
    "Set it, and look which program changes it (sysctl.d, the network manager). "
    "`meshgate host list` shows what was, and what is now.",
)
FIREWALL = Code(
    "D641",
    "A rule or a policy of the host's firewall drops packets that Meshgate leaves to the kernel.",
    "Add the rule that the text names, before the one that drops.",
)
ROUTE_GONE = Code(
    "D642",
    "The host has lost a default route that it had, or the next hop of one does not answer. What "
    "leaves the mesh through this host goes nowhere.",
    "Add the route, mend the router, or mend what gave the route to the host (DHCP, router "
    "advertisements).",
)
DRAINED = Code(
    "M255",
    "The node is being left (`meshgate uninstall --drain`): new connections of pods are not "
    "translated, also towards destinations of an egress policy.",
    "Wait for the uninstall. If there is none, delete `ConfigMap/meshgate-uninstall`; on a host "
    "without Kubernetes delete `drain.json` in the agent's stateDir.",
)
