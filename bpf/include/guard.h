/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The overlay port is ours. Nodes believe a tunnel packet by its outer source, so nobody but the
 * overlay may send one: no pod to a node (mg_from_pod), and nothing by the uplink that the overlay
 * has not vouched for (mg_to_uplink).
 */
#pragma once
#include "addresses.h"
#include "overlay.h"
#include "parse.h"

/* look up: the endpoint of the node that has an address, whichever way it is known; 0: none has */
static __framed __be32 node_of(const struct zoned_addr *addr)
{
	struct address found;

	if (addr_is_v4((const struct addr *)addr) &&
	    (addr->w[3] == cfg.node || bpf_map_lookup_elem(&mg_node, &addr->w[3])))
		return addr->w[3];
	address_find(addr, &found);
	return found.kind && found.kind != ADDRESS_POD ? found.node : 0;
}

/* look up: a port on which nodes take the overlay; nearly no packet is for one */
static __framed bool is_overlay_port(__be16 port)
{
	__u32 number = bpf_ntohs(port);

	return port == own_port() || bpf_map_lookup_elem(&mg_port, &number);
}

/* decide: the node takes the overlay on this port, one of is_overlay_port; of a node whose row is
 * missing nobody knows which it is
 */
static __framed bool takes_overlay(__be32 endpoint, __be16 port)
{
	struct node *node;

	if (endpoint == cfg.node)
		return port == own_port();
	node = bpf_map_lookup_elem(&mg_node, &endpoint);
	return !node || node_port(node) == port;
}

/* look up: whether a packet is for an overlay port, of whomever */
static __always_inline void overlay_port_note(struct packet *packet)
{
	packet->overlay_port =
	    packet->protocol == IPPROTO_UDP && is_overlay_port(packet->flow.destination_port);
}

/* decide: a pod's packet to the overlay port of a node */
static __always_inline bool is_to_overlay(struct packet *packet)
{
	__be16 port = packet->flow.destination_port;

	overlay_port_note(packet);
	if (!packet->overlay_port)
		return false;
	__be32 endpoint = node_of(destination_key(packet));
	return endpoint && takes_overlay(endpoint, port);
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
		return v4->ip.protocol == IPPROTO_UDP && (options || is_overlay_port(v4->ports[1]));
	}
	struct {
		struct ipv6_header ip;
		__be16 ports[2];
	} *v6 = packet_at(ctx, L3_OFFSET, sizeof(*v6));

	if (!v6 || hook_protocol(ctx) != bpf_htons(ETH_P_IPV6))
		return hook_protocol(ctx) == bpf_htons(ETH_P_IPV6);
	return is_extension(v6->ip.next) ||
	       (v6->ip.next == IPPROTO_UDP && is_overlay_port(v6->ports[1]));
}

/* decide: a packet to the overlay port of a node, or to one from a node, that is not the overlay's.
 * The source counts, too: other nodes may know one that this node does not know yet. Returns 0 or a
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
	if (packet_load(ctx, chain.offset + 2, &port, sizeof(port)) || !is_overlay_port(port))
		return 0;
	__be32 to = node_of(destination_key(packet));
	if (cfg.beside && (!to || port != own_port()))
		return 0; /* the other CNI may have an overlay of its own */
	if (to ? !takes_overlay(to, port) : !node_of(source_key(packet)))
		return 0;
	packet->protocol = IPPROTO_UDP;
	packet->flow.destination_port = port;
	return DROP_OVERLAY_PORT;
}

/* act: the kernel's device sends to the port that it has itself; the node of the packet takes the
 * overlay on another. Fragments behind the first have no port, and the outer checksum is 0.
 */
static __framed void overlay_move(hook_t *ctx)
{
	struct {
		struct ipv4_header ip;
		__be16 ports[2];
	} outer;

	if (hook_protocol(ctx) != bpf_htons(ETH_P_IP) ||
	    packet_load(ctx, L3_OFFSET, &outer, sizeof(outer)))
		return;
	struct node *node = bpf_map_lookup_elem(&mg_node, &outer.ip.destination);
	if (!node || bpf_ntohs(outer.ip.fragment) & IPV4_FRAGMENT_OFFSET)
		return;
	outer.ports[1] = node_port(node);
	packet_store(ctx, L3_OFFSET + sizeof(outer.ip), outer.ports, sizeof(outer.ports));
}
