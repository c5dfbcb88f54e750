/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* VXLAN with an identity in the VNI, built and stripped by hand: a kernel VXLAN device costs 2.5
 * times as much. The kernel's device mg_vxlan takes what needs the stack: outer fragments, and UDP
 * GSO aggregates, which a BPF decapsulation cannot clean of their tunnel type.
 */
#pragma once
#include "config.h"
#include "event.h"
#include "way.h"

enum node_flag {
	NODE_OVERLAY_V4 = 1, /* our cluster's: no native route leads to its pods, so its host */
	NODE_OVERLAY_V6 = 2, /* is reached by the overlay, too */
	NODE_HOSTS = 4,	     /* another cluster's, whose contract lets it reach hosts of ours */
};
SCHEMA(enum node_flag, node_flag);

struct node {		 /* another node, by its tunnel endpoint */
	__be32 next_hop; /* IPv4 next hop of the outer packet */
	__u32 cluster;
	__u32 flags; /* enum node_flag */
};

/* tunnel endpoint -> next hop, cluster, flags: who may send to our overlay. Agent, from table node.
 */
MAP_HASH(mg_node, __be32, struct node, 16384, BPF_F_NO_PREALLOC);

enum overlay_number {
	VXLAN_PORT = 8472,
	VXLAN_VALID_VNI = 0x08000000,
	OVERLAY_SIZE = 50,
	OVERLAY_TTL = 64,
};
SCHEMA(enum overlay_number, overlay_number);

struct overlay { /* what stands between the outer Ethernet header and the inner packet */
	struct ipv4_header ip;
	__be16 source_port;
	__be16 destination_port;
	__be16 length;
	__be16 check;
	__be32 flags;
	__be32 vni;
	struct ethhdr eth;
} __attribute__((packed));

static __always_inline __be16 overlay_port(const struct tuple *flow)
{
	return bpf_htons(0x8000 | (flow_hash(flow, flow_ports(flow)) & 0x7fff));
}

static __always_inline __u16 overlay_check(__u16 length, __be32 source, __be32 destination)
{
	__u32 sum = 0x4500 + 0x4000 + (OVERLAY_TTL << 8 | IPPROTO_UDP) + length;

	source = bpf_ntohl(source);
	destination = bpf_ntohl(destination);
	sum += (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return bpf_htons(~sum);
}

static __always_inline bool overlay_fits(struct packet *packet)
{
	packet->mtu = cfg.uplink_mtu - OVERLAY_SIZE;
	return packet->length <= packet->mtu;
}

/* decide: to another node. What does not fit may be fragmented by the kernel's device only, and not
 * at all when the packet forbids it. Returns 0 or a drop reason.
 */
static __framed int overlay_way(struct packet *packet, struct way *way, __be32 endpoint, __u32 vni)
{
	bool fits = overlay_fits(packet);

	if (!fits && is_unfragmentable(packet))
		return DROP_FRAGMENTATION_NEEDED;
	struct node *node = bpf_map_lookup_elem(&mg_node, &endpoint);
	if (!node)
		return DROP_NO_TUNNEL_ENDPOINT;
	way->kind.act = fits ? ACT_NODE : ACT_DEVICE;
	way->node = endpoint;
	way->next_hop = node->next_hop;
	way->vni = vni;
	return 0;
}

/* decide: no native route leads to the pods of a node, and so none from its host to ours */
static __always_inline bool is_overlay_host(const struct packet *packet, __be32 endpoint)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &endpoint);

	return node && node->flags & (packet->family == 4 ? NODE_OVERLAY_V4 : NODE_OVERLAY_V6);
}

/* act: through the kernel's device, which may fragment the outer packet */
static __framed int overlay_kernel(hook_t *ctx, const struct way *way)
{
	struct bpf_tunnel_key key = {
	    .tunnel_id = way->vni, .remote_ipv4 = bpf_ntohl(way->node), .tunnel_ttl = OVERLAY_TTL};

	int verdict = hook_to_device(ctx, cfg.vxlan, &key);
	return verdict == HOOK_DROP ? DROP_WRITE_ERROR : verdict;
}

/* act: the outer headers in front. Returns 0 or a drop reason. */
static __always_inline int overlay_push(hook_t *ctx, const struct packet *packet, __be32 endpoint,
					__u32 vni)
{
	__u32 length = hook_length(ctx) - L3_OFFSET + OVERLAY_SIZE; /* of a GSO packet: cut later */
	__be16 inner = hook_protocol(ctx);

	if (hook_room(ctx, OVERLAY_SIZE,
		      BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			  BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
			  BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct overlay *overlay = data + sizeof(*eth);
	if ((void *)(overlay + 1) > end)
		return DROP_WRITE_ERROR;
	eth->h_proto = bpf_htons(ETH_P_IP);
	overlay->ip = (struct ipv4_header){
	    .version_ihl = 0x45,
	    .length = bpf_htons(length),
	    .fragment = bpf_htons(0x4000),
	    .ttl = OVERLAY_TTL,
	    .protocol = IPPROTO_UDP,
	    .check = overlay_check(length, cfg.node, endpoint),
	    .source = cfg.node,
	    .destination = endpoint,
	};
	overlay->source_port = overlay_port(&packet->flow);
	overlay->destination_port = bpf_htons(VXLAN_PORT);
	overlay->length = bpf_htons(length - sizeof(struct ipv4_header));
	overlay->check = 0;
	overlay->flags = bpf_htonl(VXLAN_VALID_VNI);
	overlay->vni = bpf_htonl(vni << 8);
	__builtin_memset(&overlay->eth, 2, 2 * ETH_ALEN); /* any unicast address will do */
	overlay->eth.h_proto = inner;
	return 0;
}

/* act: to another node. Returns a verdict or a drop reason. */
static __always_inline int overlay_send(hook_t *ctx, const struct packet *packet,
					const struct way *way)
{
	int reason = overlay_push(ctx, packet, way->node, way->vni);

	return reason ? reason : hook_to_neighbour(ctx, cfg.uplink, way->next_hop);
}
