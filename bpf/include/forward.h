/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The last step: into a pod of this node, or out by the kernel's routes. */
#pragma once
#include "config.h"
#include "way.h"

/* decide: into a pod of this node */
static __always_inline int pod_way(struct way *way, const struct pod *pod)
{
	way->act = ACT_POD;
	way->ifindex = pod->ifindex;
	__builtin_memcpy(way->mac, pod->mac, ETH_ALEN);
	__builtin_memcpy(way->host_mac, pod->host_mac, ETH_ALEN);
	return 0;
}

/* act: into a pod, as if its peer had sent it */
static __always_inline int forward_pod(struct __sk_buff *ctx, const struct way *way)
{
	struct ethhdr eth = {.h_proto = ctx->protocol};

	__builtin_memcpy(eth.h_dest, way->mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, way->host_mac, ETH_ALEN);
	packet_store(ctx, 0, &eth, sizeof(eth));
	return bpf_redirect_peer(way->ifindex, 0);
}

/* look up: the kernel's route from `source`, policy rules included. Returns 0 or a drop reason;
 * DROP_FRAGMENTATION_NEEDED sets packet->mtu.
 */
static __framed int hop_find(struct __sk_buff *ctx, struct packet *packet,
			     const struct addr *source, const struct addr *destination,
			     struct hop *hop)
{
	struct bpf_fib_lookup fib = {.family = packet->family == 4 ? AF_INET : AF_INET6,
				     .l4_protocol = packet->protocol,
				     .tot_len = packet->length,
				     .ifindex = ctx->ifindex};

	if (packet->family == 4) {
		fib.ipv4_src = source->w[3];
		fib.ipv4_dst = destination->w[3];
	} else {
		__builtin_memcpy(fib.ipv6_src, source, 16);
		__builtin_memcpy(fib.ipv6_dst, destination, 16);
	}
	long result = bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_SKIP_NEIGH);
	packet->mtu = fib.mtu_result;
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return DROP_FRAGMENTATION_NEEDED;
	if (result)
		return DROP_FIB_LOOKUP_FAILED;
	hop->ifindex = fib.ifindex;
	hop->next.nh_family = fib.family;
	__builtin_memcpy(hop->next.ipv6_nh, fib.ipv6_dst, 16);
	return 0;
}

static __always_inline int forward_hop(struct hop *hop)
{
	return bpf_redirect_neigh(hop->ifindex, &hop->next, sizeof(hop->next), 0);
}
