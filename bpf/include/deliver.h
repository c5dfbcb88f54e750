/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ways into a pod of this node: packets from elsewhere, and replies of translated connections,
 * which a gateway passes to the node that owns the port.
 */
#pragma once
#include "binding.h"
#include "gateway.h"
#include "handover.h"
#include "order.h"
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
__global int deliver(hook_t *ctx, struct packet *packet, struct way *way, const struct pod *pod)
{
	struct connection *connection;

	if (!packet || !way || !pod ||
	    packet->icmp == ICMP_NEIGHBOUR) /* the hop limit would still say that it is one */
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
static __always_inline int nat_reply(struct packet *packet, struct way *way, struct zoned_addr *pod)
{
	struct translation *to = &way->as;
	struct tuple original;
	struct mapping *mapping = mapping_get(&packet->flow);

	if (!mapping && handover_phase())
		return HANDOVER;
	if (!mapping && bind_answer(packet) && bind_connect(packet))
		mapping = mapping_get(&packet->flow);
	if (!mapping)
		return DROP_NO_NAT_MAPPING;
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
static __framed int egress_reply(struct packet *packet, struct way *way)
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

/* decide: likewise, with what the parse has found: pieces of datagrams go to where they meet, those
 * out of order to the stack. Returns 0 or a drop reason.
 */
static __always_inline int fragment_way(hook_t *ctx, struct packet *packet, struct way *way,
					int reason)
{
	if (reason && !packet->order)
		return reason;
	__be32 meets =
	    packet->fragment != FRAGMENT_NONE && !packet->ordered ? gateway_meets(packet) : 0;
	packet->identity = IDENTITY_WORLD;
	if (meets)
		return overlay_way(ctx, packet, way, meets, IDENTITY_WORLD);
	return packet->order ? order_way(ctx, packet, way) : gateway_return(ctx, packet, way);
}

/* decide: a piece out of order whose datagram another gateway has sent here */
static __always_inline bool is_to_be_met(const struct packet *packet)
{
	return packet->order && packet->identity == IDENTITY_WORLD && is_gateway(packet) &&
	       gateway_accepts(&packet->destination, packet->sender);
}

/* decide: what came out of a tunnel and is for an egress address of this gateway goes to its pod's
 * node, by the kernel's device: BPF puts no packet into a tunnel that has been in one. Returns 0 or
 * a drop reason.
 */
static __always_inline int turned_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	if (way->kind.act != ACT_AGAIN)
		return 0;
	int reason = gateway_return(ctx, packet, way);
	if (way->kind.act == ACT_NODE)
		way->kind.act = ACT_DEVICE;
	return reason;
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

/* decide: to an egress address, the way back; what comes out of one for one turns (gateway_way) */
static __always_inline bool is_way_back(struct packet *packet)
{
	if (!is_egress_address(packet))
		return false;
	packet->turns = packet->identity != IDENTITY_WORLD && is_gateway(packet) &&
			gateway_accepts(&packet->source, cfg.node);
	return !packet->turns;
}

/* decide: the way back of egress, which only a gateway of the address may send; and to a gateway of
 * it the pieces of a datagram that meet there, which are as from outside from here on
 */
static __always_inline int tunnel_reply(hook_t *ctx, struct packet *packet, struct way *way)
{
	if (packet->identity != IDENTITY_WORLD ||
	    !gateway_accepts(&packet->destination, packet->sender))
		return DROP_NOT_FROM_GATEWAY;
	fragment_record(packet);
	if (packet->fragment == FRAGMENT_NONE || !is_gateway(packet))
		return egress_reply(packet, way);
	if (packet->order)
		return order_way(ctx, packet, way);
	way->kind.act = ACT_AGAIN;
	way->ifindex = cfg.uplink;
	return 0;
}
