/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The uplink: mg_from_uplink takes overlay packets, replies to egress addresses and packets to
 * pods, and leaves the rest to the host. mg_from_vxlan sees what the kernel's VXLAN device had to
 * decapsulate, and decides the same.
 */
#include "parse.h"
#include "tunnel.h"
#include "deliver.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PACKET_HOST 0

/* act: the way back of egress, which only the gateway of the address may send */
static __always_inline int tunnel_reply(struct __sk_buff *ctx, struct packet *packet)
{
	struct egress_addr *egress = bpf_map_lookup_elem(&mg_egress_addr, &packet->destination);

	if (!egress || egress->gateway != packet->sender)
		return drop(ctx, packet, DROP_NOT_FROM_GATEWAY);
	fragment_record(packet);
	return egress_reply(ctx, packet);
}

/* act: the way out, when the source is an egress address of ours; else the drop as it was */
static __framed int tunnel_egress(struct __sk_buff *ctx, struct packet *packet, int reason)
{
	struct egress_addr *egress = bpf_map_lookup_elem(&mg_egress_addr, &packet->source);
	struct translation as = {.address = packet->source, .port = packet->flow.source_port};

	if (!egress)
		return drop(ctx, packet, reason);
	if (egress->gateway != cfg.node)
		return drop(ctx, packet, DROP_NO_EGRESS_GATEWAY);
	struct block *block = block_find(&as.address, as.port);
	as.owner = block ? block->node : 0;
	return gateway_send(ctx, packet, &as);
}

/* act: a decapsulated packet of a known sender */
static __framed int tunnel_deliver(struct __sk_buff *ctx, struct packet *packet)
{
	/* 1. parse */
	int reason = parse(ctx, packet);
	if (reason)
		return drop(ctx, packet, reason);

	/* 2. replies, from a gateway */
	if (packet->identity == IDENTITY_WORLD)
		return tunnel_reply(ctx, packet);

	/* 3. from a pod or host behind the sender; or egress, and this is the gateway */
	reason = tunnel_source(packet);
	if (reason)
		return tunnel_egress(ctx, packet, reason);
	fragment_record(packet);

	/* 4. to a pod */
	struct pod *pod = pod_find(&packet->destination);
	if (!pod)
		return drop(ctx, packet, DROP_UNKNOWN_L3_TARGET);
	return deliver(ctx, packet, pod);
}

/* act: a native packet to a pod of this node */
static __framed int from_outside(struct __sk_buff *ctx, struct packet *packet,
				 const struct pod *pod)
{
	struct address from;

	address_find(&packet->source, &from);
	if (from.kind == ADDRESS_POD)
		return drop(ctx, packet, DROP_INVALID_SOURCE_IP);
	packet->identity = from.kind == ADDRESS_NODE ? IDENTITY_REMOTE_NODE : IDENTITY_WORLD;
	int reason = parse_transport(ctx, packet);
	return reason ? drop(ctx, packet, reason) : deliver(ctx, packet, pod);
}

static __always_inline int leave(struct __sk_buff *ctx, const struct packet *packet, int verdict)
{
	return verdict == HANDOVER ? hand_over(ctx, packet, HANDOVER_FROM_UPLINK) : verdict;
}

SEC("tc")
int mg_from_uplink(struct __sk_buff *ctx)
{
	struct packet packet = {.point = POINT_FROM_UPLINK};
	enum tunnel tunnel;
	__be16 inner = 0;
	int verdict = TC_ACT_OK;

	/* 1. parse what says whose packet it is */
	int reason = parse_network(ctx, &packet);
	if (reason == DROP_UNSUPPORTED_L3_PROTOCOL)
		return TC_ACT_OK;
	if (reason)
		return drop(ctx, &packet, reason);

	/* 2. the overlay */
	reason = tunnel_find(ctx, &packet, &inner, &tunnel);
	if (tunnel == TUNNEL_KERNEL)
		return TC_ACT_OK;
	if (!reason && tunnel == TUNNEL_OURS)
		reason = tunnel_open(ctx, &packet, inner);
	if (reason)
		return drop(ctx, &packet, reason);
	if (tunnel == TUNNEL_OURS)
		return leave(ctx, &packet, tunnel_deliver(ctx, &packet));

	/* 3. an egress address that is ours */
	struct egress_addr *egress = bpf_map_lookup_elem(&mg_egress_addr, &packet.destination);
	if (egress && egress->gateway == cfg.node) {
		reason = parse_transport(ctx, &packet);
		verdict = reason ? drop(ctx, &packet, reason) : gateway_return(ctx, &packet);
		return leave(ctx, &packet, verdict);
	}

	/* 4. a pod of this node; the rest is the host's */
	struct pod *pod = pod_find(&packet.destination);
	if (pod)
		verdict = from_outside(ctx, &packet, pod);
	return leave(ctx, &packet, verdict);
}

SEC("tc")
int mg_from_vxlan(struct __sk_buff *ctx)
{
	struct packet packet = {.point = POINT_FROM_OVERLAY};
	struct bpf_tunnel_key key = {};

	/* 1. who sent it */
	if (bpf_skb_get_tunnel_key(ctx, &key, sizeof(key), 0))
		return drop(ctx, &packet, DROP_UNKNOWN_SENDER);
	packet.sender = bpf_htonl(key.remote_ipv4);
	packet.identity = key.tunnel_id;
	bpf_skb_change_type(ctx, PACKET_HOST); /* the inner MAC addresses mean nothing */

	/* 2. as if it came from the uplink */
	int reason = tunnel_sender(&packet);
	if (reason)
		return drop(ctx, &packet, reason);
	return leave(ctx, &packet, tunnel_deliver(ctx, &packet));
}
