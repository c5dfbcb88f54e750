/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Egress policy: a covered pod's packets to covered destinations leave with the egress address or
 * not at all. The pod's node translates (nat.h) and tunnels to the gateway (gateway.h).
 */
#pragma once
#include "direct.h"
#include "exempt.h"
#include "gateway.h"
#include "overlay.h"
#include "port.h"
#include "service.h"

struct egress_key { /* LPM; prefix = 32 + bits of addr */
	__u32 prefix;
	__u32 egress_class;
	struct addr addr;
};

enum egress_action {
	EGRESS_TRANSLATE = 1,
	EGRESS_EXCLUDED = 2,	     /* falls through to plain forwarding */
	EGRESS_NO_GATEWAY = 3,	     /* drop 194 */
	EGRESS_NO_ADDRESS = 4,	     /* drop 204 */
	EGRESS_NO_ROOM = 5,	     /* drop 226 */
	EGRESS_NOT_ACKNOWLEDGED = 6, /* drop 246 */
};
SCHEMA(enum egress_action, egress_action);

enum egress_class {
	EGRESS_UNCOVERED = 0,
	EGRESS_CLASS_NO_ROOM =
	    0x7fffffff, /* all but the mesh: what its rows cover nobody knows here */
};
SCHEMA(enum egress_class, egress_class);

struct egress_label_key { /* the same for destinations by the labels that BGP has given them */
	__u32 egress_class;
	__u32 identity;
	__u32 family; /* 4 or 6 */
};

struct egress { /* what happens to a covered pod's packet to a covered destination */
	struct addr address;
	__u32 action;  /* enum egress_action */
	__u32 family;  /* 4 or 6: of the row's CIDR, so that ::/0 catches no IPv4; 0: any */
	__u32 runs;    /* of ports that a pod may have (port.h); 0: no quota of its own */
	__u32 rate;    /* new mappings of a pod in a second; 0: no quota */
	__u32 binding; /* enum binding_kind: whether a pod's port has one port for all remotes */
	__u32 timers;  /* their number (timers.h); 0: those of all connections */
};

/* (egress class, destination) -> what to do. Agent, from table egress. */
MAP_LPM(mg_egress, struct egress_key, struct egress, 65536);
/* (egress class, identity of a learned network) -> what to do. Agent, from table egress label. */
MAP_HASH(mg_egress_label, struct egress_label_key, struct egress, 65536, BPF_F_NO_PREALLOC);

/* egress address that was evicted or denied -> the gateways that it had, none after their rest.
 * Agent, from table ended.
 */
MAP_HASH(mg_ended, struct addr, struct egress_addr, 4096, BPF_F_NO_PREALLOC);

const volatile struct egress egress_no_room = {.action = EGRESS_NO_ROOM};

/* look up: the row of a learned network with these labels, if any */
static __always_inline struct egress *egress_labelled(__u32 class, __u32 identity, __u8 family)
{
	struct egress_label_key key = {
	    .egress_class = class, .identity = identity, .family = family};

	return identity ? bpf_map_lookup_elem(&mg_egress_label, &key) : NULL;
}

/* look up: the row that covers packets to this destination, if any. Networks that a policy excludes
 * come first, then labels, of which `far` is the identity, then networks.
 */
static __framed const struct egress *egress_find(__u32 class, const struct addr *destination,
						 __u8 family, __u32 far)
{
	struct egress_key key = {.prefix = 32 + 128, .egress_class = class, .addr = *destination};

	if (class == EGRESS_UNCOVERED)
		return NULL;
	if (class == EGRESS_CLASS_NO_ROOM)
		return (const struct egress *)&egress_no_room;
	struct egress *egress = bpf_map_lookup_elem(&mg_egress, &key);
	APART(egress);
	if (egress && egress->action == EGRESS_EXCLUDED)
		return NULL;
	struct egress *labelled = egress_labelled(class, far, family);
	if (labelled)
		return labelled;
	return egress && (!egress->family || egress->family == family) ? egress : NULL;
}

/* look up: by whom, and through whom */
static __always_inline void translation_find(const struct packet *packet, struct translation *as)
{
	struct block *block = block_find(&as->address, as->port);

	as->via = gateway_pick(packet, as);
	as->owner = block ? block->node : 0;
}

/* decide: the address was evicted or denied */
static __always_inline bool address_has_ended(const struct addr *address)
{
	return bpf_map_lookup_elem(&mg_ended, address) &&
	       !bpf_map_lookup_elem(&mg_egress_addr, address);
}

/* decide: the address was cut, or the port is another node's by now: what goes on with them reaches
 * nobody, and a sender that never pauses would keep its connection for ever. An address without a
 * gateway is no end, unless the pod opens the connection anew: its packets are dropped, and go on
 * when one is back.
 */
static __always_inline bool translation_ended(const struct packet *packet,
					      const struct connection *connection,
					      struct translation *as)
{
	as->address = connection->translated;
	as->port = connection->translated_port;
	translation_find(packet, as);
	if (!as->via && (is_syn(packet) || address_has_ended(&as->address)))
		return true;
	return as->owner && as->owner != cfg.node;
}

