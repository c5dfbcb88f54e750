/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The decision about a packet as a value: functions that decide fill it and return 0, or they
 * return a drop reason; only `leave` (leave.h) acts on it. Packet and way live in one per-CPU slot
 * for each program, because the stack has 512 bytes.
 */
#pragma once
#include "packet.h"

enum act {	       /* where a packet goes */
	   ACT_STACK,  /* up to the host */
	   ACT_POD,    /* into a pod of this node */
	   ACT_NODE,   /* to another node, through the overlay */
	   ACT_DEVICE, /* likewise, through the kernel's device, which may fragment */
	   ACT_HOP,    /* out by the kernel's route */
};

enum end { /* of a connection */
	   END_NONE,
	   END_SOURCE,
	   END_DESTINATION,
};

struct translation {
	struct addr address;
	__be16 port;
	__u16 pad;
	__be32 owner;	/* node of the port's block; 0: nobody */
	__be32 gateway; /* of the address; 0: none */
};

struct hop { /* where a route leads */
	__u32 ifindex;
	struct bpf_redir_neigh next;
};

struct way {
	struct translation as; /* what `end` becomes */
	struct hop hop;	       /* ACT_HOP */
	__be32 node;	       /* ACT_NODE, ACT_DEVICE: tunnel endpoint */
	__be32 next_hop;       /* that leads to it */
	__u32 vni;
	__u32 ifindex; /* ACT_POD: host side of its veth */
	__u8 mac[ETH_ALEN];
	__u8 host_mac[ETH_ALEN];
	__u8 act;  /* enum act */
	__u8 end;  /* enum end: which one is rewritten */
	__u8 ttl;  /* that the packet leaves with; 0: as it came */
	__u8 tell; /* the sender hears that something is used up */
	__u8 late; /* an ICMP error that the agent sends once more (icmp.h) */
	__u8 pad[3];
};

struct slot { /* the packet in hand */
	struct packet packet;
	struct way way;
} __attribute__((aligned(8))); /* clang writes four bytes at a time otherwise */

enum slot_of { /* one for each program: mg_to_pod may run between two steps of another one */
	       SLOT_FROM_POD,
	       SLOT_TO_POD,
	       SLOT_FROM_UPLINK,
	       SLOT_FROM_VXLAN,
	       SLOTS,
};

/* Of the object alone, so not pinned: nothing in it outlives a packet. A program is not interrupted
 * by itself: it runs in a softirq, or with softirqs switched off. Written by BPF.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__uint(pinning, LIBBPF_PIN_NONE);
	__type(key, __u32);
	__type(value, struct slot);
} mg_slot SEC(".maps");

/* The slot, written whole: what the last packet left in it is never read. After a helper that may
 * run other programs (bpf_clone_redirect) it is another packet's.
 */
static __always_inline struct slot *slot_new(enum slot_of number, enum event_point point)
{
	__u32 key = number;
	struct slot *slot = bpf_map_lookup_elem(&mg_slot, &key);

	if (!slot)
		return NULL;
	__builtin_memset(slot, 0, sizeof(*slot));
	slot->packet.point = point;
	return slot;
}
