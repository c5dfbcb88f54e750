/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* ICMP errors that we originate: full blocks, packets that do not fit or have lived too long, pods
 * that are gone. The offending packet becomes the error and goes back to where it came from, in the
 * name of its destination; from a hop of the way, and from a node to a pod of another one, in the
 * name of this host.
 */
#pragma once
#include "addresses.h"
#include "config.h"
#include "event.h"
#include "forward.h"
#include "gateway.h"
#include "overlay.h"
#include "packet.h"
#include "rewrite.h"

enum {
	ICMP_EMBEDDED_MAX = 128, /* bytes of the offending packet: headers with options, and more */
	ICMP_BURST = 512,	 /* errors at once, before the configured rate holds */
};

enum {
	ICMP_FRAME_MAX = 192, /* Ethernet, IPv6 and ICMPv6 headers, 128 bytes of the packet */
};

struct icmp_late { /* an error to be sent once more, later, out of a device */
	__u32 ifindex;
	__u32 length;
	__u8 frame[ICMP_FRAME_MAX];
};
SCHEMA(struct icmp_late, icmp_late);

/* Errors about a pod's SYN. A connect() that is still in the kernel ignores an error that comes
 * back while it sends; the agent repeats it (mesh/datapath/late_errors.py). Written by BPF.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} mg_icmp SEC(".maps");

enum known { /* tables of which a missing row says something */
	     KNOWN_PODS = 1,
};
SCHEMA(enum known, known);

/* enum known -> 1: every row of the table has been written once. Agent. */
MAP_HASH(mg_known, __u32, __u32, 8, BPF_F_NO_PREALLOC);

struct icmp_cause {
	__u8 type4;
	__u8 code4;
	__u8 type6;
	__u8 code6;
	__u16 mtu;
	struct addr source; /* in whose name */
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 check;
	__be16 high; /* of the MTU: ICMPv6 */
	__be16 low;
};

/* decide */
static __framed bool icmp_token(void)
{
	__u32 key = ICMP_RATE;
	struct drop_rate *tokens = bpf_map_lookup_elem(&mg_drop_rate, &key);
	__u64 now = bpf_ktime_get_coarse_ns();

	if (!tokens || !cfg.icmp_errors)
		return false;
	__u64 most = cfg.icmp_errors > ICMP_BURST ? cfg.icmp_errors : ICMP_BURST;
	__u64 fresh = (now - tokens->at) * cfg.icmp_errors / NSEC_PER_SEC;
	if (!tokens->at || now - tokens->at > most * NSEC_PER_SEC)
		fresh = most;
	if (fresh) {
		tokens->left = tokens->left + fresh > most ? most : tokens->left + fresh;
		tokens->at = now;
	}
	if (!tokens->left)
		return false;
	tokens->left--;
	return true;
}

/* decide: RFC 1122 3.2.2, RFC 4443 2.4(e): nothing answers errors, later fragments, multicast */
static __always_inline bool icmp_may_answer(const struct packet *packet)
{
	return !is_icmp_error(packet) && packet->fragment != FRAGMENT_LATER && icmp_token();
}

/* look up: whether the device or the stack completes the transport checksum; then a change of the
 * data leaves the field, which `half` becomes, as it is.
 */
static __framed bool is_half_summed(hook_t *ctx, __u32 check, __be16 *half)
{
	__be16 after = 0;

	if (hook_load(ctx, check, half, sizeof(*half)))
		return false;
	hook_check_l4(ctx, check, 0, 1, 2);
	hook_load(ctx, check, &after, sizeof(after));
	if (*half == after)
		return true;
	hook_store(ctx, check, half, sizeof(*half), 0);
	return false;
}

/* look up: the sum of what is quoted, as it leaves. A transport checksum that is completed later
 * makes all that it covers sum up to the complement of what stands in its field before.
 */
static __framed __u64 sum_quoted(hook_t *ctx, const struct packet *packet, __u32 size)
{
	__u64 sum = 0;
	__u32 word;
	__be16 half;

	if ((packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP) &&
	    is_half_summed(ctx, packet->l4 + transport_check(packet->protocol), &half)) {
		size = packet->l4 - L3_OFFSET;
		sum = (__be16)~half;
	}

	for (__u32 i = 0; i < ICMP_EMBEDDED_MAX / 4; i++) {
		if (i * 4 >= size || hook_load(ctx, L3_OFFSET + i * 4, &word, 4))
			break;
		sum += word;
	}
	return sum;
}

static __always_inline struct icmp_header icmp_header(const struct packet *packet,
						      const struct icmp_cause *cause)
{
	bool v4 = packet->family == 4;

	return (struct icmp_header){.type = v4 ? cause->type4 : cause->type6,
				    .code = v4 ? cause->code4 : cause->code6,
				    .low = bpf_htons(cause->mtu)};
}

