/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A gateway of egress addresses knows rows only, no flows: outward it checks that the sender owns
 * the block of the source port, inward the block says which node to tunnel to (deliver.h).
 */
#pragma once
#include "addresses.h"
#include "fragment.h"
#include "forward.h"
#include "nat.h"

struct egress_addr {	/* an egress address of our cluster, by address */
	__be32 gateway; /* tunnel endpoint of its gateway; our own: this node is the gateway */
};

struct block_key {
	struct addr address;
	__u32 number;
};

struct block { /* who may translate into a port block */
	__be32 node;
	__u32 epoch;
};

/* egress address -> gateway. Agent, from table egress. */
MAP_HASH(mg_egress_addr, struct addr, struct egress_addr, 4096, BPF_F_NO_PREALLOC);
/* (egress address, block number) -> owner. Agent, from table block. */
MAP_HASH(mg_block, struct block_key, struct block, 262144, BPF_F_NO_PREALLOC);

/* look up: who may use the port; NULL: nobody */
static __always_inline struct block *block_find(const struct addr *address, __be16 port)
{
	__u32 number = bpf_ntohs(port);

	if (number < 1024 || !cfg.block_size)
		return NULL;
	struct block_key key = {.address = *address, .number = (number - 1024) / cfg.block_size};
	return bpf_map_lookup_elem(&mg_block, &key);
}

/* decide: whether the packet is for an egress address whose gateway this node is */
static __always_inline bool is_gateway(const struct packet *packet)
{
	struct egress_addr *egress = bpf_map_lookup_elem(&mg_egress_addr, &packet->destination);

	return egress && egress->gateway == cfg.node;
}

/* decide: at the gateway, after the checks, by the routes of the egress address. What is too big
 * for them and may be fragmented is left to the stack. Returns 0 or a drop reason.
 */
static __framed int gateway_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	const struct translation *as = &way->as;

	if (as->owner != (packet->sender ? packet->sender : cfg.node))
		return DROP_BLOCK_NOT_OWNED;
	if (packet->sender)
		fragment_record(packet);
	else
		way->end = END_SOURCE;
	int reason = hop_way(ctx, packet, way, &as->address, &packet->destination);
	if (reason == DROP_FRAGMENTATION_NEEDED && !is_unfragmentable(packet))
		return 0;
	if (reason)
		return reason;
	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (way->act == ACT_HOP) /* or the stack does it */
		way->ttl = packet->ttl - 1;
	return 0;
}

/* decide: the way out, when the source is an egress address of ours; else the drop as it was */
static __framed int tunnel_egress(hook_t *ctx, struct packet *packet, struct way *way, int reason)
{
	struct egress_addr *egress = bpf_map_lookup_elem(&mg_egress_addr, &packet->source);

	if (!egress)
		return reason;
	if (egress->gateway != cfg.node)
		return DROP_NO_EGRESS_GATEWAY;
	struct block *block = block_find(&packet->source, packet->flow.source_port);
	way->as.address = packet->source;
	way->as.owner = block ? block->node : 0;
	return gateway_way(ctx, packet, way);
}
