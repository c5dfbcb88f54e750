/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How every packet leaves a program: the only place that acts on a decision. */
#pragma once
#include "forward.h"
#include "icmp.h"
#include "overlay.h"
#include "rewrite.h"

/* act: what the way says. Returns a tc verdict or a drop reason. */
__global int go(struct __sk_buff *ctx, struct packet *packet, struct way *way)
{
	int reason = 0;

	if (!packet || !way)
		return TC_ACT_SHOT;
	if (way->end)
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
		return forward_hop(&way->hop);
	return way->act == ACT_DEVICE ? overlay_kernel(ctx, way) : TC_ACT_OK;
}

/* act: the end of every packet's way through a program. A drop that its sender is told of leaves,
 * too, as the ICMP error. Returns the tc verdict.
 */
static __always_inline int leave(struct __sk_buff *ctx, struct slot *slot, int reason)
{
	struct packet *packet = &slot->packet;
	struct way *way = &slot->way;

	if (reason && !icmp_tells(way, reason))
		return drop(ctx, packet, reason);
	if (reason && !drop_with_icmp(ctx, packet, way, reason))
		return TC_ACT_SHOT;
	int outcome = go(ctx, packet, way);
	return outcome < DROP_FIRST ? outcome : drop(ctx, packet, outcome);
}
