/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Overlay packets that arrive: is it one, may this sender send it, and off with its headers. */
#pragma once
#include "addresses.h"
#include "overlay.h"
#include "zone.h"

/* Newer than Debian's headers (6.3). */
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)

enum tunnel {
	TUNNEL_NONE,   /* no overlay packet to this node */
	TUNNEL_KERNEL, /* one for the kernel's device, then mg_from_vxlan */
	TUNNEL_OURS,
};

struct tunnel_headers {
	struct overlay overlay;
	__u8 inner[10]; /* as much of the inner packet as says what is in it */
} __attribute__((packed));

/* decide: what BPF cannot open. Inner UDP that GRO or GSO has put together; and pieces of an inner
 * datagram: those whose outer packet came in pieces too are put together by the kernel, so all go
 * its way, or one would overtake the first.
 */
static __always_inline bool is_for_kernel(hook_t *ctx, const struct tunnel_headers *headers)
{
	bool v4 = headers->overlay.eth.h_proto == bpf_htons(ETH_P_IP);
	__u8 protocol = headers->inner[v4 ? 9 : 6];

	if (hook_segment(ctx) && protocol == IPPROTO_UDP)
		return true;
	if (v4)
		return (headers->inner[6] & 0x3f) | headers->inner[7];
	return protocol == IPPROTO_FRAGMENT;
}

/* decide: the first piece of an overlay packet, whose words the kernel keeps for the whole */
static __always_inline bool is_first_of_ours(hook_t *ctx, const struct packet *packet)
{
	__be16 port = 0;

	return packet->fragment == FRAGMENT_FIRST &&
	       !hook_load(ctx, packet->l4 + 2, &port, sizeof(port)) && port == own_port();
}

/* decide: is it an overlay packet; sender and identity of one of ours. Returns 0 or a drop reason.
 */
static __always_inline int tunnel_find(hook_t *ctx, struct packet *packet, __be16 *inner,
				       enum tunnel *tunnel)
{
	__be16 port = 0;

	*tunnel = TUNNEL_NONE;
	if (packet->family != 4 || packet->destination.w[3] != cfg.node ||
	    packet->protocol != IPPROTO_UDP)
		return 0;
	if (packet->fragment != FRAGMENT_NONE) {
		if (!cfg.beside || is_first_of_ours(ctx, packet))
			hook_vouch(ctx); /* the kernel's device gets the whole of it */
		return 0;
	}
	const struct tunnel_headers *headers = ip_header(ctx, sizeof(*headers));
	bool options = packet->l4 != L3_OFFSET + sizeof(struct ipv4_header);
	if (headers && !options)
		port = headers->overlay.destination_port;
	else
		hook_load(ctx, packet->l4 + 2, &port, sizeof(port));
	if (port != own_port())
		return 0;
	if (options)
		return DROP_IP_OPTIONS;
	if (!headers || packet->end < L3_OFFSET + sizeof(*headers) ||
	    headers->overlay.flags != bpf_htonl(VXLAN_VALID_VNI))
		return DROP_INVALID_PACKET;
	*tunnel = is_for_kernel(ctx, headers) ? TUNNEL_KERNEL : TUNNEL_OURS;
	if (*tunnel == TUNNEL_KERNEL)
		hook_vouch(ctx);
	*inner = headers->overlay.eth.h_proto;
	packet->point = POINT_FROM_OVERLAY;
	packet->sender = headers->overlay.ip.source;
	packet->vni = bpf_ntohl(headers->overlay.vni) >> 8;
	packet->identity = packet->vni;
	return 0;
}

/* act: the outer headers away; the packet is to be parsed again. Returns 0 or a drop reason. */
static __always_inline int overlay_pop(hook_t *ctx, __be16 inner, struct packet *packet)
{
	__u64 family = inner == bpf_htons(ETH_P_IP) ? DECAP_L3_IPV4 : DECAP_L3_IPV6;

	if (inner != bpf_htons(ETH_P_IP) && inner != bpf_htons(ETH_P_IPV6))
		return DROP_UNSUPPORTED_L3_PROTOCOL;
	if (hook_room(ctx, -OVERLAY_SIZE, BPF_F_ADJ_ROOM_FIXED_GSO | family))
		return DROP_INVALID_PACKET; /* the inner packet is shorter than its header */
	packet_store(ctx, offsetof(struct ethhdr, h_proto), &inner, sizeof(inner));
	__be32 sender = packet->sender;
	__u32 vni = packet->vni;
	__u16 cluster = packet->cluster;
	__u8 hosts = packet->hosts;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->sender = sender;
	packet->vni = vni;
	packet->identity = vni;
	packet->cluster = cluster;
	packet->hosts = hosts;
	packet->point = POINT_FROM_OVERLAY;
	packet_in_zone(packet, zone_find(ZONE_OF_IDENTITY, packet->identity));
	return 0;
}

/* decide: a sender that we know, and whom it may reach. Returns 0 or a drop reason. */
static __always_inline int tunnel_sender(struct packet *packet)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &packet->sender);

	if (packet->sender == cfg.node)
		return DROP_OWN_SENDER;
	if (!node)
		return DROP_UNKNOWN_SENDER;
	packet->cluster = node->cluster;
	packet->hosts = node->cluster == cfg.cluster || node->flags & NODE_HOSTS;
	return 0;
}

/* act: open an overlay packet of a known sender. Returns 0 or a drop reason. */
static __always_inline int tunnel_open(hook_t *ctx, struct packet *packet, __be16 inner)
{
	int reason = tunnel_sender(packet);

	return reason ? reason : overlay_pop(ctx, inner, packet);
}

/* decide: to be told of, and noted with what BPF cannot take away (hook_is_noted) */
static __always_inline bool is_to_be_shut(hook_t *ctx, const struct packet *packet)
{
	return packet->vni && hook_is_noted(ctx);
}

/* act: the outer headers again. The kernel's device opens the packet without what was noted of it,
 * and mg_from_vxlan decides the same. Returns a verdict or a drop reason.
 */
static __framed int tunnel_shut(hook_t *ctx, const struct packet *packet)
{
	__u32 spare = packet->family == 6 ? 4 : 0; /* taken off to make it an IPv4 packet again */
	__be16 inner = hook_protocol(ctx);

	if (hook_room(ctx, OVERLAY_SIZE + spare, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	if (spare && hook_room(ctx, -(__s32)spare, BPF_F_ADJ_ROOM_FIXED_GSO | DECAP_L3_IPV4))
		return DROP_WRITE_ERROR;
	struct overlay_ends ends = {packet->sender, cfg.node, own_port()};
	hook_vouch(ctx);
	return overlay_write(ctx, packet, ends, packet->vni, inner) ?: HOOK_PASS;
}
