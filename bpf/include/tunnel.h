/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Overlay packets that arrive: is it one, may this sender send it, and off with its headers. */
#pragma once
#include "addresses.h"
#include "overlay.h"

/* Newer than Debian's headers (6.3). */
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)

/* decide: a whole overlay packet to this node */
static __always_inline bool is_overlay(struct __sk_buff *ctx, const struct packet *packet)
{
	__be16 port;

	return packet->family == 4 && packet->destination.w[3] == cfg.node &&
	       packet->protocol == IPPROTO_UDP && packet->fragment == FRAGMENT_NONE &&
	       !bytes_at(ctx, packet->l4 + 2, &port, sizeof(port)) && port == bpf_htons(VXLAN_PORT);
}

/* decide: inner UDP that GRO or GSO has put together */
static __always_inline bool is_udp_aggregate(struct __sk_buff *ctx)
{
	__u32 l3 = L3_OFFSET + OVERLAY_SIZE;
	__be16 inner = 0;
	__u8 protocol = 0;

	if (!ctx->gso_size)
		return false;
	bpf_skb_load_bytes(ctx, l3 - sizeof(inner), &inner, sizeof(inner));
	bpf_skb_load_bytes(ctx, l3 + (inner == bpf_htons(ETH_P_IP) ? 9 : 6), &protocol, 1);
	return protocol == IPPROTO_UDP;
}

/* decide: a piece of an inner datagram. Those whose outer packet came in pieces too are put
 * together by the kernel, so all go its way: one that did not would overtake the first.
 */
static __always_inline bool is_inner_fragment(struct __sk_buff *ctx)
{
	__u32 l3 = L3_OFFSET + OVERLAY_SIZE;
	__be16 inner = 0, fragment = 0;
	__u8 next = 0;

	bytes_at(ctx, l3 - sizeof(inner), &inner, sizeof(inner));
	if (inner == bpf_htons(ETH_P_IP)) {
		bytes_at(ctx, l3 + 6, &fragment, sizeof(fragment));
		return fragment & bpf_htons(0x3fff);
	}
	bytes_at(ctx, l3 + 6, &next, 1);
	return next == IPPROTO_FRAGMENT;
}

/* look up: sender, identity and inner protocol of an overlay packet. Returns 0 or a drop reason. */
static __framed int overlay_parse(struct __sk_buff *ctx, struct packet *packet, __be16 *inner)
{
	struct overlay overlay;

	if (packet->l4 != L3_OFFSET + sizeof(struct ipv4_header))
		return DROP_IP_OPTIONS;
	if (packet->end < L3_OFFSET + OVERLAY_SIZE && !ctx->gso_size)
		return DROP_INVALID_PACKET;
	if (bytes_at(ctx, L3_OFFSET, &overlay, sizeof(overlay)) ||
	    overlay.flags != bpf_htonl(VXLAN_VALID_VNI))
		return DROP_INVALID_PACKET;
	packet->sender = overlay.ip.source;
	packet->identity = bpf_ntohl(overlay.vni) >> 8;
	*inner = overlay.eth.h_proto;
	return 0;
}

/* act: the outer headers away; the packet is to be parsed again. Returns 0 or a drop reason. */
static __always_inline int overlay_pop(struct __sk_buff *ctx, __be16 inner, struct packet *packet)
{
	__u64 family = inner == bpf_htons(ETH_P_IP) ? DECAP_L3_IPV4 : DECAP_L3_IPV6;

	if (inner != bpf_htons(ETH_P_IP) && inner != bpf_htons(ETH_P_IPV6))
		return DROP_UNSUPPORTED_L3_PROTOCOL;
	if (bpf_skb_adjust_room(ctx, -OVERLAY_SIZE, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | family))
		return DROP_INVALID_PACKET; /* the inner packet is shorter than its header */
	bpf_skb_store_bytes(ctx, offsetof(struct ethhdr, h_proto), &inner, sizeof(inner), 0);
	*packet = (struct packet){
	    .sender = packet->sender, .identity = packet->identity, .point = POINT_FROM_OVERLAY};
	return 0;
}

/* decide: a sender that we know, an identity that it may give. Returns 0 or a drop reason. */
static __framed int tunnel_sender(const struct packet *packet)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &packet->sender);

	if (!node)
		return DROP_UNKNOWN_SENDER;
	if (packet->identity == IDENTITY_WORLD)
		return 0; /* the way back from a gateway: tunnel_deliver */
	return identity_allowed(packet->identity, node->cluster);
}

/* act: open an overlay packet of a known sender. Returns 0 or a drop reason. */
static __always_inline int tunnel_open(struct __sk_buff *ctx, struct packet *packet)
{
	__be16 inner = 0;

	packet->point = POINT_FROM_OVERLAY;
	int reason = overlay_parse(ctx, packet, &inner);
	if (!reason)
		reason = tunnel_sender(packet);
	return reason ? reason : overlay_pop(ctx, inner, packet);
}
