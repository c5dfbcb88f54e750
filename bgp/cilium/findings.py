"""Codes of findings about Cilium's BGP objects and about what they announce."""

from mesh.core.findings import Code

MISSING_CONFIG = Code(
    "B260",
    "A peer of a CiliumBGPClusterConfig names a CiliumBGPPeerConfig that is absent (Cilium: "
    "MissingPeerConfigs). It has no session.",
    "Create the CiliumBGPPeerConfig, or correct peerConfigRef.name.",
)
NO_ROUTER = Code(
    "B261",
    "A peer of a CiliumBGPClusterConfig has no peerAddress. autoDiscovery is not served. It has no "
    "session.",
    "Write the router's address into peerAddress, and remove autoDiscovery.",
)
NO_AS = Code(
    "B262",
    "An AS number is missing in a CiliumBGPClusterConfig: localASN of an instance, or peerASN of a "
    "peer. A session with any AS is not served. There is no session.",
    "Write the number into localASN or peerASN.",
)
FAMILY_NOT_SERVED = Code(
    "B263",
    "A CiliumBGPPeerConfig has a family other than IPv4 unicast and IPv6 unicast. The family is "
    "left out; the session has the others.",
    "Remove the family. A BGPPeer has the VPN families.",
)
TYPE_NOT_SERVED = Code(
    "B264",
    "A CiliumBGPAdvertisement has an entry of a type that is not served. The entry announces "
    "nothing.",
    "Remove the entry. A BGPPeer announces other networks by `prefixes`.",
)
UNUSED_ADVERTISEMENT = Code(
    "B265",
    "A CiliumBGPAdvertisement has labels that no family of a peer asks for. It announces nothing.",
    "Change the labels of the object, or spec.families[].advertisements of a CiliumBGPPeerConfig "
    "that a peer names.",
)
NO_SELECTOR = Code(
    "B266",
    "An entry of a CiliumBGPAdvertisement has no selector, which selects no service. It announces "
    "nothing.",
    "Write a selector. One that selects all services asks for a label with NotIn.",
)
UNKNOWN_OVERRIDE = Code(
    "B267",
    "A CiliumBGPNodeConfigOverride names an instance or a peer that no CiliumBGPClusterConfig has, "
    "or a localAddress of another family than the router's. "
    "That part of it changes nothing.",
    "Correct the name of the instance or of the peer.",
)
