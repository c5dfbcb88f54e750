/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Masquerade: what a pod sends to the world by the uplink gets this node's address, behind the
 * kernel's routes and netfilter. Ports come out of a range of the node's own (port.h), mappings are
 * those of egress. What comes for a mapping goes on to the pod through the stack; what comes for
 * none is the host's. A connection is noted here, where it is translated, and not at the pod.
 */
#pragma once
#include "deliver.h"
#include "egress.h"
#include "parse.h"
#include "stack.h"

/* networks of the world that see pods by their own addresses -> 1. Agent, from the configuration.
 */
MAP_LPM(mg_unmasked, struct cidr_key, __u32, 4096);

/* decide: whether anything is looked up here; beside another CNI that one decides */
static __always_inline bool masquerades(void)
{
	return cfg.masquerade && !cfg.beside;
}

/* look up: a packet of a pod of this node, or an ICMP message, which may be about one; nearly
 * nothing else leaves by the stack of a node
 */
static __always_inline bool may_be_masqueraded(hook_t *ctx)
{
	struct zoned_addr source = {};

	if (!masquerades())
		return false;
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		struct ipv4_header *v4 = packet_at(ctx, L3_OFFSET, sizeof(*v4));
		if (!v4 || v4->protocol == IPPROTO_ICMP)
			return true;
		source.w[2] = bpf_htonl(0xffff);
		source.w[3] = v4->source;
		return pod_find(&source);
	}
	struct ipv6_header *v6 = packet_at(ctx, L3_OFFSET, sizeof(*v6));
	if (!v6 || hook_protocol(ctx) != bpf_htons(ETH_P_IPV6))
		return hook_protocol(ctx) == bpf_htons(ETH_P_IPV6);
	__builtin_memcpy(source.w, v6->source, sizeof(source.w));
	return v6->next == IPPROTO_ICMPV6 || pod_find(&source);
}

/* look up: a network that the configuration leaves out */
static __framed bool is_unmasked(const struct addr *destination)
{
	struct cidr_key key = {.bits = 32 + 128, .addr = *destination};

	return bpf_map_lookup_elem(&mg_unmasked, &key);
}

/* decide: a masqueraded connection goes on as it is, as long as the address is this node's and the
 * port is its own
 */
static __framed bool masquerade_holds(const struct packet *packet, struct connection *connection,
				      struct translation *as)
{
	const struct masquerade *now = masquerade_find(packet->family);

	as->address = connection->translated;
	as->port = connection->translated_port;
	if (now && !addr_equal(&now->address, &connection->translated))
		return false;
	return !is_touch(packet, connection, false) || nat_keep(packet, connection);
}

/* decide: what others have opened, and what has been answered at the pod's own address, leaves as
 * it is
 */
static __always_inline bool is_plain(const struct connection *connection, enum direction direction)
{
	if (direction != DIRECTION_ORIGINAL)
		return direction == DIRECTION_REPLY;
	return !is_translated(connection) && connection->flags & CONNECTION_REPLIED;
}

/* decide: what can be translated. Returns 0 or a drop reason. */
static __always_inline int masquerade_refuse(const struct packet *packet)
{
	bool tcp = packet->protocol == IPPROTO_TCP;

	if (is_icmp_error(packet))
		return DROP_NO_NAT_MAPPING;
	if (!tcp && packet->protocol != IPPROTO_UDP && packet->icmp != ICMP_ECHO)
		return DROP_NAT_UNSUPPORTED_PROTOCOL;
	return tcp && !is_syn(packet) ? DROP_MID_STREAM : 0;
}

/* act: a connection gets its port; what is used up the sender is told. Returns 0 or a drop reason.
 */
static __framed int masquerade_open(hook_t *ctx, struct packet *packet, struct way *way,
				    const struct connection *previous)
{
	int reason = masquerade_refuse(packet);

	if (!reason && !previous && !connection_fits(&packet->flow))
		reason = DROP_CT_MAP_INSERTION_FAILED;
	if (reason)
		return reason;
	way->as.binding = BINDING_NONE;
	way->as.timers = 0;
	if (range_take(&packet->flow, previous, &way->as)) {
		way->kind.tell = 1;
		return DROP_MASQUERADE_FULL;
	}
	way->kind.end = END_SOURCE;
	return nat_open(ctx, packet, previous, &way->as);
}

