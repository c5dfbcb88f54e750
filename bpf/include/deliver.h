/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ways into a pod of this node: packets from elsewhere, and replies of translated connections,
 * which a gateway passes to the node that owns the port.
 */
#pragma once
#include "gateway.h"
#include "handover.h"
#include "overlay.h"
#include "reset.h"
#include "stack.h"

/* decide: no such pod; the sender hears of one that is gone. Returns a drop reason. */
static __always_inline int no_pod(const struct packet *packet, struct way *way)
{
	way->kind.tell = is_gone(packet);
	return DROP_UNKNOWN_L3_TARGET;
}

/* decide: from elsewhere into a pod, checks of the sender done. What comes without the overlay goes
 * through the stack, since its answers do. Returns 0 or a drop reason.
 */
static __framed int deliver(hook_t *ctx, struct packet *packet, struct way *way,
			    const struct pod *pod)
{
	struct connection *connection;

	if (packet->icmp == ICMP_NEIGHBOUR) /* the hop limit would still say that it is one */
		return DROP_INVALID_PACKET;
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	if (packet->answers && direction != DIRECTION_REPLY)
		return DROP_INVALID_SOURCE_IP;
	if (packet->identity == IDENTITY_WORLD &&
	    reset_to_pod(packet, way, connection, direction, pod))
		return DROP_CONNECTION_ENDED;
	packet->stack = !packet->sender || has_stack(connection, direction);
	int reason = connection_plain(ctx, packet, connection, direction, pod->identity);
	if (reason)
		return reason;
	return packet->stack ? stack_way(ctx, packet, way) : pod_way(way, pod);
}

/* look up: the pod behind a reply, its connection noted. Returns 0 or a drop reason. */
static __always_inline int nat_reply(const struct packet *packet, struct way *way,
				     struct zoned_addr *pod)
{
	struct translation *to = &way->as;
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
	if (reset_of_reply(packet, way, connection))
		return DROP_CONNECTION_ENDED;
	if (is_touch(packet, connection, true) &&
	    !mapping_keep(&packet->flow, &original, connection, true))
		return DROP_NO_NAT_MAPPING;
	if (connection_see(connection, packet, DIRECTION_REPLY))
		mapping_close(&original, connection, packet->tcp_flags & TCP_RST ? RESET_REST : 0);
	to->address = original.source;
	to->port = original.source_port;
	__builtin_memcpy(pod->w, &original.source, sizeof(pod->w));
	pod->zone = original.zone;
	pod->pad = 0;
	return 0;
}

/* decide: on the pod's node, a reply to the egress address. Returns 0 or a drop reason. */
static __framed int egress_reply(const struct packet *packet, struct way *way)
{
	struct zoned_addr name;
	int reason = nat_reply(packet, way, &name);

	if (reason)
		return reason;
	struct pod *pod = pod_find(&name);
	if (!pod)
		return DROP_UNKNOWN_L3_TARGET;
	way->kind.end = END_DESTINATION;
	return pod_way(way, pod);
}

/* decide: at the gateway, a packet from outside to the egress address */
static __framed int gateway_return(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct block *block = block_find(&packet->flow.destination, packet->flow.destination_port);

	packet->identity = IDENTITY_WORLD;
	if (!block)
		return DROP_BLOCK_NO_OWNER;
	if (block->node == cfg.node)
		return egress_reply(packet, way);
	return overlay_way(ctx, packet, way, block->node, IDENTITY_WORLD);
}

/* decide: an overlay packet for no pod: for this host, by one of the addresses of its Node object,
 * or for somebody gone. What ARP and NDP say stays on a link. Returns 0 or a drop reason.
 */
static __framed int host_way(hook_t *ctx, const struct packet *packet, struct way *way)
{
	struct address to;

	address_find(destination_key(packet), &to);
	if (!is_own_host(&to))
		return no_pod(packet, way);
	if (!packet->hosts)
		return DROP_UNKNOWN_L3_TARGET;
	if (packet->answers)
		return DROP_INVALID_SOURCE_IP;
	if (packet->icmp == ICMP_NEIGHBOUR)
		return DROP_INVALID_PACKET;
	return stack_way(ctx, packet, way);
}

/* decide: for an address that egress policies translate to */
static __always_inline bool is_egress_address(const struct packet *packet)
{
	return gateway_find(&packet->destination, packet->sender) ||
	       bpf_map_lookup_elem(&mg_egress_addr, &packet->destination);
}

/* decide: the way back of egress, which only a gateway of the address may send */
static __always_inline int tunnel_reply(struct packet *packet, struct way *way)
{
	if (packet->identity != IDENTITY_WORLD ||
	    !gateway_accepts(&packet->destination, packet->sender))
		return DROP_NOT_FROM_GATEWAY;
	fragment_record(packet);
	return egress_reply(packet, way);
}
