/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What parsing finds out about a packet; every feature reads it, rewrite.h keeps it true. */
#pragma once
#include <linux/in.h>
#include <linux/in6.h>
#include "types.h"
#include "verdict.h"

/* A function with a stack frame of its own; inline, because no program calls all of them. */
#define __framed inline __attribute__((noinline))
/* A function that the verifier checks once, not once for each path that leads to it. It takes any
 * argument that the type allows, so pointers are checked for NULL.
 */
#define __global    __attribute__((noinline))
#define L3_OFFSET   ETH_HLEN
#define PACKET_NEAR 255
#define AF_INET	    2
#define AF_INET6    10

/* linux/ip.h and linux/ipv6.h, without the bitfields and without what they pull in. */
struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 check;
	__be32 source;
	__be32 destination;
};

struct ipv6_header {
	__be32 version_class_label;
	__be16 payload;
	__u8 next;
	__u8 hop_limit;
	__be32 source[4];
	__be32 destination[4];
};

enum event_point { /* where it was seen; Hubble's TraceObservationPoint numbers */
		   POINT_FROM_POD = 5,
		   POINT_FROM_HOST = 7,
		   POINT_TO_POD = 101,
		   POINT_FROM_OVERLAY = 9,
		   POINT_FROM_UPLINK = 10,
		   POINT_TO_UPLINK = 11,
};
SCHEMA(enum event_point, event_point);

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER, /* carries no ports of its own */
};

enum order_mark { /* of a packet in the stack (order.h) */
		  MARK_GATHER = 0x6d676672,
		  MARK_ORDERED = 0x6d676f72,
};
SCHEMA(enum order_mark, order_mark);

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

enum icmp_kind {
	ICMP_OTHER = 1,
	ICMP_ECHO,
	ICMP_ECHO_ANSWER,
	ICMP_ERROR,
	ICMP_NEIGHBOUR, /* NDP and MLD: between a host and its link, never forwarded */
};

struct packet {
	struct addr source; /* of the IP header; with the zone behind it a struct zoned_addr */
	__u16 zone;	    /* of both addresses */
	__u16 pad;
	struct addr destination;
	__u16 zone_again;
	__u16 pad_again;
	struct tuple flow; /* the connection, in the direction of this packet */
	__u32 length;	   /* L3 length; of a GSO packet: of its largest segment */
	__u32 end;	   /* offset of the first byte after the L3 packet */
	__u32 fragment_id;
	__u32 identity; /* of the source */
	__u32 far; /* identity of the end in the world, by a learned prefix; 0: none (learned.h) */
	__be32 sender;	/* tunnel endpoint that it came from; 0: no tunnel */
	__u32 vni;	/* that BPF took off */
	__u32 l4;	/* offset of the transport header */
	__u32 inner_l3; /* ICMP error: offset of the embedded packet, 0: none */
	__u32 inner_l4; /* offset of its ports, 0: it has none */
	__u16 mtu;	/* that it was too big for */
	__u8 family;	/* 4 or 6 */
	__u8 protocol;
	__u8 fragment; /* enum fragment */
	__u8 tcp_flags;
	__u8 icmp; /* enum icmp_kind, 0: no ICMP */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 ttl;
	__u8 dont_fragment;
	__u8 point;	   /* enum event_point */
	__u8 hosts;	   /* its sender is one that may reach this host */
	__u8 answers;	   /* it may only answer what a pod of ours has opened */
	__u16 cluster;	   /* of its sender */
	__u8 stack;	   /* it goes up to the stack, or comes from there */
	__u8 order;	   /* a fragment whose datagram the kernel gathers (order.h) */
	__u8 ordered;	   /* the kernel has gathered it */
	__u8 overlay_port; /* it is for a port on which nodes take the overlay (guard.h) */
	__u8 turns;	   /* out of an egress address for one, by this gateway of both */
	__u8 pad_last[3];
} __attribute__((aligned(8))); /* clang writes four bytes at a time otherwise */

/* Keys in place: made anew before each look-up they would cost more than the look-up itself. */
static __always_inline const struct zoned_addr *source_key(const struct packet *packet)
{
	return (const struct zoned_addr *)&packet->source;
}

