/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What an SRv6 packet for a SID of this node becomes: it goes on to its next segment, or its outer
 * headers come off and it goes into a VRF, or to a next hop.
 * Source: RFC 8986 4, RFC 8754 4.3, RFC 9800 4 (NEXT-C-SID).
 */
#pragma once
#include "parse.h"
#include "rewrite.h"
#include "sid.h"
#include "tunnel.h"

enum {
	ENDPOINT_MOVES = 4,   /* segments that a packet passes on one node, at most */
	ENDPOINT_HEADERS = 4, /* extension headers of an outer packet, at most */
	SRH_TLVS = 4,	      /* of an SRH, at most */
	ECN_MASK = 3,
	ECN_SHIFT = 20, /* in the first word of an IPv6 header */
};

struct endpoint { /* a packet at a SID of this node */
	const struct sid *sid;
	__u32 srh;   /* offset; 0: none */
	__u32 after; /* offset of what is behind the outer headers */
	__u8 next;   /* what it is */
	__u8 left;   /* segments left */
	__u8 local;  /* it is in a locator of this node */
};

/* decide: no TLV of an SRH says that somebody must check it. What stands behind SRH_TLVS of them
 * nobody reads.
 */
__global bool has_plain_tlvs(hook_t *ctx, __u32 at, __u32 end)
{
	struct {
		__u8 type;
		__u8 length;
	} tlv;

	for (int i = 0; i < SRH_TLVS && at < end; i++) {
		if (hook_load(ctx, at, &tlv, sizeof(tlv)) || tlv.type == SRH_HMAC)
			return false;
		at += tlv.type ? 2 + tlv.length : 1;
	}
	return at == end;
}

/* decide: an SRH that this node can go by. Returns 0 or a drop reason. */
static __framed int srh_read(hook_t *ctx, const struct packet *packet, struct endpoint *at)
{
	struct srh srh;

	if (at->srh || packet_load(ctx, at->after, &srh, sizeof(srh)))
		return DROP_SEGMENTS;
	__u32 list = at->after + sizeof(srh), end = at->after + 8 + srh.length * 8;
	__u32 tlvs = list + (srh.last + 1) * sizeof(struct addr);

	if (srh.type != SRH_TYPE || srh.flags || end > packet->end || srh.left > srh.last + 1)
		return DROP_SEGMENTS;
	if (tlvs > end || (tlvs < end && !has_plain_tlvs(ctx, tlvs, end)))
		return DROP_SEGMENTS;
	at->srh = at->after;
	at->after = end;
	at->next = srh.next;
	at->left = srh.left;
	return 0;
}

/* look up: the outer headers up to what they carry. Returns 0 or a drop reason. */
static __framed int endpoint_read(hook_t *ctx, const struct packet *packet, struct endpoint *at)
{
	__u8 header[2];
	int reason;

	at->srh = 0;
	at->left = 0;
	at->after = packet->l4;
	at->next = packet->protocol;
	for (int i = 0; i < ENDPOINT_HEADERS; i++) {
		if (at->next == IPPROTO_ROUTING) {
			reason = srh_read(ctx, packet, at);
			if (reason)
				return reason;
			continue;
		}
		if (at->next != IPPROTO_HOPOPTS && at->next != IPPROTO_DSTOPTS)
			return at->after > packet->end ? DROP_INVALID_IPV6_EXTENSION : 0;
		if (packet_load(ctx, at->after, header, sizeof(header)))
			return DROP_INVALID_IPV6_EXTENSION;
		at->next = header[0];
		at->after += (header[1] + 1) * 8;
	}
	return DROP_INVALID_IPV6_EXTENSION;
}

/* decide: another C-SID stands behind this one; 0 is none (RFC 9800 3) */
static __always_inline bool has_next_csid(const struct packet *packet, const struct sid *sid)
{
	struct bits argument = argument_of(&packet->destination, sid);

	return sid->flavours & SID_NEXT_CSID && sid->node &&
	       argument.high >> (64 - (sid->node & 63));
}

/* decide: a C-SID that only the node before it knows. Routers take those from 0xe000 for what is
 * their own, and so do we: what is not here is nowhere, and the default route would carry it off.
 */
static __always_inline bool is_local_csid(const struct addr *destination, const struct sid *sid)
{
	return bits_left(bits_of(destination), sid->block & 127).high >> 61 == 7;
}

/* decide: the packet only passes this SID */
static __always_inline bool is_passing(const struct packet *packet, const struct endpoint *at)
{
	if (at->sid->behaviour != SID_END && at->sid->behaviour != SID_END_X)
		return false;
	return at->left || has_next_csid(packet, at->sid);
}

/* The destination without the C-SID that it has reached: what stands behind it moves up to the
 * block (RFC 9800 4.1).
 */
__global int csid_shift(struct addr *destination, __u32 block, __u32 before)
{
	if (!destination || before >= 128)
		return 0;
	struct bits rest = bits_right(bits_left(bits_of(destination), before), block & 127);

	addr_cut(destination, block);
	struct bits kept = bits_of(destination);
	bits_to(destination, (struct bits){kept.high | rest.high, kept.low | rest.low});
	return 0;
}

