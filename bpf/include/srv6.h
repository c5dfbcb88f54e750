/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* SRv6 encapsulation: the paths of packets that leave a VRF, and the outer headers of a packet.
 * H.Encaps.Red: the first segment is the outer destination only, so one segment needs no SRH.
 * Source: RFC 8754 2 and 4.1, RFC 8986 5.
 */
#pragma once
#include "config.h"
#include "event.h"
#include "forward.h"
#include "segment.h"
#include "way.h"

enum srv6_limit {
	SRV6_SEGMENTS = 8, /* of a path, at most */
	SRV6_VIAS = 65536,
	SRV6_OUTER = 40,       /* octets of the outer IPv6 header */
	SRV6_SRH = 8,	       /* of an SRH before its segments */
	SRV6_INNER_MIN = 1280, /* RFC 8200 5: no pod hears of less, whatever the path has */
	SRV6_HOP_LIMIT = 64,
	SRV6_LABEL = 0xfffff,
	SRV6_OUTER_MOST = SRV6_OUTER + SRV6_SRH + 16 * SRV6_SEGMENTS,
	ICMPV6_TOO_BIG = 2,
	SRV6_PATH_S = 600, /* for which an MTU that a router has told holds; RFC 8201 4 */
};
SCHEMA(enum srv6_limit, srv6_limit);

enum vrf_via_flag {
	VIA_FULL = 1,	  /* H.Encaps: an SRH with every segment; else H.Encaps.Red */
	VIA_IDENTITY = 2, /* the last segment is a SID of a node of the mesh: its argument says the
			     sender's identity */
};
SCHEMA(enum vrf_via_flag, vrf_via_flag);

struct vrf_via { /* one path: the segments that a packet visits, the last of them ends it */
	struct addr segment[SRV6_SEGMENTS]; /* in the order of the way */
	struct addr source;		    /* of the outer packet: this node's own IPv6 address */
	struct addr next_hop; /* that leads to the first segment; zero: the kernel is asked */
	__u32 ifindex;	      /* of next_hop; 0 when that is zero */
	__u32 mtu;	      /* L3 MTU of the way to the first segment; 0: the uplink's */
	__u32 bfd;     /* number in mg_bfd_state, whose session says whether it is up; 0: none */
	__u8 segments; /* 1 to SRV6_SEGMENTS */
	__u8 flags;    /* enum vrf_via_flag */
	__u8 argument; /* VIA_IDENTITY: bits in front of the argument */
	__u8 pad;
	/* written by BPF (via_ask) */
	__u32 asked;	   /* second in which the kernel was asked; 0: never */
	__u32 hop_ifindex; /* its answer; 0: no route */
	__u32 hop_mtu;
	struct addr hop;
};

/* number of a path of routes by etcd -> path. Agent; written before what names it. */
MAP_HASH(mg_vrf_via, __u32, struct vrf_via, SRV6_VIAS, BPF_F_NO_PREALLOC);
/* The same of routes by BGP. Speaker. */
MAP_HASH(mg_vrf_bgp_via, __u32, struct vrf_via, SRV6_VIAS, BPF_F_NO_PREALLOC);

struct srv6_path { /* what a router on the way has told of its MTU */
	__u32 mtu;
	__u32 seen; /* now_s */
};

/* outer destination -> MTU. Bounded: old ones give way. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct addr);
	__type(value, struct srv6_path);
} mg_srv6_path SEC(".maps");

/* look up: a path by its number */
static __always_inline struct vrf_via *via_find(__u32 number, bool bgp)
{
	struct vrf_via *via;

	if (bgp)
		via = bpf_map_lookup_elem(&mg_vrf_bgp_via, &number);
	else
		via = bpf_map_lookup_elem(&mg_vrf_via, &number);
	APART(via);
	return via;
}

/* Octets of the outer headers. */
static __always_inline __u32 outer_size(const struct outer *outer)
{
	return SRV6_OUTER + (outer->segments ? SRV6_SRH + 16 * outer->segments : 0);
}

