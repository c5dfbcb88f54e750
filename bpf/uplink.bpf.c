/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The uplink: mg_from_uplink takes overlay packets, replies to egress addresses and packets to
 * pods, and leaves the rest to the host. mg_from_vxlan sees what the kernel's VXLAN device had to
 * decapsulate, and decides the same. mg_to_vxlan sees what the host's routes send into the overlay,
 * mg_to_uplink whatever leaves.
 */
#include "hook_tc.h"
#include "bfd_packet.h"
#include "parse.h"
#include "tunnel.h"
#include "deliver.h"
#include "direct.h"
#include "echo.h"
#include "guard.h"
#include "leak.h"
#include "leave.h"
#include "masquerade.h"
#include "ours.h"
#include "endpoint.h"
#include "order.h"
#include "stack.h"
#include "unserved.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PACKET_HOST 0

/* decide: why a packet is refused whose source is not its sender's: what comes from nobody of the
 * mesh and says "world" would be a reply of egress
 */
static __always_inline int source_refusal(const struct packet *packet, const struct address *from)
{
	return !from->kind && packet->identity == IDENTITY_WORLD ? DROP_NOT_FROM_GATEWAY
								 : DROP_INVALID_SOURCE_IP;
}

/* decide: a decapsulated packet of a known sender. Returns 0 or a drop reason. */
static __framed int tunnel_deliver(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct address from;

	/* 1. parse */
	int reason = parse(ctx, packet);
	if (reason)
		return is_to_be_met(packet) ? order_way(ctx, packet, way) : reason;

	/* 2. to an egress address: replies, from a gateway */
	struct pod *pod = pod_find(destination_key(packet));
	if (!pod && is_way_back(packet))
		return tunnel_reply(ctx, packet, way);

	/* 3. from a pod or host behind the sender; or egress, and this is the gateway */
	address_find(source_key(packet), &from);
	if (!is_senders(packet, &from))
		return tunnel_egress(ctx, packet, way, source_refusal(packet, &from));
	reason = tunnel_identity(packet, &from);
	if (reason)
		return reason;
	fragment_record(packet);

	/* 4. to a pod, or to this host */
	return pod ? deliver(ctx, packet, way, pod) : host_way(ctx, packet, way);
}

/* decide: a native packet to a pod of this node. Returns 0 or a drop reason. */
static __framed int from_outside(hook_t *ctx, struct packet *packet, struct way *way,
				 const struct pod *pod)
{
	struct address from;

	address_find(source_key(packet), &from);
	if (from.kind && from.kind != ADDRESS_NODE)
		return DROP_INVALID_SOURCE_IP;
	packet->identity = from.kind == ADDRESS_NODE ? IDENTITY_REMOTE_NODE : IDENTITY_WORLD;
	if (!from.kind)
		packet->far = learned_identity(source_key(packet));
	int reason = parse_transport(ctx, packet);
	return reason ? reason : deliver(ctx, packet, way, pod);
}

/* decide: a packet that SRv6 has brought into a VRF. Returns 0 or a drop reason. */
static __always_inline int from_vrf(hook_t *ctx, struct packet *packet, struct way *way)
{
	int reason = parse_transport(ctx, packet);

	return reason ? reason : vrf_deliver(ctx, packet, way);
}