static __always_inline const struct zoned_addr *destination_key(const struct packet *packet)
{
	return (const struct zoned_addr *)&packet->destination;
}

_Static_assert(offsetof(struct packet, zone) == offsetof(struct zoned_addr, zone),
	       "a key in place");
_Static_assert(offsetof(struct packet, zone_again) - offsetof(struct packet, destination) ==
		   offsetof(struct zoned_addr, zone),
	       "a key in place");

static __always_inline void packet_in_zone(struct packet *packet, __u16 zone)
{
	packet->zone = zone;
	packet->zone_again = zone;
}

/* Bytes in place; NULL when they are not linear, or far behind. */
static __always_inline void *packet_at(hook_t *ctx, __u32 offset, __u32 size)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	asm volatile("" : "+r"(offset)); /* the verifier wants the bound on this very register */
	if (offset > PACKET_NEAR)
		return NULL;
	data += offset;
	return data + size > end ? NULL : data;
}

/* Copies bytes out of the packet, wherever they are; a helper's call costs several copies. */
static __always_inline long packet_load(hook_t *ctx, __u32 offset, void *to, __u32 size)
{
	void *from = packet_at(ctx, offset, size);

	if (!from)
		return hook_load(ctx, offset, to, size);
	__builtin_memcpy(to, from, size);
	return 0;
}

/* Copies bytes into the packet; the caller keeps checksums true. */
static __always_inline long packet_store(hook_t *ctx, __u32 offset, const void *from, __u32 size)
{
	void *to = packet_at(ctx, offset, size);

	if (!to)
		return hook_store(ctx, offset, from, size, 0);
	__builtin_memcpy(to, from, size);
	return 0;
}

/* The IP header in place; NULL when there is none. */
static __always_inline void *ip_header(hook_t *ctx, __u32 size)
{
	void *header = packet_at(ctx, L3_OFFSET, size);

	if (header)
		return header;
	return hook_pull(ctx, L3_OFFSET + size) ? NULL : packet_at(ctx, L3_OFFSET, size);
}

/* A checksum out of the sum of what it covers. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->w[0] == b->w[0] && a->w[1] == b->w[1] && a->w[2] == b->w[2] && a->w[3] == b->w[3];
}

static __always_inline bool addr_is_v4(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline bool addr_is_zero(const struct addr *a)
{
	return !(a->w[0] | a->w[1] | a->w[2] | a->w[3]);
}

static __always_inline void addr_from_v4(struct addr *a, __be32 v4)
{
	*a = (struct addr){.w = {0, 0, bpf_htonl(0xffff), v4}};
}

static __always_inline void tuple_reverse(struct tuple *reversed, const struct tuple *tuple)
{
	reversed->source = tuple->destination;
	reversed->destination = tuple->source;
	reversed->source_port = tuple->destination_port;
	reversed->destination_port = tuple->source_port;
	reversed->protocol = tuple->protocol;
	reversed->pad = 0;
	reversed->zone = tuple->zone;
}

static __always_inline __u32 flow_ports(const struct tuple *flow)
{
	return (__u32)flow->source_port << 16 | flow->destination_port;
}

/* A hash of both addresses and a number, ports as a rule, each bit of it by all of them: a hash by
 * two would not see the source port otherwise. bpf_get_hash_recalc costs 55 ns here.
 */
static __always_inline __u32 flow_hash(const struct tuple *flow, __u32 number)
{
	__u32 hash = flow->source.w[3] * 2654435761u ^ flow->destination.w[3];

	hash ^= number * 0x9e3779b1u;
	hash ^= flow->source.w[1] ^ flow->destination.w[1];
	hash = (hash ^ hash >> 15) * 0x2c1b3c6du;
	return hash ^ hash >> 16;
}

static __always_inline bool is_icmp_error(const struct packet *packet)
{
	return packet->icmp == ICMP_ERROR;
}

/* A TCP packet that opens a connection. */
static __always_inline bool is_syn(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP && packet->fragment != FRAGMENT_LATER &&
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Must not be fragmented on the way: DF, and every IPv6 packet. */
static __always_inline bool is_unfragmentable(const struct packet *packet)
{
	return packet->dont_fragment || packet->family == 6;
}