/* decide: what stands in front of a packet that goes by a path */
static __framed void outer_of(const struct packet *packet, struct outer *outer,
			      const struct vrf_via *via)
{
	outer->source = via->source;
	outer->destination = via->segment[0];
	outer->segments = via->flags & VIA_FULL ? via->segments : via->segments - 1;
	outer->identity = via->flags & VIA_IDENTITY ? packet->identity : 0;
	if (outer->identity && via->segments == 1)
		argument_put(&outer->destination, outer->identity, via->argument);
}

/* look up: the smallest MTU that is known of the way to a segment */
static __always_inline __u32 path_mtu(const struct addr *segment, __u32 mtu)
{
	struct srv6_path *path = bpf_map_lookup_elem(&mg_srv6_path, segment);

	return path && path->mtu < mtu && now_s() - path->seen < SRV6_PATH_S ? path->mtu : mtu;
}

struct too_big { /* RFC 4443 3.2, and what of the packet is needed here */
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 mtu;
	struct ipv6_header quoted;
};

/* act: note what a router says of the way to a segment; the next packet of a pod that is too big
 * for it tells the pod (outer_fit). The kernel has no part in these packets, so it keeps no such
 * note.
 */
static __framed void path_told(hook_t *ctx, const struct packet *packet)
{
	struct too_big told;
	struct srv6_path path = {.seen = now_s()};

	if (packet->protocol != IPPROTO_ICMPV6 ||
	    packet_load(ctx, packet->l4, &told, sizeof(told)) || told.type != ICMPV6_TOO_BIG)
		return;
	__u8 next = told.quoted.next;
	if (next != IPPROTO_IPIP && next != IPPROTO_IPV6 && next != IPPROTO_ROUTING)
		return;
	if (!addr_equal((const struct addr *)told.quoted.source, &packet->destination))
		return;
	path.mtu = bpf_ntohl(told.mtu);
	if (path.mtu < SRV6_INNER_MIN)
		path.mtu = SRV6_INNER_MIN;
	bpf_map_update_elem(&mg_srv6_path, told.quoted.destination, &path, BPF_ANY);
}

/* decide: whether a packet fits with its outer headers. Whatever its family, its sender hears of
 * one that does not: nobody could put pieces together at the other end. Returns 0 or a drop reason,
 * which sets packet->mtu.
 */
static __framed int outer_fit(struct packet *packet, const struct outer *outer,
			      const struct vrf_via *via)
{
	__u32 size = outer_size(outer), mtu = via->mtu ? via->mtu : via->hop_mtu;

	if (packet->length <= SRV6_INNER_MIN)
		return 0;
	if (!mtu)
		mtu = cfg.uplink_mtu;
	mtu = path_mtu(&outer->destination, mtu);
	for (__u32 i = 1; i < SRV6_SEGMENTS && i < via->segments; i++)
		mtu = path_mtu(&via->segment[i], mtu);
	packet->mtu = mtu > size + SRV6_INNER_MIN ? mtu - size : SRV6_INNER_MIN;
	return packet->length > packet->mtu ? DROP_FRAGMENTATION_NEEDED : 0;
}

/* look up: the kernel's route to the first segment, once a second: that takes as long as the rest
 * of the way. Equal routes are shared by paths, not by flows. CPUs that ask at once get the same
 * answer.
 */
static __framed void via_ask(hook_t *ctx, struct way *way, struct vrf_via *via)
{
	struct bpf_fib_lookup fib = {.family = AF_INET6,
				     .tot_len = 1, /* or the kernel says the device's MTU */
				     .ifindex = cfg.uplink,
				     .flowinfo = bpf_htonl(way->outer.via & SRV6_LABEL)};

	__builtin_memcpy(fib.ipv6_src, &via->source, 16);
	__builtin_memcpy(fib.ipv6_dst, &via->segment[0], 16);
	long result = hook_route(ctx, &fib, 0, way->mac, way->host_mac);
	via->hop_mtu = result ? 0 : fib.mtu_result;
	__builtin_memcpy(&via->hop, fib.ipv6_dst, 16);
	via->hop_ifindex = result ? 0 : fib.ifindex;
	asm volatile("" ::: "memory");
	via->asked = now_s();
}

/* decide: a hop that a row names */
static __always_inline void hop_to(struct way *way, __u32 ifindex, const struct addr *next_hop)
{
	way->hop.ifindex = ifindex;
	way->hop.next.nh_family = AF_INET6;
	__builtin_memcpy(way->hop.next.ipv6_nh, next_hop, 16);
	if (!addr_is_v4(next_hop))
		return;
	way->hop.next.nh_family = AF_INET;
	way->hop.next.ipv4_nh = next_hop->w[3];
}