/* Returns 0, NOT_OURS or a drop reason. */
static __always_inline int from_uplink(hook_t *ctx, struct packet *packet, struct way *way)
{
	const struct note *note = cfg.xdp ? hook_noted(ctx) : NULL;
	enum tunnel tunnel;
	__be16 inner = 0;

	/* 1. parse what says whose packet it is */
	if (note) {
		packet_in_zone(packet, note->vrf);
		packet->identity = note->identity;
	}
	int reason = parse_network(ctx, packet);
	if (note)
		return reason ? reason : from_vrf(ctx, packet, way);
	if (reason && may_be_arp(ctx))
		return layer2_arp(ctx, packet, way);
	if (reason && cfg.beside)
		return NOT_OURS;
	if (reason == DROP_UNSUPPORTED_L3_PROTOCOL)
		return 0;
	if (reason)
		return reason;

	/* 2. BFD of a router: whatever else this node does, its sessions go on */
	if (may_be_bfd(ctx, packet)) {
		reason = bfd_way(ctx, packet, way);
		if (reason != NO_BFD)
			return reason;
	}

	/* 3. SRv6; who asks for an egress address on layer 2 */
	if (packet->family == 6) {
		if (may_be_ndp(packet) && layer2_ndp(ctx, packet, way))
			return 0;
		reason = sid_way(ctx, packet, way);
		if (reason == IN_VRF)
			return from_vrf(ctx, packet, way);
		if (reason != NOT_SID)
			return reason;
		path_told(ctx, packet);
	}

	/* 4. the overlay */
	reason = tunnel_find(ctx, packet, &inner, &tunnel);
	if (tunnel == TUNNEL_KERNEL)
		return 0;
	if (!reason && tunnel == TUNNEL_OURS)
		reason = tunnel_open(ctx, packet, inner);
	if (reason)
		return reason == DROP_UNSUPPORTED_L3_PROTOCOL ? echo_way(ctx, packet, way) : reason;
	if (tunnel == TUNNEL_OURS) {
		reason = tunnel_deliver(ctx, packet, way);
		return reason ? reason : turned_way(ctx, packet, way);
	}

	/* 5. an egress address that is ours */
	if (is_gateway(packet)) {
		if (!layer2_takes(ctx, &packet->destination))
			return 0;
		reason = parse_transport(ctx, packet);
		return fragment_way(ctx, packet, way, reason);
	}

	/* 6. an echo by the direct path */
	if (packet->protocol == IPPROTO_UDP && direct_asked(ctx, packet, way))
		return 0;

	/* 7. a pod of this node, or one behind the node's address; the rest is the host's, and
	 * beside another CNI all of it
	 */
	if (cfg.beside)
		return NOT_OURS;
	struct pod *pod = pod_find(destination_key(packet));
	if (pod)
		return from_outside(ctx, packet, way, pod);
	return masquerades() ? masquerade_in(ctx, packet, way) : 0;
}

SEC("tc")
int mg_from_uplink(hook_t *ctx)
{
	struct slot *slot = enter(ctx, SLOT_FROM_UPLINK, POINT_FROM_UPLINK);

	disown(ctx);
	return slot ? leave(ctx, slot, from_uplink(ctx, &slot->packet, &slot->way)) : no_slot();
}

/* decide: what the device says nothing of came from ACT_HOST; of an outer IPv6 packet, which the
 * overlay never sends, it says it in another way. Returns 0 or a drop reason.
 */
static __framed int untold(hook_t *ctx, struct packet *packet, long result)
{
	struct bpf_tunnel_key key = {};

	if (result != -HOOK_EPROTO)
		return 0;
	if (!bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(&packet->source, key.remote_ipv6, sizeof(packet->source));
	return DROP_OVERLAY_PORT;
}

/* Returns 0 or a drop reason. */
static __always_inline int from_vxlan(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct bpf_tunnel_key key = {};

	/* 1. who sent it */
	bpf_skb_change_type(ctx, PACKET_HOST); /* the inner MAC addresses mean nothing */
	long result = bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0);
	if (result)
		return untold(ctx, packet, result);
	bool vouched = hook_is_vouched(ctx);
	packet->sender = bpf_htonl(key.remote_ipv4);
	packet->identity = key.tunnel_id;
	packet_in_zone(packet, zone_find(ZONE_OF_IDENTITY, packet->identity));

	/* 2. as if it came from the uplink; what came from elsewhere has the sender that it likes
	 */
	int reason = vouched ? tunnel_sender(packet) : DROP_OVERLAY_PORT;
	if (!reason)
		reason = tunnel_deliver(ctx, packet, way);
	return reason ? reason : turned_way(ctx, packet, way);
}

SEC("tc")
int mg_from_vxlan(hook_t *ctx)
{
	struct slot *slot = enter(ctx, SLOT_FROM_VXLAN, POINT_FROM_OVERLAY);

	return slot ? leave(ctx, slot, from_vxlan(ctx, &slot->packet, &slot->way)) : HOOK_DROP;
}

/* act: vouch for what ACT_DEVICE gave to the device; false: it comes from the host's routes */
static __framed bool is_for_device(hook_t *ctx)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0))
		return false;
	/* to where it goes: the kernel says it as it says it of what has come */
	if (takes_overlay(bpf_htonl(key.local_ipv4), own_port()))
		hook_vouch(ctx);
	else
		hook_vouch_moved(ctx);
	return true;
}