/* act: a connection leaves as it is from now on. Returns 0 or a drop reason. */
static __framed int masquerade_end(hook_t *ctx, const struct packet *packet,
				   const struct connection *connection)
{
	connection_untranslate(&packet->flow, connection);
	return connection_open(ctx, packet, IDENTITY_WORLD, true);
}

/* decide: a pod's connection that has no translation, or none any more. Returns 0 or a drop reason.
 */
static __always_inline int masquerade_way(hook_t *ctx, struct packet *packet, struct way *way,
					  const struct connection *connection,
					  const struct address *to)
{
	const struct masquerade *now = masquerade_find(packet->family);

	if (to->kind == ADDRESS_POD && to->node != cfg.node)
		return stack_to_node(ctx, packet, way, to);
	if (now && now->opens && !to->kind && !is_unmasked(&packet->destination)) {
		way->as.address = now->address;
		return masquerade_open(ctx, packet, way, connection);
	}
	return connection && is_masqueraded(connection) ? masquerade_end(ctx, packet, connection)
							: 0;
}

/* decide: an error of this host about a masqueraded connection quotes what the world has sent, so
 * it needs the same translation; all else of the host is its own affair. Returns 0 or a drop
 * reason.
 */
static __always_inline int masquerade_error(const struct packet *packet, struct way *way)
{
	struct connection *connection = connection_get(&packet->flow);

	if (!connection || !is_masqueraded(connection))
		return 0;
	way->as.address = connection->translated;
	way->as.port = connection->translated_port;
	way->kind.end = END_SOURCE;
	return 0;
}

/* decide: a packet of a pod, or an ICMP message, that leaves by the uplink. Returns 0 or a drop
 * reason.
 */
static __always_inline int masquerade_out(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection;
	struct pod *pod = pod_find(source_key(packet));
	struct address to;
	int reason = parse_transport(ctx, packet);

	if (!pod)
		return reason || !is_icmp_error(packet) ? 0 : masquerade_error(packet, way);
	packet->identity = pod->identity;
	if (reason)
		return reason;
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	address_find(destination_key(packet), &to);
	if (!to.kind)
		packet->far = learned_identity(destination_key(packet));
	/* a proxy has chosen a host: its answers come by the overlay, without the proxy's address
	 */
	if (host_by_overlay(packet, &to, connection, direction))
		return stack_to_node(ctx, packet, way, &to);
	if (direction == DIRECTION_ORIGINAL && is_masqueraded(connection) &&
	    masquerade_holds(packet, connection, &way->as)) {
		way->kind.end = END_SOURCE;
		return nat_see(connection, packet);
	}
	return is_plain(connection, direction) ? 0
					       : masquerade_way(ctx, packet, way, connection, &to);
}

/* decide: what is for no mapping is the host's; a port that rests with its mapping is nobody's.
 * Returns 0 or a drop reason.
 */
static __always_inline int no_answer(const struct packet *packet, int reason)
{
	return reason == DROP_NO_NAT_MAPPING && !mapping_get(&packet->flow) ? 0 : reason;
}

/* decide: an answer to a pod behind this node's address goes to the pod through the stack, as what
 * it answers came. Returns 0 or a drop reason.
 */
static __framed int masquerade_in(hook_t *ctx, struct packet *packet, struct way *way)
{
	const struct masquerade *masquerade = masquerade_find(packet->family);
	struct zoned_addr pod;

	if (!masquerade || !addr_equal(&masquerade->address, &packet->destination))
		return 0;
	if (parse_transport(ctx, packet) || !range_holds(masquerade, packet->flow.destination_port))
		return 0;
	packet->identity = IDENTITY_WORLD;
	int reason = nat_reply(packet, way, &pod);
	if (reason)
		return no_answer(packet, reason);
	if (!pod_find(&pod))
		return DROP_UNKNOWN_L3_TARGET;
	way->kind.end = END_DESTINATION;
	return 0;
}
