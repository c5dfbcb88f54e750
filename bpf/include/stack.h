/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Netfilter sees both directions of a connection, or neither: a rule that drops what is `ct state
 * invalid`, or that translates, needs both. A packet that goes up to the stack, or comes from it,
 * marks its connection (packet->stack becomes CONNECTION_STACK). From then on all packets of the
 * connection go by the stack, none by redirect.
 */
#pragma once
#include "handover.h"
#include "nat.h"
#include "overlay.h"

/* decide: the stack has had a packet of this connection. Beside another CNI its packets stay ours,
 * or have never been.
 */
static __always_inline bool has_stack(const struct connection *connection, enum direction direction)
{
	return !cfg.beside && connection && direction != DIRECTION_NEW &&
	       connection->flags & CONNECTION_STACK;
}

/* decide: to a host of our cluster by the overlay: as its own packets come; before any has come, as
 * to its pods. Other clusters' hosts take nothing from the overlay, but by contract.
 */
__global bool host_by_overlay(const struct packet *packet, const struct address *to,
			      const struct connection *connection, enum direction direction)
{
	if (!packet || !to || to->kind != ADDRESS_NODE || to->node == cfg.node)
		return false;
	if (to->cluster != cfg.cluster && !(node_flags(to->node) & NODE_HOSTS))
		return false;
	if (connection &&
	    (direction == DIRECTION_REPLY ||
	     (direction == DIRECTION_ORIGINAL && connection->flags & CONNECTION_REPLIED)))
		return connection->flags & CONNECTION_OVERLAY;
	return is_overlay_host(packet, to->node);
}

/* decide: up to the stack, by the device to which the routes back lead, so that a filter of reverse
 * paths agrees: that of the overlay for what came out of it, but for a host's answer to what has
 * left natively
 */
static __always_inline int stack_way(hook_t *ctx, const struct packet *packet, struct way *way)
{
	bool overlay = packet->sender && !packet->answers;

	if (overlay && hook_device(ctx) != cfg.vxlan) /* there the stack takes it */
		way->kind.act = ACT_HOST;
	return 0;
}

/* decide: from the stack to a pod of another node. A packet that came out of the overlay may still
 * be noted with it (hook_is_noted); then the kernel's device takes it. Returns 0 or a drop reason.
 */
static __framed int stack_to_overlay(hook_t *ctx, struct packet *packet, struct way *way,
				     __be32 endpoint, __u32 vni)
{
	int reason = overlay_way(ctx, packet, way, endpoint, vni);

	if (!reason && hook_is_noted(ctx))
		way->kind.act = ACT_DEVICE;
	return reason;
}

/* decide: likewise, in the name of a pod of this node: netfilter has chosen the destination, as a
 * proxy of services does. Returns 0 or a drop reason.
 */
static __always_inline int stack_to_node(hook_t *ctx, struct packet *packet, struct way *way,
					 const struct address *to)
{
	struct connection *connection;
	enum direction direction = connection_find(packet, &connection);

	if (is_handed(packet, connection))
		return HANDOVER;
	packet->stack = 1;
	int reason = connection_plain(ctx, packet, connection, direction, to->identity);
	return reason ? reason : stack_to_overlay(ctx, packet, way, to->node, packet->identity);
}
