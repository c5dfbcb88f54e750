/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Changes to a packet in place, checksums included: those of transport headers by the
 * hook's functions only, which know GSO and half-made checksums.
 */
#pragma once
#include "config.h"
#include "way.h"

/* Newer than Debian's headers; kernels before 6.16 refuse it and need none. */
#define L4_CSUM_IPV6 (1ULL << 7)

enum {
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
static __always_inline long replace_pseudo(hook_t *ctx, const struct packet *packet, __u32 offset,
					   const struct addr *from, const struct addr *to)
{
	__u64 flags = BPF_F_PSEUDO_HDR | check_flags(packet->protocol);

	if (packet->protocol == IPPROTO_ICMP)
		return 0; /* has no pseudo-header */
	if (packet->family == 4)
		return hook_check_l4(ctx, offset, from->w[3], to->w[3], 4 | flags);
	__s64 diff = bpf_csum_diff((__be32 *)from->w, 16, (__be32 *)to->w, 16, 0);
	if (!hook_check_l4(ctx, offset, 0, diff, flags | L4_CSUM_IPV6))
		return 0;
	return hook_check_l4(ctx, offset, 0, diff, flags);
}

/* An IPv4 header's checksum after a change of one word; Source: RFC 1624 3. The sum of the whole
 * header stays what it was, so CHECKSUM_COMPLETE stays true.
 */
static __always_inline void replace_ipv4(struct ipv4_header *ip, __be32 from, __be32 to)
{
	ip->check = fold((__u16)~ip->check + (__u64)(__u32)~from + to);
}

/* The address in the IP header. */
static __always_inline long replace_address(hook_t *ctx, __u8 family, enum end end,
					    const struct addr *to)
{
	if (family == 6) {
		struct ipv6_header *ip = ip_header(ctx, sizeof(*ip));
		if (!ip)
			return -1;
		__builtin_memcpy(end == END_SOURCE ? ip->source : ip->destination, to, 16);
		return 0;
	}
	struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));
	if (!ip)
		return -1;
	__be32 *address = end == END_SOURCE ? &ip->source : &ip->destination;
	replace_ipv4(ip, *address, to->w[3]);
	*address = to->w[3];
	return 0;
}

/* What the id of a pod's packets grows by outside, so that pods which count alike do not meet in
 * one address (RFC 6864 5.3.1). Packets that cannot be fragmented have no use for it.
 */
static __always_inline __u16 id_shift(const struct addr *pod)
{
	__u64 hash = (cfg.permutation_key ^ pod->w[3]) * 0x9e3779b97f4a7c15ULL;

	return hash >> 48;
}

/* act: the id of an IPv4 packet that leaves a pod */
static __always_inline void replace_id(hook_t *ctx, const struct packet *packet,
				       const struct addr *pod)
{
	if (packet->family != 4 || packet->dont_fragment)
		return;
	struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));
	if (!ip)
		return;
	__be16 id = bpf_htons(bpf_ntohs(ip->id) + id_shift(pod));
	replace_ipv4(ip, ip->id, id);
	ip->id = id;
}

/* act: the id of a pod's packet that is embedded at `l3`, as the pod had sent it */
static __framed void restore_id(hook_t *ctx, __u32 l3, const struct addr *pod)
{
	__u32 at = l3 + offsetof(struct ipv4_header, id);
	struct {
		__be16 id;
		__be16 fragment;
	} before, after;

	if (hook_load(ctx, at, &before, sizeof(before)) ||
	    before.fragment & bpf_htons(IPV4_DONT_FRAGMENT))
		return;
	after = before;
	after.id = bpf_htons(bpf_ntohs(before.id) - id_shift(pod));
	hook_check_l3(ctx, l3 + offsetof(struct ipv4_header, check), before.id, after.id);
	hook_store(ctx, at, &after, sizeof(after), 0);
}

/* The address in an IP header embedded at `l3`. */
static __always_inline long replace_embedded_address(hook_t *ctx, const struct packet *packet,
						     enum end end, const struct addr *from,
						     const struct addr *to)
{
	__u32 l3 = packet->inner_l3;

	if (packet->family == 6)
		return hook_store(ctx, l3 + (end == END_SOURCE ? 8 : 24), to, 16, 0);
	if (end == END_SOURCE)
		restore_id(ctx, l3, to);
	long failed =
	    hook_check_l3(ctx, l3 + offsetof(struct ipv4_header, check), from->w[3], to->w[3]);
	return failed | hook_store(ctx, l3 + (end == END_SOURCE ? 12 : 16), &to->w[3], 4, 0);
}

