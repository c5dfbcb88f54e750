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
	NODE_OVERLAY_V4 = 1, /* no native route leads to its pods, so its host is reached by the */
	NODE_OVERLAY_V6 = 2, /* overlay, too: our cluster's, or one with NODE_HOSTS */
	NODE_HOSTS = 4,	     /* another cluster's, by whose contract hosts reach each other */
};
SCHEMA(enum node_flag, node_flag);

struct node {		 /* another node, by its tunnel endpoint */
	__be32 next_hop; /* IPv4 next hop of the outer packet */
	__u32 cluster;
	__u32 flags;	 /* enum node_flag */
	__u32 route_mtu; /* of the route, if it has one; 0: that of its device */
	/* written by BPF (node_mtu) */
	__u32 asked; /* second in which the kernel was asked; 0: never */
	__u32 mtu;   /* its answer: MTU of the path; 0: none */
	__u32 port;  /* UDP port of its overlay; 0: VXLAN_PORT */
};

/* tunnel endpoint -> next hop, cluster, flags: who may send to our overlay. Agent, from table node;
 * what BPF has written there goes with each new row, and is asked for again.
 */
MAP_HASH(mg_node, __be32, struct node, 16384, BPF_F_NO_PREALLOC);

enum overlay_number {
	VXLAN_PORT = 8472, /* of whoever says nothing else: of Cilium, too */
	VXLAN_VALID_VNI = 0x08000000,
	OVERLAY_SIZE = 50,
	OVERLAY_TTL = 64,
	OVERLAY_PATH_MIN = 552,	  /* no path has less for long: net.ipv4.route.min_pmtu */
	OVERLAY_INNER_MIN = 1280, /* RFC 8200 5: no pod hears of less, whatever the path has */
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

/* UDP ports on which nodes of any cluster take the overlay, the own one's not among them. Agent,
 * from table node hop: a packet to no such port is none of the overlay's.
 */
MAP_HASH(mg_port, __u32, __u32, 512, BPF_F_NO_PREALLOC);

/* look up: the port on which this node takes the overlay */
static __always_inline __be16 own_port(void)
{
	return bpf_htons(cfg.overlay_port ? cfg.overlay_port : VXLAN_PORT);
}

/* look up: that of another node */
static __always_inline __be16 node_port(const struct node *node)
{
	return bpf_htons(node->port ? node->port : VXLAN_PORT);
}

static __always_inline __be16 overlay_source(const struct tuple *flow)
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

/* look up: the kernel's MTU of the path, in which ICMP errors about our outer packets have a say.
 * It does not count a route's own MTU unless that is locked, so the agent says it. CPUs that ask at
 * once get the same answer.
 */
static __framed void node_ask(hook_t *ctx, struct node *node, __be32 endpoint)
{
	struct bpf_fib_lookup fib = {.family = AF_INET,
				     .tot_len = 1, /* or the kernel says the device's MTU */
				     .ifindex = cfg.uplink,
				     .ipv4_src = cfg.node,
				     .ipv4_dst = endpoint};
	long result = hook_path(ctx, &fib);

	node->mtu = result == BPF_FIB_LKUP_RET_SUCCESS ? fib.mtu_result : 0;
}

/* look up: what an outer packet to a node may have, asked for once a second */
static __always_inline __u32 node_mtu(hook_t *ctx, struct node *node, __be32 endpoint)
{
	__u32 now = now_s();

	if (node->asked != now) {
		node->asked = now;
		node_ask(ctx, node, endpoint);
	}
	__u32 mtu = node->mtu ? node->mtu : cfg.uplink_mtu, route = node->route_mtu;
	return route && route < mtu ? route : mtu;
}

/* decide: by hand, or through the kernel's device, which fragments the outer packet when the inner
 * one allows that, and when it is one that an IPv6 path must carry. Returns 0 or a drop reason;
 * DROP_FRAGMENTATION_NEEDED sets packet->mtu.
 */
static __always_inline int overlay_fit(hook_t *ctx, struct packet *packet, struct way *way,
				       struct node *node, __be32 endpoint)
{
	way->kind.act = ACT_NODE;
	if (packet->length <= OVERLAY_PATH_MIN - OVERLAY_SIZE)
		return 0;
	__u32 most = node_mtu(ctx, node, endpoint) - OVERLAY_SIZE;
	if (packet->length <= most)
		return 0;
	way->kind.act = ACT_DEVICE;
	packet->mtu = most > OVERLAY_INNER_MIN ? most : OVERLAY_INNER_MIN;
	return packet->length > packet->mtu && is_unfragmentable(packet) ? DROP_FRAGMENTATION_NEEDED
									 : 0;
}

/* decide: to another node. Returns 0 or a drop reason. */
static __framed int overlay_way(hook_t *ctx, struct packet *packet, struct way *way,
				__be32 endpoint, __u32 vni)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &endpoint);

	if (!node)
		return DROP_NO_TUNNEL_ENDPOINT;
	int reason = overlay_fit(ctx, packet, way, node, endpoint);
	if (reason)
		return reason;
	way->node = endpoint;
	way->next_hop = node->next_hop;
	way->vni = vni;
	way->port = node_port(node);
	return 0;
}

