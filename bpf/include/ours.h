/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Beside another CNI: whose a packet is. Ours is what an egress policy or an address of another
 * cluster covers, and what uses a translation that it has. All else goes on as it came (NOT_OURS):
 * no drop, no check, no entry and no count of ours, malformed packets and full maps included.
 */
#pragma once
#include "egress.h"
#include "guard.h"
#include "handover.h"
#include "open.h"
#include "parse.h"
#include "service.h"
#include "sid.h"

enum {
	/* What a pod has said in datagrams before it was covered is answered in this time, or not
	 * at all: net.netfilter.nf_conntrack_udp_timeout_stream has 120 s.
	 */
	ADOPTED_S = 128,
};

/* act: nobody has vouched for a packet from elsewhere; what others have written there stays */
static __always_inline void disown(hook_t *ctx)
{
	if (!cfg.beside) {
		hook_disown(ctx);
		return;
	}
	hook_is_vouched(ctx);
	hook_is_moved(ctx);
}

/* decide: without memory for the packet nothing is known about it */
static __always_inline int no_slot(void)
{
	return cfg.beside ? HOOK_NEXT : HOOK_DROP;
}

/* decide: an address of another cluster; a host's only by contract, as it is no pod's peer else */
static __always_inline bool is_others(const struct address *address)
{
	if (!address->kind || address->cluster == cfg.cluster)
		return false;
	return address->kind != ADDRESS_NODE || node_flags(address->node) & NODE_HOSTS;
}

/* decide: an egress policy covers what the pod and this address of the world say to each other. The
 * address of a service is whoever's translates it.
 */
static __framed bool is_covered(const struct packet *packet, const struct pod *pod,
				const struct zoned_addr *far)
{
	return egress_find(pod->egress_class, (const struct addr *)far, packet->family,
			   learned_identity(far)) &&
	       !service_owner(far);
}

/* decide: what the pod sends from its cluster address is for its VRF */
static __framed bool is_for_vrf(const struct packet *packet, const struct pod *pod)
{
	return pod->vrf && is_vrf_destination(pod->vrf, &packet->destination) &&
	       !service_owner(destination_key(packet));
}

/* decide: a translated connection keeps its translation, whatever the egress policy says by now.
 * Returns 0, HANDOVER or NOT_OURS.
 */
static __always_inline int ours_by_connection(hook_t *ctx, struct packet *packet)
{
	if (parse_transport(ctx, packet))
		return NOT_OURS;
	struct connection *connection = connection_get(&packet->flow);
	if (!connection && handover_phase() & (HANDOVER_UNKNOWN | HANDOVER_ALL))
		return HANDOVER; /* it may be there, and is not marked: most are nobody's */
	bool ours = connection && (is_egress(connection) || connection->flags & CONNECTION_HANDED);
	return ours ? 0 : NOT_OURS;
}

/* decide: what NDP says to an address that a policy covers is its link's affair all the same */
static __always_inline bool is_link_talk(hook_t *ctx, struct packet *packet)
{
	return packet->family == 6 && packet->protocol == IPPROTO_ICMPV6 &&
	       !parse_transport(ctx, packet) && packet->icmp == ICMP_NEIGHBOUR;
}

/* decide: what a pod sends. Returns 0, HANDOVER or NOT_OURS. */
static __framed int ours_from_pod(hook_t *ctx, struct packet *packet)
{
	struct address to;

	if (parse_network(ctx, packet))
		return NOT_OURS;
	const struct pod *pod = pod_speaking(packet, hook_device(ctx));
	if (!pod || pod->ifindex != hook_device(ctx) || is_link_scope(&packet->destination))
		return NOT_OURS;
	if (pod->vrf && packet->zone == pod->vrf)
		return is_link_talk(ctx, packet) ? NOT_OURS : 0;
	if (is_to_domain(packet))
		return 0; /* pod_check refuses it: the other CNI would translate its source */
	address_find(destination_key(packet), &to);
	if (is_others(&to) || (!to.kind && (is_covered(packet, pod, destination_key(packet)) ||
					    is_for_vrf(packet, pod))))
		return is_link_talk(ctx, packet) ? NOT_OURS : 0;
	return ours_by_connection(ctx, packet);
}

/* act: TCP that a covered pod had open before it was covered: nobody has an entry. With one, both
 * ends are reset (reset.h). NULL: there is no room.
 */
static __framed struct connection *adopt(const struct packet *packet)
{
	struct connection connection;

	if (!connection_fits(&packet->flow))
		return NULL;
	connection_new(packet, IDENTITY_WORLD, &connection);
	connection_make(&packet->flow, &connection);
	return connection_get(&packet->flow);
}

/* decide: a packet without an entry opens a connection to the pod. TCP that was open before the pod
 * was covered is reset when the pod answers. A datagram may be an answer itself, for a while: noted
 * as a question it would let the pod go on with its own address.
 */
static __always_inline bool is_opening_to(const struct packet *packet, const struct pod *pod)
{
	if (packet->protocol == IPPROTO_TCP)
		return is_syn(packet);
	return packet->icmp == ICMP_ECHO || !pod->since || now_s() - pod->since >= ADOPTED_S;
}

/* decide: what comes into a pod, seen behind its own device; what we deliver is vouched for, and
 * not asked here. Who opens a connection to the pod from a covered network is answered by the pod's
 * own address, so that is noted. Repeated ICMP errors (mesh/datapath/late_errors.py) bring no word
 * along. Returns NOT_OURS, HANDOVER or a drop reason.
 */
static __framed int ours_to_pod(hook_t *ctx, struct packet *packet)
{
	struct connection *connection;
	struct address from;

	if (parse_network(ctx, packet))
		return NOT_OURS;
	struct pod *pod = pod_find(destination_key(packet));
	if (!pod)
		return NOT_OURS;
	address_find(source_key(packet), &from);
	if (from.kind != ADDRESS_NODE && is_others(&from))
		return DROP_INVALID_SOURCE_IP; /* its pods come by the overlay */
	if (from.kind || !is_covered(packet, pod, source_key(packet)) ||
	    parse_transport(ctx, packet) || is_icmp_error(packet) || packet->icmp == ICMP_NEIGHBOUR)
		return NOT_OURS;
	packet->identity = IDENTITY_WORLD;
	enum direction direction = connection_find(packet, &connection);
	if (is_handed(packet, connection))
		return HANDOVER;
	if (!connection && !is_opening_to(packet, pod))
		return NOT_OURS;
	int reason = connection_plain(ctx, packet, connection, direction, pod->identity);
	return reason ? reason : NOT_OURS;
}