/* Returns 0 or a drop reason. */
static __always_inline int to_vxlan(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct address from, to;

	/* 1. a copy that is to become a probe; what has its tunnel; what the kernel has gathered */
	if (hook_mark(ctx) == PROBE_MARK)
		return probe_way(way, hook_word(ctx));
	if (hook_mark(ctx) == LAYER2_CLAIM_MARK)
		return claim_way(ctx, packet, way, hook_word(ctx));
	if (is_for_device(ctx))
		return 0;
	if (hook_mark(ctx) == MARK_GATHER)
		return ordered_way(ctx, packet, way);

	/* 2. parse; the device drops what concerns its link: it has none */
	int reason = parse_network(ctx, packet);
	if (reason == DROP_UNSUPPORTED_L3_PROTOCOL)
		return echo_ask(ctx, way);
	if (!reason && is_link_scope(&packet->destination))
		return 0;
	if (!reason)
		reason = parse_transport(ctx, packet);
	if (reason)
		return reason;
	if (is_link_scope(&packet->source) || packet->icmp == ICMP_NEIGHBOUR)
		return 0;

	/* 3. the source is a pod's of this node or the host's own: the others take nothing else */
	struct pod *pod = cfg.beside ? NULL : pod_find(source_key(packet));
	packet->identity = pod ? pod->identity : IDENTITY_HOST;
	address_find(source_key(packet), &from);
	if (!pod && !is_own_host(&from))
		return DROP_INVALID_SOURCE_IP;

	/* 4. to a pod of another node */
	address_find(destination_key(packet), &to);
	if (!to.kind || to.kind == ADDRESS_NODE || to.node == cfg.node)
		return DROP_UNKNOWN_L3_TARGET;
	if (pod)
		return stack_to_node(ctx, packet, way, &to);
	return stack_to_overlay(ctx, packet, way, to.node, IDENTITY_REMOTE_NODE);
}

SEC("tc")
int mg_to_vxlan(hook_t *ctx)
{
	struct slot *slot = enter(ctx, SLOT_TO_VXLAN, POINT_FROM_HOST);

	return slot ? leave(ctx, slot, to_vxlan(ctx, &slot->packet, &slot->way)) : HOOK_DROP;
}

/* Returns 0 or a drop reason. */
static __always_inline int to_uplink(hook_t *ctx, struct packet *packet, struct way *way)
{
	/* 1. parse; what is no IP is none of ours, and what the kernel has gathered goes elsewhere
	 */
	if (parse_network(ctx, packet))
		return 0;
	if (hook_mark(ctx) == MARK_GATHER)
		return DROP_FRAGMENT_NOT_FOUND;

	/* 2. the overlay's port is the overlay's */
	if (may_be_tunnel(ctx) && tunnel_forged(ctx, packet))
		return DROP_OVERLAY_PORT;

	/* 3. the address of a service leads nowhere */
	int reason = unserved_out(ctx, packet, way);
	if (reason)
		return reason;

	/* 4. pods show the world the address of their node */
	reason = masquerades() ? masquerade_out(ctx, packet, way) : 0;

	/* 5. what covered pods send to covered networks should never come here */
	if (!reason)
		leak_watch(ctx, packet, way);
	return reason;
}

SEC("tc")
int mg_to_uplink(hook_t *ctx)
{
	if (hook_is_virtual(ctx))
		layer2_source(ctx);
	bool moved = hook_is_moved(ctx);

	if (moved)
		overlay_move(ctx);
	if (moved || hook_is_vouched(ctx))
		return HOOK_NEXT;
	if (!may_be_tunnel(ctx) && !may_be_masqueraded(ctx) && !may_be_unserved(ctx) &&
	    !may_leak(ctx) && hook_mark(ctx) != MARK_GATHER)
		return HOOK_NEXT;
	struct slot *slot = enter(ctx, SLOT_TO_UPLINK, POINT_TO_UPLINK);
	int verdict =
	    slot ? leave(ctx, slot, to_uplink(ctx, &slot->packet, &slot->way)) : no_slot();

	return verdict == HOOK_PASS ? HOOK_NEXT : verdict;
}
