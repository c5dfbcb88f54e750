/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ways into a pod of this node: packets from elsewhere, and replies of translated connections,
 * which a gateway passes to the node that owns the port.
 */
#pragma once
#include "gateway.h"
#include "handover.h"

/* act: from elsewhere into a pod, checks of the sender done */
static __framed int deliver(struct __sk_buff *ctx, struct packet *packet, const struct pod *pod)
{
	struct connection *connection;

	if (packet->icmp == ICMP_NEIGHBOUR) /* the hop limit would still say that it is one */
		return drop(ctx, packet, DROP_INVALID_PACKET);
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	int reason = connection_plain(ctx, packet, connection, direction, pod->identity);
	return reason ? drop(ctx, packet, reason) : forward_pod(ctx, pod);
}

/* look up: the pod behind a reply, its connection noted. Returns 0, a drop reason or HANDOVER. */
static __framed int nat_reply(const struct packet *packet, struct translation *pod)
{
	struct tuple original;
	struct mapping *mapping = mapping_get(&packet->flow);

	if (!mapping)
		return handover_phase() ? HANDOVER : DROP_NO_NAT_MAPPING;
	original_tuple(&original, &packet->flow, mapping);
	struct connection *connection = connection_get(&original);
	if (!connection || !connection_holds(connection, &packet->flow))
		return handover_phase() ? HANDOVER : DROP_NO_NAT_MAPPING;
	if (is_handed(packet, connection))
		return HANDOVER;
	if (connection_see(connection, packet, DIRECTION_REPLY))
		mapping_close(&original, connection, packet->tcp_flags & TCP_RST ? RESET_REST : 0);
	pod->address = original.source;
	pod->port = original.source_port;
	return 0;
}

/* act: on the pod's node, a reply to the egress address */
static __framed int egress_reply(struct __sk_buff *ctx, struct packet *packet)
{
	struct translation to = {};

	int reason = nat_reply(packet, &to);
	if (reason == HANDOVER)
		return HANDOVER;
	if (reason)
		return drop(ctx, packet, reason);
	struct pod *pod = pod_find(&to.address);
	if (!pod)
		return drop(ctx, packet, DROP_UNKNOWN_L3_TARGET);
	reason = rewrite(ctx, packet, END_DESTINATION, &to.address, to.port);
	return reason ? drop(ctx, packet, reason) : forward_pod(ctx, pod);
}

/* act: at the gateway, a packet from outside to the egress address */
static __framed int gateway_return(struct __sk_buff *ctx, struct packet *packet)
{
	struct block *block = block_find(&packet->flow.destination, packet->flow.destination_port);

	packet->identity = IDENTITY_WORLD;
	if (!block)
		return drop(ctx, packet, DROP_BLOCK_NO_OWNER);
	if (block->node == cfg.node)
		return egress_reply(ctx, packet);
	__be32 node = block->node;
	if (!overlay_fits(packet) && is_unfragmentable(packet))
		return drop_too_big(ctx, packet);
	return overlay_send(ctx, packet, node, IDENTITY_WORLD);
}
