/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How every packet leaves a program: the only place that acts on a decision. */
#pragma once
#include "forward.h"
#include "icmp.h"
#include "overlay.h"
#include "rewrite.h"

/* act: what the way says. Returns a verdict or a drop reason. */
__global int go(hook_t *ctx, struct packet *packet, struct way *way)
{
	int reason = 0;

	if (!packet || !way)
		return HOOK_DROP;
	if (way->end && is_icmp_error(packet))
		reason = rewrite_embedded(ctx, packet, way->end, &way->as.address, way->as.port);
	if (!reason && way->end)
		reason = rewrite(ctx, packet, way->end, &way->as.address, way->as.port);
	if (!reason && way->ttl)
		reason = rewrite_ttl(ctx, packet, way->ttl);
	if (reason)
		return reason;
	if (way->act == ACT_NODE)
		return overlay_send(ctx, packet, way);
	if (way->act == ACT_POD)
		return icmp_enter(ctx, way);
	if (way->act == ACT_HOP)
		return forward_hop(ctx, way);
	return way->act == ACT_DEVICE ? overlay_kernel(ctx, way) : HOOK_PASS;
}

/* act: the end of every packet's way through a program. A drop that its sender is told of leaves,
 * too, as the ICMP error. Returns the verdict.
 */
static __always_inline int leave(hook_t *ctx, struct slot *slot, int reason)
{
	struct packet *packet = &slot->packet;
	struct way *way = &slot->way;

	if (reason && !icmp_tells(way, reason))
		return drop(ctx, packet, reason);
	if (reason && !drop_with_icmp(ctx, packet, way, reason))
		return HOOK_DROP;
	int outcome = go(ctx, packet, way);
	return outcome < DROP_FIRST ? outcome : drop(ctx, packet, outcome);
}
