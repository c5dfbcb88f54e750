/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Segments as bytes and as bits: the SRH on the wire, and the parts of a SID.
 * Source: RFC 8754 2, RFC 8986 3.1.
 */
#pragma once
#include "packet.h"

struct srh { /* RFC 8754 2, without the segments, which stand last to first */
	__u8 next;
	__u8 length; /* in units of 8 octets, without the first */
	__u8 type;
	__u8 left;
	__u8 last;
	__u8 flags;
	__be16 tag;
};

enum {
	SRH_TYPE = 4,
	SRV6_IDENTITY = 24, /* bits of an identity in a SID's argument */
	SRH_HMAC = 5,	    /* a TLV; RFC 8754 2.1.2 */
};

/* 128 bits as two numbers: the first half and the rest of an address */
struct bits {
	__u64 high;
	__u64 low;
};

static __always_inline struct bits bits_of(const struct addr *addr)
{
	return (struct bits){(__u64)bpf_ntohl(addr->w[0]) << 32 | bpf_ntohl(addr->w[1]),
			     (__u64)bpf_ntohl(addr->w[2]) << 32 | bpf_ntohl(addr->w[3])};
}

static __always_inline void bits_to(struct addr *addr, struct bits bits)
{
	addr->w[0] = bpf_htonl(bits.high >> 32);
	addr->w[1] = bpf_htonl(bits.high);
	addr->w[2] = bpf_htonl(bits.low >> 32);
	addr->w[3] = bpf_htonl(bits.low);
}

/* `by` below 128 */
static __always_inline struct bits bits_left(struct bits bits, __u32 by)
{
	if (by >= 64)
		return (struct bits){bits.low << ((by - 64) & 63), 0};
	if (!by)
		return bits;
	return (struct bits){bits.high << by | bits.low >> (64 - by), bits.low << by};
}

static __always_inline struct bits bits_right(struct bits bits, __u32 by)
{
	if (by >= 64)
		return (struct bits){0, bits.high >> ((by - 64) & 63)};
	if (!by)
		return bits;
	return (struct bits){bits.high >> by, bits.low >> by | bits.high << (64 - by)};
}

static __always_inline __be32 word_cut(__be32 word, __u32 count)
{
	if (count >= 32)
		return word;
	return count ? word & bpf_htonl(~0U << (32 - count)) : 0;
}

/* The first `count` bits of an address; the rest becomes zero. */
__global int addr_cut(struct addr *addr, __u32 count)
{
	if (!addr)
		return 0;
	for (__u32 i = 0; i < 4; i++)
		addr->w[i] = word_cut(addr->w[i], count > 32 * i ? count - 32 * i : 0);
	return 0;
}

/* An identity into the argument of a SID, behind the SID's first `before` bits. */
static __always_inline void argument_put(struct addr *sid, __u32 identity, __u32 before)
{
	struct bits argument = {0, identity}, bits = bits_of(sid);

	if (before > 128 - SRV6_IDENTITY)
		return;
	argument = bits_left(argument, 128 - SRV6_IDENTITY - before);
	bits.high |= argument.high;
	bits.low |= argument.low;
	bits_to(sid, bits);
}
