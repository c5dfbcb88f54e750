/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The host side of every pod's veth: mg_from_pod takes what the pod sends, mg_to_pod sees what the
 * host itself sends to it. Packets of others enter a pod by redirect, not through here. Beside
 * another CNI, which may redirect as well, mg_to_pod stands behind the pod's own device instead.
 */
#include "hook_tc.h"
#include "parse.h"
#include "egress.h"
#include "guard.h"
#include "leave.h"
#include "neighbour.h"
#include "ours.h"
#include "sid.h"
#include "order.h"
#include "stack.h"
#include "unserved.h"
#include "vrf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* decide: hosts and the world are reached by the stack, and whoever has had a packet of a
 * connection gets all. What nobody has answered may be for an address of the mesh whose row came
 * later.
 */
static __always_inline bool is_stacks(const struct address *to, const struct connection *connection,
				      enum direction direction)
{
	if (!to->kind || to->kind == ADDRESS_NODE)
		return true;
	return has_stack(connection, direction) &&
	       (direction == DIRECTION_REPLY || connection->flags & CONNECTION_REPLIED);
}

/* decide: to a destination that needs no translation. Returns 0, NOT_OURS or a drop reason. */
static __always_inline int plain_way(hook_t *ctx, struct packet *packet, struct way *way,
				     const struct address *to)
{
	if (cfg.beside && (packet->stack || !is_others(to)))
		return NOT_OURS;
	if (packet->stack)
		return 0; /* hosts, the world, and what the stack has had before */
	if (to->node != cfg.node)
		return overlay_way(ctx, packet, way, to->node, packet->identity);
	struct pod *pod = pod_find(destination_key(packet));
	return pod ? pod_way(way, pod) : 0;
}

/* look up: an IPv4 source route; RFC 791: a router on the way would send the packet elsewhere */
__global bool has_source_route(hook_t *ctx, const struct packet *packet)
{
	__u32 at = L3_OFFSET + sizeof(struct ipv4_header);
	struct {
		__u8 type;
		__u8 length;
	} option;

	if (!packet)
		return false;
	for (int i = 0; i < IPV4_OPTIONS_MAX && at + 1 < packet->l4; i++) {
		if (hook_load(ctx, at, &option, sizeof(option)) || !option.type)
			return false;
		if (option.type == IPV4_LOOSE_ROUTE || option.type == IPV4_STRICT_ROUTE)
			return true;
		at += option.type == IPV4_NO_OPTION || !option.length ? 1 : option.length;
	}
	return false;
}

/* decide: what the pod behind this device may say. Returns 0 or a drop reason. */
static __always_inline int pod_check(hook_t *ctx, struct packet *packet, const struct pod *pod)
{
	int reason = pod_source(packet, hook_device(ctx), pod);

	if (reason)
		return reason;
	bool options = packet->family == 4 && packet->l4 > L3_OFFSET + sizeof(struct ipv4_header);
	if (options && has_source_route(ctx, packet))
		return DROP_IP_OPTIONS;
	/* A pod is no router: its errors are about packets to itself, not about others'
	 * connections. */
	if (is_icmp_error(packet) && !addr_equal(&packet->flow.source, &packet->source))
		return DROP_INVALID_SOURCE_IP;
	if (is_router_talk(packet))
		return DROP_ROUTER_TALK;
	if (is_to_overlay(packet))
		return DROP_OVERLAY_PORT;
	if (is_to_domain(packet))
		return DROP_SRV6_DOMAIN;
	fragment_record(packet);
	packet->identity = pod->identity;
	return 0;
}

