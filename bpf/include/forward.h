/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The last step: into a pod of this node, or out by the kernel's routes. */
#pragma once
#include "addresses.h"
#include "config.h"
#include "learned.h"
#include "way.h"

/* decide: into a pod of this node */
static __always_inline int pod_way(struct way *way, const struct pod *pod)
{
	way->kind.act = ACT_POD;
	way->ifindex = pod->ifindex;
	__builtin_memcpy(way->mac, pod->mac, ETH_ALEN);
	__builtin_memcpy(way->host_mac, pod->host_mac, ETH_ALEN);
	return 0;
}

/* act: into a pod, as if its peer had sent it */
static __always_inline int forward_pod(hook_t *ctx, const struct way *way)
{
	struct ethhdr eth = {.h_proto = hook_protocol(ctx)};

	__builtin_memcpy(eth.h_dest, way->mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, way->host_mac, ETH_ALEN);
	packet_store(ctx, 0, &eth, sizeof(eth));
	if (cfg.beside)
		hook_vouch(ctx); /* for mg_to_pod, behind the pod's device */
	return hook_to_pod(way->ifindex);
}

/* decide: by the kernel's route from `source`: what BGP has taught comes first, then the host's
 * tables, policy rules included; by the stack when the hook needs a neighbour that the kernel does
 * not know yet. Returns 0 or a drop reason; DROP_FRAGMENTATION_NEEDED sets packet->mtu.
 */
static __framed int hop_way(hook_t *ctx, struct packet *packet, struct way *way,
			    const struct addr *source, const struct addr *destination)
{
	struct bpf_fib_lookup fib = {.family = packet->family == 4 ? AF_INET : AF_INET6,
				     .l4_protocol = packet->protocol,
				     .tot_len = packet->length,
				     .ifindex = hook_device(ctx)};

	if (packet->family == 4) {
		fib.ipv4_src = source->w[3];
		fib.ipv4_dst = destination->w[3];
	} else {
		__builtin_memcpy(fib.ipv6_src, source, 16);
		__builtin_memcpy(fib.ipv6_dst, destination, 16);
	}
	long result = learned_route(ctx, &fib, way->mac, way->host_mac);
	if (result == BPF_FIB_LKUP_RET_NOT_FWDED)
		result = hook_route(ctx, &fib, 0, way->mac, way->host_mac);
	packet->mtu = fib.mtu_result;
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return DROP_FRAGMENTATION_NEEDED;
	if (result == BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	way->kind.tell = result && result != BPF_FIB_LKUP_RET_BLACKHOLE;
	if (result)
		return DROP_FIB_LOOKUP_FAILED;
	way->kind.act = ACT_HOP;
	way->hop.ifindex = fib.ifindex;
	way->hop.next.nh_family = fib.family;
	__builtin_memcpy(way->hop.next.ipv6_nh, fib.ipv6_dst, 16);
	return 0;
}

/* act: out by the route */
static __always_inline int forward_hop(hook_t *ctx, struct way *way)
{
	if (way->kind.virtual && way->hop.ifindex == cfg.uplink)
		hook_virtual(ctx, way->kind.known);
	else if (way->kind.known && way->hop.ifindex == cfg.uplink)
		hook_vouch(ctx); /* for mg_to_uplink */
	return hook_to_hop(ctx, way->hop.ifindex, &way->hop.next, way->mac, way->host_mac);
}