static __framed long icmp_push_v4(hook_t *ctx, const struct packet *packet,
				  const struct icmp_cause *cause, __u32 size)
{
	struct {
		struct ipv4_header ip;
		struct icmp_header icmp;
	} error = {
	    .ip = {.version_ihl = 0x45,
		   .tos = 0xc0,
		   .length = bpf_htons(sizeof(error) + size),
		   .ttl = 64,
		   .protocol = IPPROTO_ICMP,
		   .source = cause->source.w[3],
		   .destination = packet->source.w[3]},
	    .icmp = icmp_header(packet, cause),
	};
	if (hook_cut(ctx, L3_OFFSET + size))
		return -1;
	__u64 sum = sum_quoted(ctx, packet, size);
	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&error.icmp, sizeof(error.icmp), 0);
	error.icmp.check = fold(sum);
	sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&error.ip, sizeof(error.ip), 0);
	error.ip.check = fold(sum);
	if (hook_room(ctx, sizeof(error), 0))
		return -1;
	return hook_store(ctx, L3_OFFSET, &error, sizeof(error), BPF_F_RECOMPUTE_CSUM);
}

static __framed long icmp_push_v6(hook_t *ctx, const struct packet *packet,
				  const struct icmp_cause *cause, __u32 size)
{
	struct {
		struct ipv6_header ip;
		struct icmp_header icmp;
	} error = {
	    .ip = {.version_class_label = bpf_htonl(0x60000000),
		   .payload = bpf_htons(sizeof(error.icmp) + size),
		   .next = IPPROTO_ICMPV6,
		   .hop_limit = 64},
	    .icmp = icmp_header(packet, cause),
	};
	if (hook_cut(ctx, L3_OFFSET + size))
		return -1;
	__u64 sum = sum_quoted(ctx, packet, size);
	sum += (__u64)bpf_htonl(sizeof(error.icmp) + size) + bpf_htonl(IPPROTO_ICMPV6);
	__builtin_memcpy(error.ip.source, &cause->source, 16);
	__builtin_memcpy(error.ip.destination, &packet->source, 16);
	sum += (__u32)bpf_csum_diff(NULL, 0, error.ip.source, 32, 0);
	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&error.icmp, sizeof(error.icmp), 0);
	error.icmp.check = fold(sum);
	if (hook_room(ctx, sizeof(error), 0))
		return -1;
	return hook_store(ctx, L3_OFFSET, &error, sizeof(error), BPF_F_RECOMPUTE_CSUM);
}

/* act: leave a copy of the finished frame to the agent */
static __framed void icmp_repeat(hook_t *ctx, const struct way *way)
{
	struct icmp_late *late = bpf_ringbuf_reserve(&mg_icmp, sizeof(*late), 0);
	__u32 length = hook_length(ctx);

	if (!late)
		return;
	late->ifindex = way->ifindex;
	late->length = length;
	if (!length || length > ICMP_FRAME_MAX || hook_load(ctx, 0, late->frame, length))
		bpf_ringbuf_discard(late, 0);
	else
		bpf_ringbuf_submit(late, 0);
}

/* decide: an error from elsewhere about a SYN; between veths it is as fast as our own */
static __always_inline bool is_about_syn(hook_t *ctx, const struct packet *packet)
{
	__u8 flags;

	if (!is_icmp_error(packet) || packet->flow.protocol != IPPROTO_TCP || !packet->inner_l4 ||
	    hook_load(ctx, packet->inner_l4 + 13, &flags, sizeof(flags)))
		return false;
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN && icmp_token();
}

/* act: into a pod; an error about its SYN goes there twice */
static __always_inline int icmp_enter(hook_t *ctx, const struct packet *packet,
				      const struct way *way)
{
	int verdict = forward_pod(ctx, way);

	if (way->kind.late || is_about_syn(ctx, packet))
		icmp_repeat(ctx, way);
	return verdict;
}

/* decide: it came from a pod or host of another node, not from a gateway's side of egress */
static __always_inline bool is_from_mesh(const struct packet *packet)
{
	return packet->sender && !gateway_accepts(&packet->source, cfg.node);
}

/* look up: this host's own address; where it has none of the family, `own` stays as it is */
static __framed void own_address(hook_t *ctx, const struct packet *packet, const struct addr *to,
				 struct addr *own)
{
	struct bpf_fib_lookup fib = {.family = AF_INET6, .ifindex = hook_device(ctx)};

	if (packet->family == 4) {
		addr_from_v4(own, cfg.node);
		return;
	}
	__builtin_memcpy(fib.ipv6_dst, to, 16);
	if (!hook_source(ctx, &fib))
		__builtin_memcpy(own, fib.ipv6_src, 16);
}

/* decide: in whose name. A sender knows a hop of the way by its own address, and another node
 * believes this one only in its own name; all else comes from where the packet went to, which is
 * what a firewall lets through.
 */
static __always_inline void icmp_name(hook_t *ctx, const struct packet *packet,
				      struct icmp_cause *cause, __u32 reason)
{
	cause->source = packet->destination;
	if (packet->zone)
		return; /* a VRF knows no address of ours */
	if (is_from_mesh(packet))
		own_address(ctx, packet, &packet->source, &cause->source);
	else if (reason == DROP_TTL_EXCEEDED)
		own_address(ctx, packet, &packet->destination, &cause->source);
}