/* Returns 0, NOT_OURS or a drop reason. */
static __always_inline int from_pod(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection;
	struct address to;
	struct pod *pod;

	/* 1. parse; beside another CNI only what is ours */
	int reason = cfg.beside ? ours_from_pod(ctx, packet) : 0;
	if (reason)
		return reason;
	if (hook_protocol(ctx) == bpf_htons(ETH_P_ARP))
		return arp_check(ctx, packet);
	reason = parse_network(ctx, packet);
	if (reason)
		return reason;
	pod = pod_speaking(packet, hook_device(ctx));
	reason = parse_transport(ctx, packet);
	if (packet->order && pod && pod->ifindex == hook_device(ctx) && !cfg.beside)
		return order_way(ctx, packet, way);
	if (reason)
		return reason;

	/* 2. cache: a packet like one before goes its way (to come) */

	/* 3. the source is the pod's own; what stays on its link is the stack's */
	if (packet->icmp == ICMP_NEIGHBOUR) {
		reason = neighbour_check(ctx, packet);
		if (reason || is_link_scope(&packet->destination))
			return reason;
	}
	reason = pod_check(ctx, packet, pod);
	if (reason || is_link_scope(&packet->destination))
		return reason;
	if (packet->order && !cfg.beside)
		return order_way(ctx, packet, way);

	/* 4. VRF: a network of its own */
	if (pod->vrf) {
		reason = vrf_from_pod(ctx, packet, way, pod);
		if (reason != NOT_VRF)
			return reason;
	}

	/* 5. service: its address becomes a backend's (to come) */

	/* 6. connection */
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	bool translated = connection && direction == DIRECTION_ORIGINAL && is_egress(connection);

	/* 7. policy, source side (to come) */

	/* 8. a translated connection keeps its translation, whatever the egress policy says by now
	 */
	if (translated && translation_holds(packet, connection, &way->as)) {
		reason = nat_see(connection, packet);
		return reason ? reason : egress_way(ctx, packet, way);
	}
	if (translated && packet->tcp_flags & TCP_RST)
		nat_see(connection, packet); /* it goes nowhere, but is sent only once */

	/* 9. egress policy: never for the mesh itself, nor for replies that the pod may give to
	 * what others opened; what is none of these is the pod's own
	 */
	address_find(destination_key(packet), &to);
	if (!to.kind && (!connection || translated) && is_service_address(destination_key(packet)))
		return unserved(way);
	if (!to.kind)
		packet->far = learned_identity(destination_key(packet));
	bool replies = direction == DIRECTION_REPLY;
	if (!to.kind && !(replies && egress_exempt(packet, connection))) {
		const struct egress *egress = egress_find(pod->egress_class, &packet->destination,
							  packet->family, packet->far);
		if (egress && !is_proxied(destination_key(packet))) {
			reason = egress_open(ctx, packet, way, egress, replies ? NULL : connection);
			if (!reason)
				return egress_way(ctx, packet, way);
			if (!connection || replies)
				egress_refused(packet);
			if (cfg.beside && reason == DROP_MID_STREAM && !connection) {
				connection = adopt(packet);
				direction = DIRECTION_ORIGINAL;
			}
			reset_from_pod(packet, way, connection, direction, pod);
			return reason;
		}
	}
	if (translated && !may_untranslate(packet, &to)) {
		reset_from_pod(packet, way, connection, direction, pod);
		return DROP_NO_EGRESS_GATEWAY;
	}

	/* 10. plain; RFC 4861 knows a neighbour by its hop limit, which a redirect keeps */
	if (packet->icmp == ICMP_NEIGHBOUR &&
	    (to.kind == ADDRESS_POD || pod_find(destination_key(packet))))
		return DROP_INVALID_PACKET;
	if (!host_by_overlay(packet, &to, connection, direction))
		packet->stack = is_stacks(&to, connection, direction);
	reason = connection_plain(ctx, packet, connection, direction, to.identity);
	return reason ? reason : plain_way(ctx, packet, way, &to);
}

SEC("tc")
int mg_from_pod(hook_t *ctx)
{
	struct slot *slot = enter(ctx, SLOT_FROM_POD, POINT_FROM_POD);

	disown(ctx);
	if (!slot)
		return no_slot();
	slot->way.as.probe = 0;
	int reason = from_pod(ctx, &slot->packet, &slot->way);
	if (slot->way.as.probe)
		probe_copy(ctx, slot->way.as.probe);
	return leave(ctx, slot, reason);
}

/* Returns 0, NOT_OURS or a drop reason. */
static __always_inline int to_pod(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection;
	struct address from;

	if (cfg.beside)
		return ours_to_pod(ctx, packet);

	/* 1. parse; what the host sends in other protocols is its own affair */
	if (parse(ctx, packet) || packet->icmp == ICMP_NEIGHBOUR)
		return 0;

	/* 2. connection */
	packet->stack = 1;
	address_find(source_key(packet), &from);
	packet->identity = is_own_host(&from) ? IDENTITY_HOST : from.identity;
	struct pod *pod = pod_find(destination_key(packet));
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	if (pod && packet->identity == IDENTITY_WORLD &&
	    reset_to_pod(packet, way, connection, direction, pod))
		return DROP_CONNECTION_ENDED;
	return connection_plain(ctx, packet, connection, direction,
				pod ? pod->identity : IDENTITY_UNKNOWN);
}

SEC("tc")
int mg_to_pod(hook_t *ctx)
{
	if (cfg.beside && hook_is_vouched(ctx))
		return HOOK_NEXT;
	if (!cfg.beside && hook_mark(ctx) == RESET_MARK)
		return HOOK_PASS;
	struct slot *slot = enter(ctx, SLOT_TO_POD, POINT_TO_POD);

	return slot ? leave(ctx, slot, to_pod(ctx, &slot->packet, &slot->way)) : no_slot();
}
