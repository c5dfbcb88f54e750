/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The decision about a packet as a value: functions that decide fill it and return 0, or they
 * return a drop reason; only `leave` (leave.h) acts on it.
 */
#pragma once
#include "packet.h"

/* For a decision: the packet is the other CNI's (ours.h). No drop reason. */
#define NOT_OURS (-2)

enum act {	       /* where a packet goes */
	   ACT_STACK,  /* up to the host */
	   ACT_POD,    /* into a pod of this node */
	   ACT_NODE,   /* to another node, through the overlay */
	   ACT_DEVICE, /* likewise, through the kernel's device, which may fragment */
	   ACT_HOP,    /* out by the kernel's route */
	   ACT_HOST,   /* up to the host, as if mg_vxlan had received it */
	   ACT_BACK,   /* an overlay packet, back to the node that sent it */
};

enum end { /* of a connection */
	   END_NONE,
	   END_SOURCE,
	   END_DESTINATION,
};

struct translation {
	struct addr address;
	__be16 port;
	__u16 zone;   /* of the pod behind a reply */
	__be32 owner; /* node of the port's block; 0: nobody */
	__be32 via;   /* gateway of the address; 0: none */
};

struct hop { /* where a route leads */
	__u32 ifindex;
	struct bpf_redir_neigh next;
};

struct way_kind {   /* what of a way is read in any case, so written in any case */
	__u8 act;   /* enum act */
	__u8 end;   /* enum end: which one is rewritten */
	__u8 ttl;   /* that the packet leaves with; 0: as it came */
	__u8 tell;  /* the sender hears of the drop */
	__u8 late;  /* an ICMP error that the agent sends once more (icmp.h) */
	__u8 reset; /* both ends hear that their connection has ended (reset.h) */
	__u8 pad[2];
};

struct way { /* the other fields are written together with the kind that makes go() read them */
	struct way_kind kind;
	struct translation as; /* kind.end: what it becomes */
	struct hop hop;	       /* ACT_HOP */
	__be32 node;	       /* ACT_NODE, ACT_DEVICE: tunnel endpoint */
	__be32 next_hop;       /* that leads to it */
	__u32 vni;
	__u32 ifindex; /* ACT_POD: host side of its veth */
	__u8 mac[ETH_ALEN];
	__u8 host_mac[ETH_ALEN];
	__be16 port; /* ACT_NODE, ACT_BACK: of its overlay */
	__u16 pad[3];
} __attribute__((aligned(8)));
