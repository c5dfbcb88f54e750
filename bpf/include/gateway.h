/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A gateway of egress addresses knows rows only, no flows: outward it checks that the sender owns
 * the block of the source port, inward the block says which node to tunnel to (deliver.h).
 */
#pragma once
#include "addresses.h"
#include "fragment.h"
#include "forward.h"
#include "guard.h"
#include "layer2.h"
#include "live.h"
#include "nat.h"

enum gateway_limit {
	GATEWAYS = 16, /* of one egress address, at most */
};

enum {
	NONE_LIVES = 0xffffffff, /* as a gateway: the address has some, and all are down */
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
	__u32 seen; /* written by BPF: second (now_s) of the last packet after it has left */
};

enum block_limit {
	BLOCK_SIZE_SHIFT = 16, /* above it: ports of each block of the address, 0: as configured */
};
SCHEMA(enum block_limit, block_limit);

/* Blocks of addresses whose pool says how large they are have it in their number, so a row is never
 * taken for one of another size.
 */
struct block_key {
	struct addr address;
	__u32 number; /* and above BLOCK_SIZE_SHIFT its size */
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

/* egress address -> ports of each of its blocks, where its pool says so. Agent, from table block
 * size.
 */
MAP_HASH(mg_block_size, struct addr, __u32, 4096, BPF_F_NO_PREALLOC);

static __always_inline __u32 block_size_of(__u32 number)
{
	__u32 size = number >> BLOCK_SIZE_SHIFT;

	return size ? size : cfg.block_size;
}

/* The number of the block of a port, for blocks of a size of their own; 0: as configured. */
static __always_inline __u32 block_number(__be16 port, __u32 size)
{
	__u32 ports = size ? size : cfg.block_size;

	if (!ports)
		return 0;
	return size << BLOCK_SIZE_SHIFT | (bpf_ntohs(port) - 1024) / ports;
}

/* look up: of an address with blocks of a size of its own */
static __framed struct block *block_sized(const struct addr *address, __be16 port)
{
	struct block_key key = {.address = *address};
	__u32 *size = bpf_map_lookup_elem(&mg_block_size, address);

	if (!size || !*size)
		return NULL;
	key.number = block_number(port, *size);
	return bpf_map_lookup_elem(&mg_block, &key);
}

/* look up: who may use the port; NULL: nobody */
static __always_inline struct block *block_find(const struct addr *address, __be16 port)
{
	if (bpf_ntohs(port) < 1024 || !cfg.block_size)
		return NULL;
	struct block_key key = {.address = *address, .number = block_number(port, 0)};
	struct block *block = bpf_map_lookup_elem(&mg_block, &key);
	return block ? block : block_sized(address, port);
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

	if (!gateway || !gateway->accepts)
		return false;
	if (!gateway->sends && gateway->seen != now_s())
		gateway->seen = now_s();
	return true;
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

/* decide: the rank of a gateway for a packet whose own one is down; 0: it is down, too. Of its own,
 * so that the verifier walks it once.
 */
__global __u64 gateway_weight(__be32 node, __u32 hash, __u64 now)
{
	__u64 worth = live_worth(live_find(node), now);
	__u32 mixed = (hash ^ node) * 0x9e3779b1u;

	return worth ? worth << 32 | (mixed ^ mixed >> 16) : 0;
}

/* decide: the gateway for a packet whose own one is down; NONE_LIVES. Each packet of a connection
 * finds the same one (rendezvous hashing), and packets of others stay where they are.
 */
__global __be32 gateway_spare(const struct egress_addr *set, __u32 hash, __u64 now)
{
	__be32 spare = NONE_LIVES;
	__u64 best = 0;

	for (__u32 i = 0; set && i < GATEWAYS && i < set->count; i++) {
		__u64 weight = gateway_weight(set->node[i], hash, now);

		if (weight && weight >= best) {
			best = weight;
			spare = set->node[i];
		}
	}
	return spare;
}

/* decide: the gateway that a packet of this node's pods leaves by; 0: the address has none;
 * NONE_LIVES. Nobody remembers it: the same connection finds the same one as long as the set stays,
 * and all of it live. A node that is one itself needs no tunnel. Sets as->probe.
 */
__global __be32 gateway_pick(const struct packet *packet, struct translation *as)
{
	if (!packet || !as)
		return 0;
	struct egress_addr *set = bpf_map_lookup_elem(&mg_egress_addr, &as->address);
	if (!set || !set->count)
		return 0;
	if (set->count > 1) {
		struct gateway *own = gateway_find(&as->address, cfg.node);
		if (own && own->sends)
			return cfg.node;
	}
	__u32 hash = gateway_hash(packet), at = hash % set->count;
	if (at >= GATEWAYS)
		return 0;
	__be32 node = set->node[at];
	struct gw_live *live = node == cfg.node ? NULL : live_find(node);
	if (!live)
		return node;
	__u64 now = live_now(live);
	bool up = live_judge(live, now);
	if (live_due(live, now))
		as->probe = node;
	if (up)
		return node;
	node = gateway_spare(set, hash, now);
	live = live_find(node);
	if (live && !as->probe && live_due(live, now))
		as->probe = node;
	return node;
}

/* decide: the gateway where all pieces of a datagram from outside meet, if it is another one that
 * lives; 0: it is this one. Routers may have spread them.
 */
static __framed __be32 gateway_meets(const struct packet *packet)
{
	struct egress_addr *set = bpf_map_lookup_elem(&mg_egress_addr, &packet->destination);

	if (!set || set->count < 2)
		return 0;
	__u32 at = flow_hash(&packet->flow, packet->fragment_id) % set->count;
	if (at >= GATEWAYS || set->node[at] == cfg.node)
		return 0;
	struct gw_live *live = live_find(set->node[at]);
	return live && !live_judge(live, live_now(live)) ? 0 : set->node[at];
}

/* decide: at the gateway, after the checks, by the routes of the egress address. What is too big
 * for them and may be fragmented is left to the stack. What is for an egress address of this
 * gateway comes back from outside (RFC 4787 REQ-9). Returns 0 or a drop reason.
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
	if ((packet->sender ? packet->turns : is_gateway(packet)) && packet->ttl > 1) {
		way->kind.act = ACT_AGAIN;
		way->ifindex = cfg.uplink;
		way->kind.ttl = packet->ttl - 1;
		return 0;
	}
	way->kind.virtual = layer2_speaks(&as->address);
	int reason = hop_way(ctx, packet, way, &as->address, &packet->destination);
	if (reason == DROP_FRAGMENTATION_NEEDED && !is_unfragmentable(packet))
		return 0;
	if (reason)
		return reason;
	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (way->kind.act != ACT_HOP) /* the stack does it */
		return 0;
	way->kind.ttl = packet->ttl - 1;
	way->kind.known = !packet->overlay_port;
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
	overlay_port_note(packet);
	struct block *block = block_find(&packet->source, packet->flow.source_port);
	way->as.address = packet->source;
	way->as.owner = block ? block->node : 0;
	return gateway_way(ctx, packet, way);
}