struct embedded_change { /* of one end of the packet inside an ICMP error */
	__s64 diff;	 /* of the addresses */
	__be16 from_port;
	__be16 to_port;
};

/* The embedded transport header: its port, its checksum when it came along. Returns what changed,
 * as a checksum difference.
 */
static __framed __s64 replace_embedded_port(hook_t *ctx, const struct packet *packet, enum end end,
					    const struct embedded_change *change)
{
	__u8 protocol = packet->flow.protocol;
	__u32 check = packet->inner_l4 + transport_check(protocol);
	__u32 port = packet->inner_l4 + transport_port(protocol, end);
	__be32 before = 0, after = 0, from = change->from_port, to = change->to_port;
	__s64 diff = bpf_csum_diff(&from, sizeof(from), &to, sizeof(to), 0);

	if (check + 2 <= packet->end && !hook_load(ctx, check, &before, 2)) {
		if (protocol != IPPROTO_ICMP)
			hook_check_l4(ctx, check, 0, change->diff, check_flags(protocol));
		hook_check_l4(ctx, check, from, to, 2 | check_flags(protocol));
		hook_load(ctx, check, &after, 2);
		diff = bpf_csum_diff(&before, sizeof(before), &after, sizeof(after), diff);
	}
	hook_store(ctx, port, &change->to_port, 2, 0);
	return diff;
}

/* act: what is embedded in an ICMP error: `end` is the end of the connection in the direction of
 * the error, so the other one in the embedded packet.
 */
static __framed int rewrite_embedded(hook_t *ctx, const struct packet *packet, enum end end,
				     const struct addr *address, __be16 port)
{
	bool source = end == END_SOURCE;
	enum end inner = source ? END_DESTINATION : END_SOURCE;
	const struct addr *from = source ? &packet->flow.source : &packet->flow.destination;
	struct embedded_change change = {
	    .diff = bpf_csum_diff((__be32 *)from->w, 16, (__be32 *)address->w, 16, 0),
	    .from_port = source ? packet->flow.source_port : packet->flow.destination_port,
	    .to_port = port};
	__s64 diff =
	    packet->family == 6 ? change.diff : 0; /* IPv4: its own checksum evens it out */

	long failed = replace_embedded_address(ctx, packet, inner, from, address);
	if (packet->inner_l4)
		diff = bpf_csum_diff(NULL, 0, (__be32 *)&diff, 4,
				     replace_embedded_port(ctx, packet, inner, &change));
	failed |= hook_check_l4(ctx, packet->l4 + ICMP_CHECK, 0, diff, 0);
	return failed ? DROP_WRITE_ERROR : 0;
}

/* act: give one end of the connection another address and port in the packet's own headers; what an
 * ICMP error has embedded comes before (rewrite_embedded). Returns 0 or a drop reason.
 */
__global int rewrite(hook_t *ctx, struct packet *packet, enum end end, const struct addr *address,
		     __be16 port)
{
	bool source = end == END_SOURCE;

	if (!packet || !address)
		return DROP_INVALID_PACKET;
	struct addr *outer = source ? &packet->source : &packet->destination;
	struct addr *inner = source ? &packet->flow.source : &packet->flow.destination;
	__be16 *old_port = source ? &packet->flow.source_port : &packet->flow.destination_port;
	__u32 check = packet->l4 + transport_check(packet->protocol);

	long failed = replace_address(ctx, packet->family, end, address);
	if (source)
		replace_id(ctx, packet, outer);
	if (packet->fragment != FRAGMENT_LATER)
		failed |= replace_pseudo(ctx, packet, check, outer, address);
	if (!is_icmp_error(packet) && packet->fragment != FRAGMENT_LATER) {
		failed |=
		    hook_check_l4(ctx, check, *old_port, port, 2 | check_flags(packet->protocol));
		failed |=
		    packet_store(ctx, packet->l4 + transport_port(packet->protocol, end), &port, 2);
	}
	*outer = *address;
	*inner = *address;
	*old_port = port;
	return failed ? DROP_WRITE_ERROR : 0;
}

/* act: as many hops to live. Returns 0 or a drop reason. */
static __always_inline int rewrite_ttl(hook_t *ctx, struct packet *packet, __u8 ttl)
{
	if (packet->family == 4) {
		struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));
		if (!ip)
			return DROP_WRITE_ERROR;
		replace_ipv4(ip, bpf_htons(packet->ttl << 8), bpf_htons(ttl << 8));
		ip->ttl = ttl;
	} else {
		struct ipv6_header *ip = ip_header(ctx, sizeof(*ip));
		if (!ip)
			return DROP_WRITE_ERROR;
		ip->hop_limit = ttl;
	}
	packet->ttl = ttl;
	return 0;
}
