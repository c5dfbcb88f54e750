/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A gateway of egress addresses knows rows only, no flows: outward it checks that the sender owns
 * the block of the source port, inward the block says which node to tunnel to (deliver.h).
 */
#pragma once
#include "addresses.h"
#include "fragment.h"
#include "icmp.h"
#include "nat.h"

/* look up: who may use the port; NULL: nobody */
static __always_inline struct block *block_find(const struct addr *address, __be16 port)
{
	__u32 number = bpf_ntohs(port);

	if (number < 1024 || !cfg.block_size)
		return NULL;
	struct block_key key = {.address = *address, .number = (number - 1024) / cfg.block_size};
	return bpf_map_lookup_elem(&mg_block, &key);
}

/* act: at the gateway, after the checks, by the routes of the egress address */
__global int gateway_send(struct __sk_buff *ctx, struct packet *packet,
			  const struct translation *as)
{
	struct hop hop = {};

	if (!packet || !as)
		return TC_ACT_SHOT;
	if (as->owner != (packet->sender ? packet->sender : cfg.node))
		return drop(ctx, packet, DROP_BLOCK_NOT_OWNED);
	if (packet->sender)
		fragment_record(packet);
	int reason = hop_find(ctx, packet, &as->address, &packet->destination, &hop);
	bool cut = reason == DROP_FRAGMENTATION_NEEDED && !is_unfragmentable(packet);
	if (reason == DROP_FRAGMENTATION_NEEDED && !cut)
		return drop_too_big(ctx, packet);
	if (reason && !cut)
		return drop(ctx, packet, reason);
	reason = packet->sender ? 0 : rewrite(ctx, packet, END_SOURCE, &as->address, as->port);
	if (reason)
		return drop(ctx, packet, reason);
	if (cut)
		return TC_ACT_OK; /* the stack routes it and fragments */
	reason = rewrite_ttl(ctx, packet);
	return reason ? drop(ctx, packet, reason) : forward_hop(&hop);
}
