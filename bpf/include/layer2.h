/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which node speaks for an egress address on the segment of its uplink. It answers ARP and NDP with
 * the address's virtual MAC address, and sends with it (layer2_answer.h). Any gateway forwards the
 * address's packets, whether it speaks or not.
 *
 * An owner is silent from the moment in which it hears of a greater epoch, which is another
 * owner's, or in which the agent's last word for it ends. Every packet judges, so no timer and no
 * process takes part.
 */
#pragma once
#include "packet.h"

enum layer2_state {
	LAYER2_STANDS_BY, /* takes no frame for the virtual MAC address: a switch may flood it */
	LAYER2_OWNS,
	LAYER2_LEFT, /* was the owner lately: what still comes here goes on */
};
SCHEMA(enum layer2_state, layer2_state);

struct layer2 {
	__u64 until;   /* CLOCK_MONOTONIC, ns: the end of the agent's last word that it may speak */
	__u32 epoch;   /* of the owner that this node knows */
	__be32 before; /* tunnel endpoint of the owner before; 0: none that is known */
	__u8 mac[ETH_ALEN]; /* the virtual one */
	__u8 state;	    /* enum layer2_state */
	__u8 pad;
};

/* egress address -> this node's part in it on layer 2. Agent, from table layer 2. */
MAP_HASH(mg_layer2, struct addr, struct layer2, 4096, BPF_F_NO_PREALLOC);
/* egress address -> greatest epoch that another gateway has shown. The agent makes and deletes
 * rows; only BPF writes into them.
 */
MAP_HASH(mg_layer2_seen, struct addr, __u32, 4096, BPF_F_NO_PREALLOC);

/* decide: no other owner is known that came later */
static __always_inline bool layer2_is_last(const struct addr *address, const struct layer2 *row)
{
	__u32 *seen = bpf_map_lookup_elem(&mg_layer2_seen, address);

	return !seen || !*seen || (__s32)(*seen - row->epoch) <= 0;
}

/* look up: the row of an address for which this node speaks now; NULL: it is silent */
static __always_inline struct layer2 *layer2_find(const struct addr *address)
{
	struct layer2 *row = bpf_map_lookup_elem(&mg_layer2, address);

	if (!row || row->state != LAYER2_OWNS ||
	    (__s64)(row->until - bpf_ktime_get_coarse_ns()) <= 0)
		return NULL;
	return layer2_is_last(address, row) ? row : NULL;
}

/* decide: packets of this address leave with its virtual MAC address */
__global int layer2_speaks(const struct addr *address)
{
	return address && layer2_find(address);
}

/* act: the packet leaves with the virtual MAC address of its source */
__global int layer2_source(hook_t *ctx)
{
	struct addr source;

	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		__be32 v4;

		if (packet_load(ctx, L3_OFFSET + offsetof(struct ipv4_header, source), &v4,
				sizeof(v4)))
			return 0;
		addr_from_v4(&source, v4);
	} else if (packet_load(ctx, L3_OFFSET + offsetof(struct ipv6_header, source), &source,
			       sizeof(source))) {
		return 0;
	}
	struct layer2 *row = layer2_find(&source);
	if (row)
		packet_store(ctx, ETH_ALEN, row->mac, ETH_ALEN);
	return 0;
}

static __always_inline bool mac_equal(const __u8 *one, const __u8 *other)
{
	__u8 differs = 0;

	for (int i = 0; i < ETH_ALEN; i++)
		differs |= one[i] ^ other[i];
	return !differs;
}

/* decide: a packet for an egress address of this gateway is for this node. Frames for others come
 * where a switch floods, or where the device takes all.
 */
__global int layer2_takes(hook_t *ctx, const struct addr *address)
{
	__u8 mac[ETH_ALEN];

	if (!address)
		return false;
	if (!hook_is_others(ctx))
		return true;
	struct layer2 *row = bpf_map_lookup_elem(&mg_layer2, address);
	if (!row)
		return true;
	if (row->state == LAYER2_STANDS_BY || packet_load(ctx, 0, mac, sizeof(mac)) ||
	    !mac_equal(mac, row->mac))
		return false;
	hook_to_us(ctx);
	return true;
}
