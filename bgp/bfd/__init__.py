"""BFD with routers: BGPPeers become sessions of the datapath, which speaks BFD by itself.

packet (bytes) -> rows (pure) -> maps, layouts -> nouns, findings -> agent (sessions, slow packets)
-> liveness (what the speaker reads). The protocol is in ``bpf/include/bfd_packet.h``.
"""
