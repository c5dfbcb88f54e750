/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The overlay port is ours. Nodes believe a tunnel packet by its outer source, so nobody but the
 * overlay may send one: no pod to a node (mg_from_pod), and nothing by the uplink that the overlay
 * has not vouched for (mg_to_uplink).
 */
#pragma once
#include "addresses.h"
#include "overlay.h"
#include "parse.h"

/* look up: an address of a node, whichever way it is known */
static __framed bool is_node(const struct zoned_addr *addr)
{
	struct address found;

	if (addr_is_v4((const struct addr *)addr) &&
	    (addr->w[3] == cfg.node || bpf_map_lookup_elem(&mg_node, &addr->w[3])))
		return true;
	address_find(addr, &found);
	return found.kind && found.kind != ADDRESS_POD;
}

/* decide: a pod's packet to the overlay port of a node */
static __always_inline bool is_to_overlay(const struct packet *packet)
{
	return packet->flow.destination_port == bpf_htons(VXLAN_PORT) &&
	       packet->protocol == IPPROTO_UDP && is_node(destination_key(packet));
}

/* look up: a header that UDP's may stand behind */
static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_FRAGMENT || next == IPPROTO_HOPOPTS || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_ROUTING;
}

/* look up: worth parsing; nearly nothing that leaves is */
static __always_inline bool may_be_tunnel(hook_t *ctx)
{
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		struct {
			struct ipv4_header ip;
			__be16 ports[2];
		} *v4 = packet_at(ctx, L3_OFFSET, sizeof(*v4));

		if (!v4)
			return true;
		bool options = v4->ip.version_ihl != 0x45;
		return v4->ip.protocol == IPPROTO_UDP &&
		       (options || v4->ports[1] == bpf_htons(VXLAN_PORT));
	}
	struct {
		struct ipv6_header ip;
		__be16 ports[2];
	} *v6 = packet_at(ctx, L3_OFFSET, sizeof(*v6));

	if (!v6 || hook_protocol(ctx) != bpf_htons(ETH_P_IPV6))
		return hook_protocol(ctx) == bpf_htons(ETH_P_IPV6);
	return is_extension(v6->ip.next) ||
	       (v6->ip.next == IPPROTO_UDP && v6->ports[1] == bpf_htons(VXLAN_PORT));
}

/* decide: a packet to the overlay port, with a node at one end, that is not the overlay's. The
 * source counts, too: other nodes may know one that this node does not know yet. Returns 0 or a
 * drop reason.
 */
static __framed int tunnel_forged(hook_t *ctx, struct packet *packet)
{
	struct extensions chain = {.offset = packet->l4, .next = packet->protocol};
	__be16 port = 0;

	if (packet->family == 6 && parse_extensions(ctx, &chain))
		return 0;
	if (chain.next != IPPROTO_UDP || packet->fragment == FRAGMENT_LATER ||
	    chain.fragment_offset & IPV6_FRAGMENT_OFFSET)
		return 0;
	if (packet_load(ctx, chain.offset + 2, &port, sizeof(port)) ||
	    port != bpf_htons(VXLAN_PORT))
		return 0;
	if (!is_node(source_key(packet)) && !is_node(destination_key(packet)))
		return 0;
	packet->protocol = IPPROTO_UDP;
	packet->flow.destination_port = port;
	return DROP_OVERLAY_PORT;
}
