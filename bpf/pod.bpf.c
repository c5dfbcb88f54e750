/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The host side of every pod's veth: mg_from_pod takes what the pod sends, mg_to_pod sees what the
 * host itself sends to it. Packets of others enter a pod by redirect, not through here.
 */
#include "parse.h"
#include "egress.h"
#include "handover.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* act: to a destination that needs no translation */
static __always_inline int forward(struct __sk_buff *ctx, struct packet *packet,
				   const struct address *to)
{
	__be32 node = to->node;

	if (to->kind != ADDRESS_POD)
		return TC_ACT_OK; /* hosts, the world: the stack */
	if (node == cfg.node) {
		struct pod *pod = pod_find(&packet->destination);
		return pod ? forward_pod(ctx, pod) : TC_ACT_OK;
	}
	if (!overlay_fits(packet) && is_unfragmentable(packet))
		return drop_too_big(ctx, packet);
	return overlay_send(ctx, packet, node, packet->identity);
}

/* look up: an IPv4 source route; RFC 791: a router on the way would send the packet elsewhere */
static __framed bool has_source_route(struct __sk_buff *ctx, const struct packet *packet)
{
	__u32 at = L3_OFFSET + sizeof(struct ipv4_header);
	struct {
		__u8 type;
		__u8 length;
	} option;

	for (int i = 0; i < IPV4_OPTIONS_MAX && at + 1 < packet->l4; i++) {
		if (bpf_skb_load_bytes(ctx, at, &option, sizeof(option)) || !option.type)
			return false;
		if (option.type == IPV4_LOOSE_ROUTE || option.type == IPV4_STRICT_ROUTE)
			return true;
		at += option.type == IPV4_NO_OPTION || !option.length ? 1 : option.length;
	}
	return false;
}

/* decide: what the pod behind this device may say. Returns 0 or a drop reason. */
static __always_inline int pod_check(struct __sk_buff *ctx, struct packet *packet, struct pod **pod)
{
	int reason = pod_source(packet, ctx->ifindex, pod);

	if (reason)
		return reason;
	bool options = packet->family == 4 && packet->l4 > L3_OFFSET + sizeof(struct ipv4_header);
	if (options && has_source_route(ctx, packet))
		return DROP_IP_OPTIONS;
	/* A pod is no router: its errors are about packets to itself, not about others'
	 * connections. */
	if (is_icmp_error(packet) && !addr_equal(&packet->flow.source, &packet->source))
		return DROP_INVALID_SOURCE_IP;
	fragment_record(packet);
	packet->identity = (*pod)->identity;
	return 0;
}

SEC("tc")
int mg_from_pod(struct __sk_buff *ctx)
{
	struct packet packet = {.point = POINT_FROM_POD};
	struct connection *connection;
	struct translation as;
	struct address to;
	struct pod *pod;

	/* 1. parse */
	if (ctx->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
	int reason = parse(ctx, &packet);
	if (reason)
		return drop(ctx, &packet, reason);

	/* 2. the source is the pod's own; what stays on its link is the stack's */
	if (is_neighbour_talk(&packet))
		return TC_ACT_OK;
	reason = pod_check(ctx, &packet, &pod);
	if (reason)
		return drop(ctx, &packet, reason);
	if (is_link_scope(&packet.destination))
		return TC_ACT_OK;

	/* 3. connection: a translated one keeps its translation, whatever the policy says by now */
	enum direction direction = connection_find(&packet, &connection);
	if (is_handed(&packet, connection))
		return hand_over(ctx, &packet, HANDOVER_FROM_POD);
	bool translated =
	    connection && direction == DIRECTION_ORIGINAL && is_translated(connection);
	if (translated && translation_holds(&packet, connection, &as))
		return egress_go_on(ctx, &packet, connection, &as);
	if (translated && packet.tcp_flags & TCP_RST)
		nat_see(connection, &packet); /* it goes nowhere, but is sent only once */

	/* 4. egress policy: never for the mesh itself, nor for replies of what others opened */
	address_find(&packet.destination, &to);
	if (!to.kind && !(connection && egress_exempt(connection, direction))) {
		struct egress *egress = egress_find(pod->egress, &packet);
		if (egress)
			return egress_open(ctx, &packet, egress, connection, &as);
	}
	if (translated && !may_untranslate(&packet, &to))
		return drop(ctx, &packet, DROP_NO_EGRESS_GATEWAY);

	/* 5. plain; RFC 4861 knows a neighbour by its hop limit, which a redirect keeps */
	if (packet.icmp == ICMP_NEIGHBOUR &&
	    (to.kind == ADDRESS_POD || pod_find(&packet.destination)))
		return drop(ctx, &packet, DROP_INVALID_PACKET);
	reason = connection_plain(ctx, &packet, connection, direction, to.identity);
	return reason ? drop(ctx, &packet, reason) : forward(ctx, &packet, &to);
}

SEC("tc")
int mg_to_pod(struct __sk_buff *ctx)
{
	struct packet packet = {.point = POINT_TO_POD};
	struct connection *connection;
	struct address from;

	/* 1. parse; what the host sends in other protocols is its own affair */
	if (parse(ctx, &packet) || packet.icmp == ICMP_NEIGHBOUR)
		return TC_ACT_OK;

	/* 2. connection */
	address_find(&packet.source, &from);
	packet.identity = from.kind == ADDRESS_NODE ? IDENTITY_HOST : from.identity;
	struct pod *pod = pod_find(&packet.destination);
	enum direction direction = connection_find(&packet, &connection);
	if (is_handed(&packet, connection))
		return hand_over(ctx, &packet, HANDOVER_TO_POD);
	int reason = connection_plain(ctx, &packet, connection, direction,
				      pod ? pod->identity : IDENTITY_UNKNOWN);
	return reason ? drop(ctx, &packet, reason) : TC_ACT_OK;
}
