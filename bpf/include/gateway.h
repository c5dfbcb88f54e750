/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A gateway of egress addresses knows rows only, no flows: outward it checks that the sender owns
 * the block of the source port, inward the block says which node to tunnel to (deliver.h).
 */
#pragma once
#include "addresses.h"
#include "fragment.h"
#include "forward.h"
#include "nat.h"

enum gateway_limit {
	GATEWAYS = 16, /* of one egress address, at most */
};
SCHEMA(enum gateway_limit, gateway_limit);

struct egress_addr { /* the gateways of an egress address: a pod's node picks one for each
			connection */
	__u32 count;
	__be32 node[GATEWAYS]; /* tunnel endpoints */
};

struct gateway_key {
	struct addr address; /* egress address */
	__be32 node;	     /* tunnel endpoint */
};

struct gateway {      /* what a node is to an egress address */
	__u8 sends;   /* in the set: what its own pods send leaves here, without a tunnel */
	__u8 accepts; /* takes and gives packets of the address, also for a while after it has left
		       */
	__u8 pad[2];
};

struct block_key {
	struct addr address;
	__u32 number;
};

struct block { /* who may translate into a port block */
	__be32 node;
	__u32 epoch;
};

/* egress address -> gateways. Agent, from table egress. */
MAP_HASH(mg_egress_addr, struct addr, struct egress_addr, 4096, BPF_F_NO_PREALLOC);
/* (egress address, node) -> what it is to it. Agent, from table egress: before the set has it. */
MAP_HASH(mg_gateway, struct gateway_key, struct gateway, 65536, BPF_F_NO_PREALLOC);
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

/* look up: what a node is to an egress address; NULL: nothing */
static __always_inline struct gateway *gateway_find(const struct addr *address, __be32 node)
{
	struct gateway_key key = {.address = *address, .node = node};

	return bpf_map_lookup_elem(&mg_gateway, &key);
}

static __always_inline bool gateway_accepts(const struct addr *address, __be32 node)
{
	struct gateway *gateway = gateway_find(address, node);

	return gateway && gateway->accepts;
}

/* decide: whether the packet is for an egress address of which this node is a gateway */
static __always_inline bool is_gateway(const struct packet *packet)
{
	return gateway_accepts(&packet->destination, cfg.node);
}

/* Pieces of a datagram meet at one gateway, where the first one leaves the ports to the others. */
static __always_inline __u32 gateway_hash(const struct packet *packet)
{
	if (packet->fragment != FRAGMENT_NONE)
		return flow_hash(&packet->flow, packet->fragment_id);
	return flow_hash(&packet->flow, flow_ports(&packet->flow));
}

/* decide: the gateway that a packet of this node's pods leaves by; 0: none. Nobody remembers it:
 * the same connection finds the same one as long as the set stays. A node that is one itself needs
 * no tunnel.
 */
static __framed __be32 gateway_pick(const struct packet *packet, const struct addr *address)
{
	struct egress_addr *set = bpf_map_lookup_elem(&mg_egress_addr, address);
	if (!set || !set->count)
		return 0;
	if (set->count == 1)
		return set->node[0];
	struct gateway *own = gateway_find(address, cfg.node);
	if (own && own->sends)
		return cfg.node;
	__u32 at = gateway_hash(packet) % set->count;
	return at < GATEWAYS ? set->node[at] : 0;
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
		way->kind.end = END_SOURCE;
	int reason = hop_way(ctx, packet, way, &as->address, &packet->destination);
	if (reason == DROP_FRAGMENTATION_NEEDED && !is_unfragmentable(packet))
		return 0;
	if (reason)
		return reason;
	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (way->kind.act == ACT_HOP) /* or the stack does it */
		way->kind.ttl = packet->ttl - 1;
	return 0;
}

/* decide: the way out, when this node is a gateway of the source; else the drop as it was */
static __framed int tunnel_egress(hook_t *ctx, struct packet *packet, struct way *way, int reason)
{
	if (!gateway_accepts(&packet->source, cfg.node)) {
		bool egress = bpf_map_lookup_elem(&mg_egress_addr, &packet->source);
		return egress ? DROP_NO_EGRESS_GATEWAY : reason;
	}
	reason = pod_identity(packet);
	if (reason)
		return reason;
	struct block *block = block_find(&packet->source, packet->flow.source_port);
	way->as.address = packet->source;
	way->as.owner = block ? block->node : 0;
	return gateway_way(ctx, packet, way);
}