/* decide: a translated connection goes on as it is. What nobody has answered may be for an address
 * of the mesh or a service whose row came later, and its sender need not ever pause: it is asked
 * once a second.
 */
static __framed bool translation_holds(const struct packet *packet, struct connection *connection,
				       struct translation *as)
{
	struct address to;

	if (translation_ended(packet, connection, as))
		return false;
	if (packet->protocol == IPPROTO_UDP && connection->seen != now_s())
		declared_use(packet);
	if (is_touch(packet, connection, false) && !nat_keep(packet, connection))
		return false;
	if (connection->flags & CONNECTION_REPLIED || connection->seen == now_s())
		return true;
	address_find(destination_key(packet), &to);
	return !to.kind && !is_service_address(destination_key(packet));
}

/* decide: what a covered pod opened never shows the world the pod's address; the mesh may see it,
 * and a SYN that no policy covers opens a connection of its own. ICMP errors open nothing.
 */
static __always_inline bool may_untranslate(const struct packet *packet, const struct address *to)
{
	return is_syn(packet) || (to->kind && !is_icmp_error(packet));
}

/* decide: what can be translated, and by whom. Returns 0 or a drop reason. */
static __always_inline int egress_refuse(const struct packet *packet, const struct egress *egress)
{
	bool tcp = packet->protocol == IPPROTO_TCP;

	if (egress->action == EGRESS_NO_ROOM)
		return DROP_EGRESS_NO_ROOM;
	if (egress->action == EGRESS_NO_GATEWAY)
		return DROP_NO_EGRESS_GATEWAY;
	if (egress->action == EGRESS_NOT_ACKNOWLEDGED)
		return DROP_NOT_ACKNOWLEDGED;
	if (egress->action != EGRESS_TRANSLATE ||
	    addr_is_v4(&egress->address) != (packet->family == 4))
		return DROP_NO_EGRESS_IP;
	if (is_icmp_error(packet))
		return DROP_NO_NAT_MAPPING;
	if (!tcp && packet->protocol != IPPROTO_UDP && packet->icmp != ICMP_ECHO)
		return DROP_NAT_UNSUPPORTED_PROTOCOL;
	return tcp && !is_syn(packet) ? DROP_MID_STREAM : 0;
}

/* decide: an address that cannot be used yet, or not now: attempts would only use up its ports.
 * Returns 0 or a drop reason.
 */
static __always_inline int address_unusable(const struct packet *packet, struct translation *as)
{
	__be32 via = gateway_pick(packet, as);
	if (!via || via == NONE_LIVES)
		return DROP_NO_EGRESS_GATEWAY;
	if (via != cfg.node && !bpf_map_lookup_elem(&mg_node, &via))
		return DROP_NO_TUNNEL_ENDPOINT;
	return 0;
}

/* decide: on the pod's node, translated, to the gateway of the address or straight out. Returns 0
 * or a drop reason.
 */
static __framed int egress_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	if (!way->as.via || way->as.via == NONE_LIVES)
		return DROP_NO_EGRESS_GATEWAY;
	if (way->as.via == cfg.node || is_direct(&way->as.address))
		return gateway_way(ctx, packet, way);
	way->kind.end = END_SOURCE;
	return overlay_way(ctx, packet, way, way->as.via, packet->identity);
}

/* decide: the sender is told of what is used up */
static __always_inline bool is_used_up(int reason)
{
	return reason == DROP_NO_NAT_MAPPING || reason == DROP_NO_RUN ||
	       reason == DROP_PORT_QUOTA || reason == DROP_RATE_LIMITED;
}

/* act: a SYN that goes nowhere is noted all the same. Else a forged SYN on this tuple would open
 * it, and the pod's SYN-ACK, by which two open at once, would accept that.
 */
__global int egress_refused(const struct packet *packet)
{
	struct connection connection;

	if (!packet || !is_syn(packet) || !connection_fits(&packet->flow))
		return 0;
	connection_new(packet, IDENTITY_UNKNOWN, &connection);
	connection_make(&packet->flow, &connection);
	return 0;
}

/* act: the first packet of a connection that must be translated gets its port; what is used up the
 * sender is told. Returns 0 or a drop reason.
 */
static __framed int egress_open(hook_t *ctx, struct packet *packet, struct way *way,
				const struct egress *egress, const struct connection *previous)
{
	int reason = egress_refuse(packet, egress);
	way->as.address = egress->address;
	if (!reason)
		reason = address_unusable(packet, &way->as);
	if (reason)
		return reason;
	way->as.runs = egress->runs;
	way->as.rate = egress->rate;
	way->as.binding = egress->binding;
	way->as.timers = egress->timers;
	if (!previous && !connection_fits(&packet->flow))
		reason = DROP_CT_MAP_INSERTION_FAILED;
	if (!reason)
		reason = port_take(&packet->flow, previous, &way->as);
	if (!reason)
		reason = nat_open(ctx, packet, previous, &way->as);
	if (!reason)
		declared_use(packet);
	way->kind.tell = is_used_up(reason);
	if (!reason)
		translation_find(packet, &way->as);
	return reason;
}
