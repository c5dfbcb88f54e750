/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The decision about a packet as a value: functions that decide fill it and return 0, or they
 * return a drop reason; only `leave` (leave.h) acts on it.
 */
#pragma once
#include "bfd.h"
#include "packet.h"

/* For a decision: the packet is the other CNI's (ours.h). No drop reason. */
#define NOT_OURS (-2)
/* For a decision: the packet goes on its plain way. No drop reason. */
#define NOT_VRF (-3)
/* For a decision: the packet is for no SID of this node. No drop reason. */
#define NOT_SID (-4)
/* For a decision: the packet is out of its outer headers, and in a VRF. No drop reason. */
#define IN_VRF (-5)

enum act {	       /* where a packet goes */
	   ACT_STACK,  /* up to the host */
	   ACT_POD,    /* into a pod of this node */
	   ACT_NODE,   /* to another node, through the overlay */
	   ACT_DEVICE, /* likewise, through the kernel's device, which may fragment */
	   ACT_HOP,    /* out by the kernel's route */
	   ACT_HOST,   /* up to the host, as if mg_vxlan had received it */
	   ACT_BACK,   /* an overlay packet, back to the node that sent it */
	   ACT_SRV6,   /* out of a VRF by a hop, in an outer IPv6 header */
	   ACT_PROBE,  /* a copy of a packet, as a probe to a gateway (probe.h) */
	   ACT_BFD,    /* a router's BFD packet, back as ours (bfd_answer.h) */
	   ACT_AGAIN,  /* in by a device, as if it came from there */
	   ACT_ARP,    /* an ARP request, back as the answer (layer2_answer.h) */
	   ACT_NDP,    /* a neighbour solicitation, likewise */
	   ACT_CLAIM,  /* a copy of such an answer, as a claim to the owner before */
	   ACT_DIRECT, /* an echo by the direct path, back as the answer (direct.h) */
};

enum end { /* of a connection */
	   END_NONE,
	   END_SOURCE,
	   END_DESTINATION,
};

struct translation {
	struct addr address;
	__be16 port;
	__u16 zone;    /* of the pod behind a reply */
	__be32 owner;  /* node of the port's block; 0: nobody */
	__be32 via;    /* gateway of the address; 0: none; NONE_LIVES */
	__be32 probe;  /* gateway to which a copy of this packet goes as a probe; 0: none */
	__u32 runs;    /* that the pod may have (port.h); 0: no quota but that of all pods */
	__u32 rate;    /* new mappings of the pod in a second; 0: no quota */
	__u16 binding; /* enum binding_kind */
	__u16 timers;  /* their number (timers.h); 0: those of all connections */
};

struct hop { /* where a route leads */
	__u32 ifindex;
	struct bpf_redir_neigh next;
};

struct outer { /* the headers in front of a packet that leaves its VRF */
	struct addr source;
	struct addr destination; /* the first segment */
	__u32 label;		 /* of the flow */
	__u32 via;		 /* row of the path, which has the segments of the SRH */
	__u32 identity;		 /* that the last segment's argument says; 0: none */
	__u8 segments;		 /* in the SRH; 0: there is none */
	__u8 bgp;		 /* the row is in mg_vrf_bgp_via */
	__u8 pad[2];
};

struct way_kind {     /* what of a way is read in any case, so written in any case */
	__u8 act;     /* enum act */
	__u8 end;     /* enum end: which one is rewritten */
	__u8 ttl;     /* that the packet leaves with; 0: as it came */
	__u8 tell;    /* the sender hears of the drop */
	__u8 late;    /* an ICMP error that the agent sends once more (icmp.h) */
	__u8 reset;   /* both ends hear that their connection has ended (reset.h) */
	__u8 known;   /* ACT_HOP: mg_to_uplink would find nothing to say about it */
	__u8 virtual; /* it leaves with the virtual MAC address of its source (layer2.h) */
};

struct way { /* the other fields are written together with the kind that makes go() read them */
	struct way_kind kind;
	struct translation as; /* kind.end: what it becomes */
	struct hop hop;	       /* ACT_HOP, ACT_SRV6 */
	struct outer outer;    /* ACT_SRV6 */
	__be32 node;	       /* ACT_NODE, ACT_DEVICE: tunnel endpoint */
	__be32 next_hop;       /* that leads to it */
	__u32 vni;
	__u32 number;  /* ACT_PROBE, ACT_DIRECT; ACT_CLAIM: the epoch */
	__u32 ifindex; /* ACT_POD: host side of its veth; ACT_AGAIN: where it comes in */
	__u8 mac[ETH_ALEN];
	__u8 host_mac[ETH_ALEN];
	__be16 port; /* ACT_NODE, ACT_BACK: of its overlay; ACT_BFD: our source port */
	__u16 pad[5];
	struct bfd_packet bfd; /* ACT_BFD */
} __attribute__((aligned(8)));