/* look up: enum node_flag of another node; 0 for one that is not known */
static __always_inline __u32 node_flags(__be32 endpoint)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &endpoint);

	return node ? node->flags : 0;
}

/* decide: no native route leads to the pods of a node, and so none from its host to ours */
static __always_inline bool is_overlay_host(const struct packet *packet, __be32 endpoint)
{
	return node_flags(endpoint) & (packet->family == 4 ? NODE_OVERLAY_V4 : NODE_OVERLAY_V6);
}

/* act: through the kernel's device, which may fragment the outer packet */
static __framed int overlay_kernel(hook_t *ctx, const struct way *way)
{
	struct bpf_tunnel_key key = {.tunnel_id = way->vni,
				     .remote_ipv4 = bpf_ntohl(way->node),
				     .local_ipv4 = bpf_ntohl(cfg.node), /* by it we are known */
				     .tunnel_ttl = OVERLAY_TTL};

	int verdict = hook_to_device(ctx, cfg.vxlan, &key);
	return verdict == HOOK_DROP ? DROP_WRITE_ERROR : verdict;
}

struct overlay_ends {
	__be32 source;
	__be32 destination;
	__be16 port; /* of the destination's overlay */
};

/* act: the outer headers into the room that is there. Returns 0 or a drop reason. */
static __always_inline int overlay_write(hook_t *ctx, const struct packet *packet,
					 struct overlay_ends ends, __u32 vni, __be16 inner)
{
	__u32 length = hook_length(ctx) - L3_OFFSET; /* of a GSO packet: cut later */
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
	    .check = overlay_check(length, ends.source, ends.destination),
	    .source = ends.source,
	    .destination = ends.destination,
	};
	overlay->source_port = overlay_source(&packet->flow);
	overlay->destination_port = ends.port;
	overlay->length = bpf_htons(length - sizeof(struct ipv4_header));
	overlay->check = 0;
	overlay->flags = bpf_htonl(VXLAN_VALID_VNI);
	overlay->vni = bpf_htonl(vni << 8);
	__builtin_memset(&overlay->eth, 2, 2 * ETH_ALEN); /* any unicast address will do */
	overlay->eth.h_proto = inner;
	return 0;
}

/* act: the outer headers in front. Returns 0 or a drop reason. */
static __framed int overlay_push(hook_t *ctx, const struct packet *packet, const struct way *way,
				 __be16 inner)
{
	if (hook_room(ctx, OVERLAY_SIZE,
		      BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			  BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
			  BPF_F_ADJ_ROOM_FIXED_GSO))
		return DROP_WRITE_ERROR;
	struct overlay_ends ends = {cfg.node, way->node, way->port};
	return overlay_write(ctx, packet, ends, way->vni, inner);
}

/* act: to another node, as an inner packet of this EtherType. Returns a verdict or a drop reason.
 */
static __always_inline int overlay_send(hook_t *ctx, const struct packet *packet,
					const struct way *way, __be16 inner)
{
	int reason = overlay_push(ctx, packet, way, inner);

	if (reason)
		return reason;
	hook_vouch(ctx);
	return hook_to_neighbour(ctx, cfg.uplink, way->next_hop);
}

enum echo_number {
	ECHO_PROTOCOL = 0x88b5, /* inner EtherType; IEEE Std 802: for local experiments */
	ECHO_NODE_AT = 2, /* in the frame: who is asked, in the last bytes of the destination */
};
SCHEMA(enum echo_number, echo_number);

enum echo_kind { /* first byte of an inner packet */
		 ECHO_QUESTION,
		 ECHO_ANSWER, /* it was sent back */
		 ECHO_PROBE,  /* probe.h */
		 ECHO_CLAIM,  /* layer2_answer.h */
		 ECHO_DIRECT, /* direct.h */
};
SCHEMA(enum echo_kind, echo_kind);

/* decide: an echo (echo.h) goes back to the node that has sent it */
static __always_inline void echo_back(struct way *way, __be32 sender, const struct node *node)
{
	way->kind.act = ACT_BACK;
	way->node = sender;
	way->next_hop = node->next_hop;
	way->port = node_port(node);
}

/* act: an echo (echo.h) back to its sender. Returns a verdict or a drop reason. */
static __framed int overlay_back(hook_t *ctx, const struct way *way)
{
	__be32 ends[] = {cfg.node, way->node};
	__u8 kind = ECHO_ANSWER;

	if (hook_store(ctx, L3_OFFSET + offsetof(struct ipv4_header, source), ends, sizeof(ends),
		       0) ||
	    hook_store(ctx, L3_OFFSET + offsetof(struct overlay, destination_port), &way->port,
		       sizeof(way->port), 0) ||
	    hook_store(ctx, L3_OFFSET + sizeof(struct overlay), &kind, sizeof(kind), 0))
		return DROP_WRITE_ERROR;
	hook_vouch(ctx);
	return hook_to_neighbour(ctx, cfg.uplink, way->next_hop);
}