/* act: the SRH away from behind the outer IPv6 header. Returns 0 or a drop reason. */
static __framed int srh_pop(hook_t *ctx, struct packet *packet, struct endpoint *at)
{
	__u32 size = at->after - at->srh;
	struct ipv6_header ip;
	__u8 next;

	if (at->srh != L3_OFFSET + sizeof(ip))
		return 0; /* behind other headers it stays: with no segment left it does nothing */
	if (hook_load(ctx, at->srh, &next, sizeof(next)) ||
	    hook_load(ctx, L3_OFFSET, &ip, sizeof(ip)) ||
	    hook_room(ctx, -(__s32)size, BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	ip.next = next;
	ip.payload = bpf_htons(bpf_ntohs(ip.payload) - size);
	if (hook_store(ctx, L3_OFFSET, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	packet->protocol = next;
	packet->length -= size;
	packet->end -= size;
	at->after -= size;
	at->srh = 0;
	return 0;
}

/* act: the next segment becomes the destination. Returns 0 or a drop reason. */
static __framed int segment_next(hook_t *ctx, struct packet *packet, struct endpoint *at)
{
	__u8 left = at->left - 1;

	if (hook_load(ctx, at->srh + sizeof(struct srh) + left * sizeof(struct addr),
		      &packet->destination, sizeof(packet->destination)) ||
	    hook_store(ctx, at->srh + offsetof(struct srh, left), &left, sizeof(left),
		       BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	at->left = left;
	return !left && at->sid->flavours & SID_PSP ? srh_pop(ctx, packet, at) : 0;
}

/* act: on to the next segment, by the C-SIDs of the destination, then by the SRH. Returns 0 or a
 * drop reason.
 */
static __framed int endpoint_move(hook_t *ctx, struct packet *packet, struct endpoint *at)
{
	int reason = 0;

	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (has_next_csid(packet, at->sid))
		csid_shift(&packet->destination, at->sid->block, before_argument(at->sid));
	else
		reason = segment_next(ctx, packet, at);
	if (reason)
		return reason;
	return hook_store(ctx, L3_OFFSET + offsetof(struct ipv6_header, destination),
			  &packet->destination, sizeof(packet->destination), BPF_F_RECOMPUTE_CSUM)
		   ? DROP_WRITE_ERROR
		   : 0;
}

/* look up: this program can send to the hop of a SID. tc's lets the kernel find the neighbour; what
 * XDP's has opened or moved may not go up for that: it would go on by the routes of the host. So
 * it asks before, and leaves the packet as it came.
 */
static __framed bool is_hop_known(hook_t *ctx, struct way *way, const struct sid *hop)
{
	struct bpf_fib_lookup fib = {.family = AF_INET6, .ifindex = hop->ifindex};

	if (HOOK_HAS_NEIGHBOUR || !hop->ifindex)
		return true;
	__builtin_memcpy(fib.ipv6_dst, &hop->next_hop, 16);
	if (addr_is_v4(&hop->next_hop)) {
		fib.family = AF_INET;
		fib.ipv4_dst = hop->next_hop.w[3];
	}
	return !hook_route(ctx, &fib, BPF_FIB_LOOKUP_OUTPUT, way->mac, way->host_mac) &&
	       fib.ifindex == hop->ifindex;
}

/* decide: on by a route, or by the hop that a SID names. A pod of this node is no transit: it is
 * reached as by any packet of the uplink. Returns 0, NOT_SID or a drop reason.
 */
static __framed int transit_way(hook_t *ctx, struct packet *packet, struct way *way,
				const struct sid *hop)
{
	bool routed = !hop || !hop->ifindex;

	if (routed && pod_find(destination_key(packet)))
		return NOT_SID;
	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	way->kind.ttl = packet->ttl - 1;
	if (hook_segment(ctx)) /* its segments came through a network like ours */
		packet->length = 0;
	if (routed)
		return hop_way(ctx, packet, way, &packet->source, &packet->destination);
	way->kind.act = ACT_HOP;
	hop_to(way, hop->ifindex, &hop->next_hop);
	return 0;
}

/* decide: the behaviour takes an inner packet of this kind */
static __always_inline bool takes_inner(const struct endpoint *at)
{
	__u8 behaviour = at->sid->behaviour;
	bool v4 = at->next == IPPROTO_IPIP;

	if (!v4 && at->next != IPPROTO_IPV6)
		return false;
	if (behaviour == SID_END_DT4 || behaviour == SID_END_DX4)
		return v4;
	if (behaviour == SID_END_DT6 || behaviour == SID_END_DX6)
		return !v4;
	return behaviour == SID_END_DT46 || at->sid->flavours & SID_USD;
}

/* act: a router could not forward the outer packet in time and has marked it; the inner one keeps
 * the mark, if its ends take marks (RFC 6040 4.2)
 */
static __framed void congested(hook_t *ctx, bool v4)
{
	if (v4) {
		struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));
		if (!ip || !(ip->tos & ECN_MASK))
			return;
		__u8 tos = ip->tos | ECN_MASK;
		replace_ipv4(ip, bpf_htons(ip->tos), bpf_htons(tos));
		ip->tos = tos;
		return;
	}
	struct ipv6_header *ip = ip_header(ctx, sizeof(*ip));
	__be32 ecn = bpf_htonl(ECN_MASK << ECN_SHIFT);

	if (ip && ip->version_class_label & ecn)
		ip->version_class_label |= ecn;
}

/* act: the outer headers away; the packet is to be parsed again. Returns 0 or a drop reason. */
static __framed int srv6_pop(hook_t *ctx, struct packet *packet, const struct endpoint *at)
{
	bool v4 = at->next == IPPROTO_IPIP;
	__be16 inner = v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	__be32 head;

	if (packet_load(ctx, L3_OFFSET, &head, sizeof(head)) ||
	    hook_room(ctx, -(__s32)(at->after - L3_OFFSET),
		      BPF_F_ADJ_ROOM_FIXED_GSO | (v4 ? DECAP_L3_IPV4 : DECAP_L3_IPV6)))
		return DROP_INVALID_PACKET; /* the inner packet is shorter than its header */
	packet_store(ctx, offsetof(struct ethhdr, h_proto), &inner, sizeof(inner));
	if ((bpf_ntohl(head) >> ECN_SHIFT & ECN_MASK) == ECN_MASK)
		congested(ctx, v4);
	__u32 identity = packet->identity;
	__builtin_memset(packet, 0, sizeof(*packet));
	packet->identity = identity;
	packet->point = POINT_FROM_UPLINK;
	packet_in_zone(packet, at->sid->vrf);
	return 0;
}

/* decide: at the last segment: the outer headers come off. Returns 0, NOT_SID, IN_VRF or a drop
 * reason.
 */
static __always_inline int endpoint_open(hook_t *ctx, struct packet *packet, struct way *way,
					 const struct endpoint *at)
{
	bool to_vrf = at->sid->behaviour >= SID_END_DT4 && at->sid->behaviour <= SID_END_DT46;
	int reason = srv6_pop(ctx, packet, at);

	if (!reason)
		reason = parse_network(ctx, packet);
	if (reason)
		return reason;
	if (!to_vrf)
		return transit_way(ctx, packet, way, at->sid);
	return IN_VRF;
}

/* decide: the packet has no more segments to visit. Returns 0, NOT_SID, IN_VRF or a drop reason.
 */
static __always_inline int endpoint_end(hook_t *ctx, struct packet *packet, struct way *way,
					const struct endpoint *at, const struct srv6_source *source)
{
	bool carries =
	    at->next == IPPROTO_IPIP || at->next == IPPROTO_IPV6 || at->next == IPPROTO_ETHERNET;

	if (at->sid->behaviour <= SID_END_X && !carries)
		return NOT_SID; /* for this host: RFC 8986 4.1.1 */
	if (at->left)
		return DROP_SEGMENTS;
	if (!takes_inner(at))
		return DROP_SID_INNER;
	if (!is_hop_known(ctx, way, at->sid))
		return NOT_SID;
	packet->identity = argument_identity(packet, at->sid, source);
	return endpoint_open(ctx, packet, way, at);
}

/* decide: only a SID takes such a packet */
static __always_inline bool is_segment_routed(const struct packet *packet)
{
	return packet->protocol == IPPROTO_ROUTING || packet->protocol == IPPROTO_IPIP ||
	       packet->protocol == IPPROTO_IPV6 || packet->protocol == IPPROTO_ETHERNET;
}

/* decide: a packet for a locator of this node. What is no SRv6 there is the host's. Returns 0,
 * NOT_SID, IN_VRF or a drop reason.
 */
static __framed int sid_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct endpoint at = {};
	int reason;

	at.sid = sid_find(&packet->destination, &at.local);
	if (!at.local)
		return NOT_SID;
	if (!at.sid)
		return is_segment_routed(packet) ? DROP_NO_SID : NOT_SID;
	const struct srv6_source *source = srv6_source_find(ctx, &packet->source);
	if (!source)
		return DROP_SRV6_DOMAIN;
	reason = endpoint_read(ctx, packet, &at);
	for (int i = 0; i < ENDPOINT_MOVES && !reason && is_passing(packet, &at); i++) {
		const struct sid *hop = at.sid->behaviour == SID_END_X ? at.sid : NULL;

		if (hop && !is_hop_known(ctx, way, hop))
			return NOT_SID;
		reason = endpoint_move(ctx, packet, &at);
		if (reason)
			return reason;
		if (hop)
			return transit_way(ctx, packet, way, hop);
		bool local =
		    at.sid->flavours & SID_NEXT_CSID && is_local_csid(&packet->destination, at.sid);
		at.sid = sid_find(&packet->destination, &at.local);
		if (!at.sid)
			return at.local || local ? DROP_NO_SID
						 : transit_way(ctx, packet, way, NULL);
	}
	if (!reason && is_passing(packet, &at))
		return DROP_SEGMENTS;
	return reason ? reason : endpoint_end(ctx, packet, way, &at, source);
}