/* decide: where the outer packet goes first. Returns 0 or a drop reason. */
static __always_inline int outer_hop(hook_t *ctx, struct packet *packet, struct way *way,
				     struct vrf_via *via)
{
	if (!via->ifindex && via->asked != now_s())
		via_ask(ctx, way, via);
	if (!via->ifindex && !via->hop_ifindex) {
		way->kind.tell = 1;
		return DROP_NO_VRF_ROUTE;
	}
	if (via->ifindex)
		hop_to(way, via->ifindex, &via->next_hop);
	else
		hop_to(way, via->hop_ifindex, &via->hop);
	return outer_fit(packet, &way->outer, via);
}

/* act: the SRH into the room that is there. Returns 0 or a drop reason. */
static __framed int srh_write(hook_t *ctx, const struct outer *outer, __u8 next)
{
	const struct vrf_via *via = via_find(outer->via, outer->bgp);
	__u32 at = L3_OFFSET + SRV6_OUTER;

	if (!via || outer->segments > via->segments || via->segments - outer->segments > 1)
		return DROP_WRITE_ERROR; /* the row has changed meanwhile */
	struct srh srh = {.next = next,
			  .length = 2 * outer->segments,
			  .type = SRH_TYPE,
			  .left = via->segments - 1,
			  .last = outer->segments - 1};
	long failed = hook_store(ctx, at, &srh, sizeof(srh), 0);
	at += sizeof(srh);
	for (__u32 i = 0; i < SRV6_SEGMENTS && i < outer->segments; i++) {
		struct addr segment = via->segment[(via->segments - 1 - i) & (SRV6_SEGMENTS - 1)];
		if (!i && outer->identity)
			argument_put(&segment, outer->identity, via->argument);
		failed |= hook_store(ctx, at, &segment, sizeof(segment), 0);
		at += sizeof(segment);
	}
	return failed ? DROP_WRITE_ERROR : 0;
}

struct srv6_front {
	struct ethhdr eth;
	struct ipv6_header ip;
} __attribute__((packed));

/* act: the outer headers in front. The flow's hash is the label (RFC 6437), so that routers spread
 * what one segment takes; the traffic class is the packet's own. Returns 0 or a drop reason.
 */
static __framed int srv6_push(hook_t *ctx, const struct packet *packet, const struct outer *outer)
{
	__u32 size = outer_size(outer), class = 0;
	__u8 next = packet->family == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;

	if (size > SRV6_OUTER_MOST || packet_load(ctx, L3_OFFSET, &class, sizeof(class)))
		return DROP_WRITE_ERROR;
	class = bpf_ntohl(class);
	class = packet->family == 4 ? class >> 16 & 0xff : class >> 20 & 0xff;
	if (hook_room(ctx, size, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	struct srv6_front *front = (void *)(long)ctx->data;
	if ((void *)(front + 1) > (void *)(long)ctx->data_end)
		return DROP_WRITE_ERROR;
	front->eth.h_proto = bpf_htons(ETH_P_IPV6);
	front->ip.version_class_label =
	    bpf_htonl(6U << 28 | class << 20 | (outer->label & SRV6_LABEL));
	front->ip.payload = bpf_htons(hook_length(ctx) - sizeof(*front)); /* of GSO: cut later */
	front->ip.next = outer->segments ? IPPROTO_ROUTING : next;
	front->ip.hop_limit = SRV6_HOP_LIMIT;
	__builtin_memcpy(front->ip.source, &outer->source, 16);
	__builtin_memcpy(front->ip.destination, &outer->destination, 16);
	return outer->segments ? srh_write(ctx, outer, next) : 0;
}

/* act: out of the VRF. Returns a verdict or a drop reason. */
static __always_inline int srv6_send(hook_t *ctx, const struct packet *packet, struct way *way)
{
	int reason = srv6_push(ctx, packet, &way->outer);

	if (reason)
		return reason;
	hook_vouch(ctx); /* for mg_to_uplink */
	return forward_hop(ctx, way);
}
