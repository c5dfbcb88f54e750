"""Fields of Cilium's BGP objects: which are used, and what follows where one is not."""

from __future__ import annotations

from mesh.objects.fields import irrelevant, reported, used

_PEER = "spec.bgpInstances[].peers[]"
_ENTRY = "spec.advertisements[]"
_COMMON = (
    irrelevant("metadata.namespace", "the kind is cluster-scoped, and Kubernetes clears the field"),
    irrelevant("status", "Meshgate does not read it"),
)

CLUSTER = (
    used("spec.nodeSelector", "the nodes that have the instances; absent: all nodes"),
    used("spec.bgpInstances[].name", "joins the instance with overrides of a node"),
    used("spec.bgpInstances[].localASN", "our AS; without it there is no session (B262)"),
    irrelevant(
        "spec.bgpInstances[].localPort",
        "nodes dial the router, and their sessions listen nowhere; a BGPPeer can be passive",
    ),
    used(f"{_PEER}.name", "joins the peer with overrides of a node"),
    used(f"{_PEER}.peerAddress", "the router; without it there is no session (B261)"),
    used(f"{_PEER}.peerASN", "its AS; 0 or absent is any AS, and there is no session (B262)"),
    reported(f"{_PEER}.autoDiscovery", "each such peer has a finding B261, and no session"),
    used(
        f"{_PEER}.peerConfigRef.name",
        "the CiliumBGPPeerConfig; one that is absent is finding B260, and there is no session",
    ),
    *_COMMON,
)
PEER_CONFIG = (
    used("spec.transport.peerPort", "TCP port of the router"),
    irrelevant("spec.transport.localPort", "Cilium ignores it, too"),
    used("spec.timers.holdTimeSeconds", "hold time"),
    irrelevant("spec.timers.keepAliveTimeSeconds", "a third of the hold time, as RFC 4271 has it"),
    irrelevant("spec.timers.connectRetryTimeSeconds", "ExaBGP has its own back-off"),
    used(
        "spec.authSecretRef",
        "the Secret with the key password; of an API server Secret meshgate-bgp alone is read",
    ),
    used("spec.gracefulRestart.enabled", "whether routers keep unicast routes over a restart"),
    used("spec.gracefulRestart.restartTimeSeconds", "how long"),
    used("spec.ebgpMultihop", "hops to the router at most; 1 is not limited further"),
    used("spec.families[].afi", "ipv4 and ipv6; another one is finding B263"),
    used("spec.families[].safi", "unicast; another one is finding B263"),
    used("spec.families[].advertisements", "finds CiliumBGPAdvertisements by their labels"),
    *_COMMON,
)
ADVERTISEMENT = (
    used("metadata.labels", "by which families find the object"),
    used(
        f"{_ENTRY}.advertisementType",
        "PodCIDR and Service; Interface and CiliumPodIPPool are finding B264, and announce nothing",
    ),
    used(f"{_ENTRY}.selector", "selects Services by labels; absent: none (B266)"),
    used(f"{_ENTRY}.service.addresses[]", "LoadBalancerIP, ClusterIP and ExternalIP"),
    used(f"{_ENTRY}.service.aggregationLengthIPv4", "the length of what is announced instead"),
    used(f"{_ENTRY}.service.aggregationLengthIPv6", "likewise"),
    reported(f"{_ENTRY}.interface.name", "each such entry has a finding B264"),
    used(f"{_ENTRY}.attributes.communities.standard[]", "communities"),
    used(f"{_ENTRY}.attributes.communities.wellKnown[]", "communities by name"),
    used(f"{_ENTRY}.attributes.communities.large[]", "large communities"),
    used(f"{_ENTRY}.attributes.localPreference", "for a router of our own AS"),
    *_COMMON,
)
OVERRIDE = (
    used("metadata.name", "the node"),
    used("spec.bgpInstances[].name", "the instance; an unknown one is finding B267"),
    used("spec.bgpInstances[].routerID", "BGP identifier of the node's sessions of the instance"),
    used("spec.bgpInstances[].localASN", "our AS on the node"),
    irrelevant("spec.bgpInstances[].localPort", "sessions listen nowhere"),
    used(f"{_PEER}.name", "the peer; an unknown one is finding B267"),
    used(f"{_PEER}.localAddress", "source of the session"),
    irrelevant(f"{_PEER}.localPort", "the system chooses it"),
    *_COMMON,
)
