"""Codes of findings about services."""

from mesh.core.findings import Code

ADDRESS_CONFLICT = Code(
    "M161",
    "Two services have the same address, port and protocol. The first one by name gets the "
    "packets.",
    "Give one of the services another address.",
)
BACKENDS_FULL = Code(
    "M162",
    "The map of backends has not room for all. The services that the text names have fewer "
    "backends, or none: connections to those without any are refused.",
    "Make the map of backends larger in the agent's configuration.",
)
SERVICES_FULL = Code(
    "M163",
    "The map of service addresses has not room for all. Packets to the addresses of the services "
    "that the text names are not translated.",
    "Make the map of service addresses larger in the agent's configuration.",
)
PROXY_CONTRADICTS = Code(
    "M226",
    "The agent's configuration says that a kube-proxy runs on the node, and none is found; or that "
    "none does, and one is found. Without an owner the addresses of services lead nowhere. Two "
    "owners translate what is the other one's.",
    "Set services.kubeProxy of the agent's configuration to auto, or to what is so.",
)
LEFT_TO_PROXY = Code(
    "M227",
    "A global service has sessionAffinity or internalTrafficPolicy Local, which the node's "
    "kube-proxy honours. It stays the kube-proxy's: connections go to backends of this cluster "
    "only.",
    "Remove the field, if backends of other clusters are to get connections; else the annotation "
    "that makes the service global.",
)
NOT_PUBLISHED = Code(
    "M164",
    "A global service has backends that are neither pods nor nodes of its cluster, as an "
    "EndpointSlice or Endpoints may name them. Other clusters would not accept them, so they are "
    "not published; inside of the cluster they are used.",
    "Give the service backends with addresses of pods or nodes, or set service.cilium.io/shared to "
    "false.",
)
NOT_TRANSLATED = Code(
    "B268",
    "A BGPPeer advertises services, and nothing on the node translates packets from outside to "
    "their backends: no kube-proxy is found there. The node announces none of their addresses.",
    "Start a kube-proxy on the node, or let the BGPPeer select other nodes.",
)
