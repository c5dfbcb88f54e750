/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Checksums of ICMP errors about translated connections: a change of what is embedded would mend a
 * wrong one (RFC 5508 REQ-3). That of the embedded transport header is nobody's business.
 */
#pragma once
#include "icmp.h"
#include "packet.h"

enum {
	SOUND_PIECE = 32,
	ICMP_CHECK_AT = 2, /* the checksum behind type and code */
	SOUND_PIECES = 48, /* of the longest error: RFC 1812 and RFC 4443 allow less */
};

/* look up: `sum` and what the last octets of a stretch add to it, less than a piece. */
__global __u64 sum_rest(hook_t *ctx, __u32 offset, __u32 size, __u64 sum)
{
	for (int i = 0; i < SOUND_PIECE / 2 && size; i++) {
		__u16 two = 0;
		if (hook_load(ctx, offset, &two, size > 1 ? 2 : 1))
			break;
		sum += two;
		offset += 2;
		size -= size > 1 ? 2 : 1;
	}
	return sum;
}

/* look up: `sum` and what a stretch of the packet adds to it. A stretch that is too long for an
 * error has a sum that is not its own.
 */
__global __u64 sum_stretch(hook_t *ctx, __u32 offset, __u32 size, __u64 sum)
{
	__u32 piece[SOUND_PIECE / 4];

	for (int i = 0; i < SOUND_PIECES && size >= sizeof(piece); i++) {
		if (hook_load(ctx, offset, piece, sizeof(piece)))
			break;
		sum += (__u32)bpf_csum_diff(NULL, 0, piece, sizeof(piece), 0);
		offset += sizeof(piece);
		size -= sizeof(piece);
	}
	return sum_rest(ctx, offset, size, sum);
}

/* look up: what the pseudo-header adds: RFC 4443 2.3; ICMP for IPv4 has none */
static __always_inline __u64 sum_pseudo(const struct packet *packet)
{
	if (packet->family == 4)
		return 0;
	__u64 sum = bpf_htons(packet->end - packet->l4) + bpf_htons(IPPROTO_ICMPV6);
	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->source.w[i] + packet->destination.w[i];
	return sum;
}

/* look up: how long the embedded IPv4 header is; 0: there is none */
static __always_inline __u32 embedded_header(hook_t *ctx, const struct packet *packet)
{
	__u8 version_ihl = 0;

	if (packet->family != 4 || hook_load(ctx, packet->inner_l3, &version_ihl, 1))
		return 0;
	return (version_ihl & 0x0f) * 4;
}

/* decide: whether an ICMP error is as it was sent. Fragments of one cannot be summed up, and no
 * more can what a device completes: an error of another node on this host's kernel, about a packet
 * whose own sum was not complete (sum_quoted). Returns 0 or a drop reason.
 */
__global int icmp_unsound(hook_t *ctx, struct packet *packet)
{
	__be16 half;

	if (!packet || packet->fragment != FRAGMENT_NONE)
		return 0;
	__u64 sum = sum_stretch(ctx, packet->l4, packet->end - packet->l4, sum_pseudo(packet));
	if (fold(sum) && !is_half_summed(ctx, packet->l4 + ICMP_CHECK_AT, &half))
		return DROP_ICMP_CHECKSUM;
	__u32 header = embedded_header(ctx, packet);
	if (header && fold(sum_stretch(ctx, packet->inner_l3, header, 0)))
		return DROP_ICMP_CHECKSUM;
	return 0;
}
