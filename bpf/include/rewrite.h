/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Changes to a packet in place, checksums included: right for CHECKSUM_PARTIAL, COMPLETE and GSO,
 * because only the kernel's checksum helpers touch them.
 */
#pragma once
#include "packet.h"

/* Newer than Debian's headers; kernels before 6.16 refuse it and need none. */
#define L4_CSUM_IPV6 (1ULL << 7)

enum end {
	END_SOURCE,
	END_DESTINATION,
};

enum {
	IPV4_CHECK = L3_OFFSET + offsetof(struct ipv4_header, check),
	IPV4_TTL = L3_OFFSET + offsetof(struct ipv4_header, ttl),
	IPV6_HOP_LIMIT = L3_OFFSET + offsetof(struct ipv6_header, hop_limit),
	ICMP_CHECK = 2,
	ICMP_ID = 4,
};

static __always_inline __u32 transport_check(__u8 protocol)
{
	if (protocol == IPPROTO_TCP)
		return 16;
	return protocol == IPPROTO_UDP ? 6 : ICMP_CHECK;
}

static __always_inline __u32 transport_port(__u8 protocol, enum end end)
{
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)
		return ICMP_ID;
	return end == END_SOURCE ? 0 : 2;
}

static __always_inline __u64 check_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0; /* 0 stays: no checksum */
}

/* The pseudo-header's part of a transport checksum. */
static __always_inline long replace_pseudo(struct __sk_buff *ctx, const struct packet *packet,
					   __u32 offset, __s64 diff)
{
	__u64 flags = BPF_F_PSEUDO_HDR | check_flags(packet->protocol);

	if (packet->protocol == IPPROTO_ICMP)
		return 0; /* has no pseudo-header */
	if (packet->family == 6 && !bpf_l4_csum_replace(ctx, offset, 0, diff, flags | L4_CSUM_IPV6))
		return 0;
	return bpf_l4_csum_replace(ctx, offset, 0, diff, flags);
}

/* The address in an IP header at `l3`, whichever of the packet's it is. */
static __always_inline long replace_address(struct __sk_buff *ctx, __u8 family, __u32 l3,
					    enum end end, const struct addr *from,
					    const struct addr *to)
{
	if (family == 6)
		return bpf_skb_store_bytes(ctx, l3 + (end == END_SOURCE ? 8 : 24), to, 16, 0);
	long failed = bpf_l3_csum_replace(ctx, l3 + offsetof(struct ipv4_header, check), from->w[3],
					  to->w[3], 4);
	return failed |
	       bpf_skb_store_bytes(ctx, l3 + (end == END_SOURCE ? 12 : 16), &to->w[3], 4, 0);
}

struct embedded_change { /* of one end of the packet inside an ICMP error */
	const struct addr *from;
	const struct addr *to;
	__s64 diff; /* of the addresses */
	__be16 from_port;
	__be16 to_port;
};

/* The embedded transport header: its port, its checksum when it came along. Returns what changed,
 * as a checksum difference.
 */
static __framed __s64 replace_embedded_port(struct __sk_buff *ctx, const struct packet *packet,
					    enum end end, const struct embedded_change *change)
{
	__u8 protocol = packet->flow.protocol;
	__u32 check = packet->inner_l4 + transport_check(protocol);
	__u32 port = packet->inner_l4 + transport_port(protocol, end);
	__be32 before = 0, after = 0, from = change->from_port, to = change->to_port;
	__s64 diff = bpf_csum_diff(&from, sizeof(from), &to, sizeof(to), 0);

	if (check + 2 <= packet->end && !bpf_skb_load_bytes(ctx, check, &before, 2)) {
		if (protocol != IPPROTO_ICMP)
			bpf_l4_csum_replace(ctx, check, 0, change->diff, check_flags(protocol));
		bpf_l4_csum_replace(ctx, check, from, to, 2 | check_flags(protocol));
		bpf_skb_load_bytes(ctx, check, &after, 2);
		diff = bpf_csum_diff(&before, sizeof(before), &after, sizeof(after), diff);
	}
	bpf_skb_store_bytes(ctx, port, &change->to_port, 2, 0);
	return diff;
}

/* What is embedded in an ICMP error: `end` is the end of the connection in the direction of the
 * error, so the other one in the embedded packet.
 */
static __framed long rewrite_embedded(struct __sk_buff *ctx, const struct packet *packet,
				      enum end end, struct embedded_change *change)
{
	enum end inner = end == END_SOURCE ? END_DESTINATION : END_SOURCE;
	__s64 diff =
	    packet->family == 6 ? change->diff : 0; /* IPv4: its own checksum evens it out */

	long failed =
	    replace_address(ctx, packet->family, packet->inner_l3, inner, change->from, change->to);
	if (packet->inner_l4)
		diff = bpf_csum_diff(NULL, 0, (__be32 *)&diff, 4,
				     replace_embedded_port(ctx, packet, inner, change));
	return failed | bpf_l4_csum_replace(ctx, packet->l4 + ICMP_CHECK, 0, diff, 0);
}

/* act: give one end of the connection another address and port, in every place of the packet.
 * Returns 0 or a drop reason.
 */
__global int rewrite(struct __sk_buff *ctx, struct packet *packet, enum end end,
		     const struct addr *address, __be16 port)
{
	bool source = end == END_SOURCE;

	if (!packet || !address)
		return DROP_INVALID_PACKET;
	struct addr *outer = source ? &packet->source : &packet->destination;
	struct addr *inner = source ? &packet->flow.source : &packet->flow.destination;
	__be16 *old_port = source ? &packet->flow.source_port : &packet->flow.destination_port;
	__u32 check = packet->l4 + transport_check(packet->protocol);
	__s64 diff = bpf_csum_diff(outer->w, 16, (__be32 *)address->w, 16, 0);

	long failed = replace_address(ctx, packet->family, L3_OFFSET, end, outer, address);
	if (packet->fragment != FRAGMENT_LATER)
		failed |= replace_pseudo(ctx, packet, check, diff);
	if (is_icmp_error(packet)) {
		struct embedded_change change = {
		    .from = inner,
		    .to = address,
		    .diff = bpf_csum_diff(inner->w, 16, (__be32 *)address->w, 16, 0),
		    .from_port = *old_port,
		    .to_port = port};
		failed |= rewrite_embedded(ctx, packet, end, &change);
	} else if (packet->fragment != FRAGMENT_LATER) {
		failed |= bpf_l4_csum_replace(ctx, check, *old_port, port,
					      2 | check_flags(packet->protocol));
		failed |= bpf_skb_store_bytes(
		    ctx, packet->l4 + transport_port(packet->protocol, end), &port, 2, 0);
	}
	*outer = *address;
	*inner = *address;
	*old_port = port;
	return failed ? DROP_WRITE_ERROR : 0;
}

/* act: one hop less to live. Returns 0 or a drop reason. */
static __always_inline int rewrite_ttl(struct __sk_buff *ctx, struct packet *packet)
{
	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	__u8 ttl = packet->ttl - 1;
	long failed = 0;
	if (packet->family == 4)
		failed = bpf_l3_csum_replace(ctx, IPV4_CHECK, packet->ttl, ttl, 2);
	failed |=
	    bpf_skb_store_bytes(ctx, packet->family == 4 ? IPV4_TTL : IPV6_HOP_LIMIT, &ttl, 1, 0);
	packet->ttl = ttl;
	return failed ? DROP_WRITE_ERROR : 0;
}