/* decide: this host has sent it, and it was to leave by the uplink */
static __always_inline bool is_leaving_host(const struct packet *packet)
{
	return packet->point == POINT_TO_UPLINK && packet->identity == IDENTITY_HOST;
}

/* decide: the error goes back to a pod, to the node that tunnelled the packet, or by the routes.
 * Returns 0 or a drop reason.
 */
static __framed int icmp_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	way->kind = (struct way_kind){};
	if (packet->point == POINT_FROM_POD) {
		struct pod *pod = pod_find(source_key(packet));
		way->kind.late = is_syn(packet);
		return pod ? pod_way(way, pod) : DROP_UNKNOWN_L3_TARGET;
	}
	if (packet->zone)
		return DROP_UNKNOWN_L3_TARGET; /* no route of this host leads into a VRF */
	if (packet->point == POINT_FROM_HOST || is_leaving_host(packet)) {
		way->kind.act = ACT_HOST;
		return 0;
	}
	packet->length = 0; /* limits were for the packet, not for the error */
	__u32 vni = is_from_mesh(packet) ? IDENTITY_REMOTE_NODE : IDENTITY_WORLD;
	if (packet->sender && !HOOK_HAS_DEVICE)
		return overlay_way(ctx, packet, way, packet->sender, vni);
	if (packet->sender) {
		way->kind.act = ACT_DEVICE;
		way->node = packet->sender;
		way->vni = vni;
		return 0;
	}
	return hop_way(ctx, packet, way, &packet->destination, &packet->source);
}

/* decide: an address of this node's pod CIDRs that no pod has, as far as anybody knows */
static __framed bool is_gone(const struct packet *packet)
{
	__u32 pods = KNOWN_PODS;
	struct address to;

	if (!bpf_map_lookup_elem(&mg_known, &pods) ||
	    bpf_map_lookup_elem(&mg_address, destination_key(packet)))
		return false;
	address_find(destination_key(packet), &to);
	return to.kind == ADDRESS_POD && to.node == cfg.node;
}

/* decide: drops that the sender is told of */
static __always_inline bool icmp_tells(const struct way *way, int reason)
{
	return way->kind.tell || reason == DROP_FRAGMENTATION_NEEDED ||
	       reason == DROP_TTL_EXCEEDED || reason == DROP_CT_MAP_INSERTION_FAILED ||
	       reason == DROP_NOT_ACKNOWLEDGED;
}

/* decide: the error says that it is not allowed: a quota; and an id for a query, RFC 5508 REQ-8 */
static __always_inline bool is_prohibited(const struct packet *packet, __u32 reason)
{
	bool full = reason == DROP_NO_NAT_MAPPING || reason == DROP_NO_RUN;

	return reason == DROP_PORT_QUOTA || reason == DROP_RATE_LIMITED ||
	       reason == DROP_COVERED_IN_VRF || (full && packet->icmp == ICMP_ECHO);
}

/* act: count the drop; true when the packet has become the error that tells its sender why, and
 * `way` leads there
 */
__global int drop_with_icmp(hook_t *ctx, struct packet *packet, struct way *way, __u32 reason)
{
	if (!packet || !way)
		return false;
	struct icmp_cause cause = {.type4 = 3, .code4 = 1, .type6 = 1, .code6 = 3};
	if (reason == DROP_FRAGMENTATION_NEEDED)
		cause = (struct icmp_cause){.type4 = 3, .code4 = 4, .type6 = 2, .mtu = packet->mtu};
	else if (reason == DROP_TTL_EXCEEDED)
		cause = (struct icmp_cause){.type4 = 11, .type6 = 3};
	else if (is_prohibited(packet, reason))
		cause = (struct icmp_cause){.type4 = 3, .code4 = 13, .type6 = 1, .code6 = 1};
	else if (reason == DROP_FIB_LOOKUP_FAILED || reason == DROP_NO_VRF_ROUTE)
		cause = (struct icmp_cause){.type4 = 3, .type6 = 1};
	else if (reason == DROP_NOT_ACKNOWLEDGED) /* administratively prohibited */
		cause = (struct icmp_cause){.type4 = 3, .code4 = 13, .type6 = 1, .code6 = 1};
	icmp_name(ctx, packet, &cause, reason);
	__u32 size = packet->end - L3_OFFSET;
	drop(ctx, packet, reason);
	if (!icmp_may_answer(packet))
		return false;
	size = (size < ICMP_EMBEDDED_MAX ? size : ICMP_EMBEDDED_MAX) & ~3U;
	long failed = packet->family == 4 ? icmp_push_v4(ctx, packet, &cause, size)
					  : icmp_push_v6(ctx, packet, &cause, size);
	return !failed && !icmp_way(ctx, packet, way);
}
