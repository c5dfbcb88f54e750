/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ARP and NDP for egress addresses on layer 2 (layer2.h), and claims: echoes of the overlay by
 * which an owner shows its epoch to other gateways. The agent sends claims when this node becomes
 * the owner, and again and again. Whenever this node answers, the owner before hears a claim as
 * well: it may have been asked, too, and its agent may hang.
 */
#pragma once
#include "gateway.h"
#include "layer2.h"
#include "overlay.h"
#include "probe.h"

struct arp { /* RFC 826, for IPv4 on Ethernet */
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

enum {
	ARP_ETHERNET = 1,
	ARP_REQUEST = 1,
	ARP_ANSWER = 2,
	NDP_SOLICITATION = 135,
	NDP_ADVERTISEMENT = 136,
	NDP_HOPS = 255,	      /* RFC 4861 7.1.1: it has crossed no router */
	NDP_SOLICITED = 0x40, /* flags: RFC 4861 4.4 */
	NDP_OVERRIDE = 0x20,
	NDP_TARGET_MAC = 2,		/* option: RFC 4861 4.6.1 */
	LAYER2_CLAIM_MARK = 0x6d676c32, /* of a copy that is to become a claim */
};

struct ndp { /* RFC 4861 4.3 and 4.4; of an advertisement with its option */
	__u8 type;
	__u8 code;
	__be16 check;
	__u8 flags;
	__u8 reserved[3];
	struct addr target;
	__u8 option;
	__u8 option_length; /* in 8 bytes */
	__u8 mac[ETH_ALEN];
};

enum {
	NDP_SOLICITATION_SIZE = offsetof(struct ndp, option),
};

struct claim {	   /* what an inner packet of an echo begins with */
	__u8 kind; /* ECHO_CLAIM */
	__u8 pad[7];
	__u32 epoch;
	__u32 pad_again;
	struct addr address;
};
_Static_assert(sizeof(struct claim) <= PROBE_SIZE, "agents send frames of this size");
SCHEMA(struct claim, claim);

/* decide: `packet` asks for an address on layer 2, its destination by now. Returns 0 in any case:
 * where this node does not speak, nobody here does.
 */
static __always_inline int layer2_asked(hook_t *ctx, const struct packet *packet, struct way *way,
					__u8 kind)
{
	struct layer2 *row = layer2_find(&packet->destination);
	if (!row) {
		hook_to_nobody(ctx);
		return 0;
	}
	way->kind.act = kind;
	way->node = row->before;
	__builtin_memcpy(way->mac, row->mac, ETH_ALEN);
	return 0;
}

/* decide: an ARP frame. Returns 0 or NOT_OURS. */
__global int layer2_arp(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct arp *arp = packet ? ip_header(ctx, sizeof(*arp)) : NULL;
	int none = cfg.beside ? NOT_OURS : 0;

	if (!arp || !packet || !way || arp->hardware != bpf_htons(ARP_ETHERNET) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(arp->sender) || arp->operation != bpf_htons(ARP_REQUEST))
		return none;
	addr_from_v4(&packet->source, arp->sender);
	addr_from_v4(&packet->destination, arp->target);
	if (arp->sender == arp->target) /* it says who has it, as another owner would */
		return none;
	if (!bpf_map_lookup_elem(&mg_layer2, &packet->destination))
		return none;
	return layer2_asked(ctx, packet, way, ACT_ARP);
}

static __always_inline bool may_be_arp(hook_t *ctx)
{
	return hook_protocol(ctx) == bpf_htons(ETH_P_ARP) && !hook_tagged(ctx);
}

/* decide: it may ask for an address */
static __always_inline bool may_be_ndp(const struct packet *packet)
{
	return packet->protocol == IPPROTO_ICMPV6 && packet->ttl == NDP_HOPS;
}

/* decide: an ICMPv6 packet from this link. Returns whether it asks for an address on layer 2. */
__global int layer2_ndp(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct ndp ndp;

	if (!packet || !way || packet->l4 + NDP_SOLICITATION_SIZE > packet->end ||
	    packet_load(ctx, packet->l4, &ndp, NDP_SOLICITATION_SIZE) ||
	    ndp.type != NDP_SOLICITATION || ndp.code)
		return false;
	if (!bpf_map_lookup_elem(&mg_layer2, &ndp.target))
		return false;
	packet->destination = ndp.target;
	layer2_asked(ctx, packet, way, ACT_NDP);
	return true;
}

/* act: the frame becomes an answer to who has sent it. Returns 0 when it has. */
static __always_inline long layer2_ethernet(hook_t *ctx, const struct way *way, __u8 *asker)
{
	return packet_load(ctx, ETH_ALEN, asker, ETH_ALEN) ||
	       packet_store(ctx, 0, asker, ETH_ALEN) ||
	       packet_store(ctx, ETH_ALEN, way->mac, ETH_ALEN);
}

/* act: the former owner hears of the epoch, by a copy of the answer */
static __always_inline int layer2_sent(hook_t *ctx, const struct way *way)
{
	if (way->node)
		hook_copy_with(ctx, cfg.vxlan, LAYER2_CLAIM_MARK, way->node);
	return hook_back(ctx);
}

/* act: an ARP request becomes the answer. Returns a verdict or a drop reason. */
static __framed int layer2_answer_arp(hook_t *ctx, const struct packet *packet,
				      const struct way *way)
{
	struct arp arp = {.hardware = bpf_htons(ARP_ETHERNET),
			  .protocol = bpf_htons(ETH_P_IP),
			  .hardware_length = ETH_ALEN,
			  .protocol_length = sizeof(arp.sender),
			  .operation = bpf_htons(ARP_ANSWER),
			  .sender = packet->destination.w[3],
			  .target = packet->source.w[3]};

	__builtin_memcpy(arp.sender_mac, way->mac, ETH_ALEN);
	if (layer2_ethernet(ctx, way, arp.target_mac) ||
	    packet_store(ctx, L3_OFFSET, &arp, sizeof(arp)))
		return DROP_WRITE_ERROR;
	return layer2_sent(ctx, way);
}

/* decide: who hears the advertisement: all of the link, when the asker has no address yet (DAD;
 * RFC 4861 7.2.4)
 */
static __always_inline void layer2_hearer(const struct packet *packet, struct ipv6_header *ip,
					  __u8 *mac, __u8 *flags)
{
	if (addr_is_zero(&packet->source)) {
		const __u8 all[ETH_ALEN] = {0x33, 0x33, 0, 0, 0, 1};

		__builtin_memcpy(mac, all, ETH_ALEN);
		ip->destination[0] = bpf_htonl(0xff020000);
		ip->destination[3] = bpf_htonl(1);
		return;
	}
	*flags |= NDP_SOLICITED;
	__builtin_memcpy(ip->destination, &packet->source, sizeof(ip->destination));
}

/* act: a neighbour solicitation becomes the advertisement. Returns a verdict or a drop reason. */
static __framed int layer2_answer_ndp(hook_t *ctx, const struct packet *packet,
				      const struct way *way)
{
	struct {
		struct ipv6_header ip;
		struct ndp ndp;
	} answer = {.ip = {.version_class_label = bpf_htonl(0x60000000),
			   .payload = bpf_htons(sizeof(answer.ndp)),
			   .next = IPPROTO_ICMPV6,
			   .hop_limit = NDP_HOPS},
		    .ndp = {.type = NDP_ADVERTISEMENT,
			    .flags = NDP_OVERRIDE,
			    .target = packet->destination,
			    .option = NDP_TARGET_MAC,
			    .option_length = 1}};
	__u8 asker[ETH_ALEN];

	if (hook_cut(ctx, L3_OFFSET + sizeof(answer)) || layer2_ethernet(ctx, way, asker))
		return DROP_WRITE_ERROR;
	__builtin_memcpy(answer.ndp.mac, way->mac, ETH_ALEN);
	__builtin_memcpy(answer.ip.source, &packet->destination, sizeof(answer.ip.source));
	layer2_hearer(packet, &answer.ip, asker, &answer.ndp.flags);
	__u64 sum = (__u64)bpf_htonl(sizeof(answer.ndp)) + bpf_htonl(IPPROTO_ICMPV6);
	sum += (__u32)bpf_csum_diff(NULL, 0, answer.ip.source, 32, 0);
	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&answer.ndp, sizeof(answer.ndp), 0);
	answer.ndp.check = fold(sum);
	if (packet_store(ctx, 0, asker, ETH_ALEN) ||
	    hook_store(ctx, L3_OFFSET, &answer, sizeof(answer), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	hook_vouch(ctx); /* it goes as it is */
	return layer2_sent(ctx, way);
}

/* look up: the address that the answer in hand is about. Returns 0 when there is one. */
static __always_inline long layer2_about(hook_t *ctx, struct addr *address)
{
	__be32 v4;

	if (hook_protocol(ctx) == bpf_htons(ETH_P_IPV6))
		return packet_load(ctx, L3_OFFSET + offsetof(struct ipv6_header, source), address,
				   sizeof(*address));
	if (packet_load(ctx, L3_OFFSET + offsetof(struct arp, sender), &v4, sizeof(v4)))
		return -1;
	addr_from_v4(address, v4);
	return 0;
}

/* decide: the copy of an answer becomes a claim for the owner before. Returns 0 or a drop reason.
 */
static __framed int claim_way(hook_t *ctx, struct packet *packet, struct way *way, __be32 before)
{
	if (!bpf_map_lookup_elem(&mg_node, &before) || layer2_about(ctx, &packet->source))
		return DROP_NO_TUNNEL_ENDPOINT;
	struct layer2 *row = layer2_find(&packet->source);
	if (!row)
		return DROP_NO_TUNNEL_ENDPOINT;
	way->kind.act = ACT_CLAIM;
	way->node = before;
	way->vni = IDENTITY_REMOTE_NODE;
	way->number = row->epoch;
	return 0;
}

/* act: the packet's bytes become the claim's; by the kernel's device, since BPF puts no ARP into a
 * tunnel. Returns a verdict or a drop reason.
 */
static __framed int claim_send(hook_t *ctx, const struct packet *packet, const struct way *way)
{
	struct claim claim = {.kind = ECHO_CLAIM, .epoch = way->number, .address = packet->source};
	__be16 protocol = bpf_htons(ECHO_PROTOCOL);

	if (hook_cut(ctx, L3_OFFSET + PROBE_SIZE) ||
	    hook_store(ctx, L3_OFFSET + sizeof(claim), (const void *)probe_rest,
		       PROBE_SIZE - sizeof(claim), 0) ||
	    hook_store(ctx, L3_OFFSET - sizeof(protocol), &protocol, sizeof(protocol), 0) ||
	    hook_store(ctx, L3_OFFSET, &claim, sizeof(claim), 0))
		return DROP_WRITE_ERROR;
	hook_set_mark(ctx, 0);
	return overlay_kernel(ctx, way);
}

/* act: a claim of a known sender's; only a gateway of the address may be its owner */
static __framed void claim_hear(hook_t *ctx, __be32 sender)
{
	struct claim claim;

	if (packet_load(ctx, L3_OFFSET + sizeof(struct overlay), &claim, sizeof(claim)) ||
	    !gateway_accepts(&claim.address, sender))
		return;
	__u32 *seen = bpf_map_lookup_elem(&mg_layer2_seen, &claim.address);
	if (seen && (!*seen || (__s32)(claim.epoch - *seen) > 0))
		*seen = claim.epoch;
}
