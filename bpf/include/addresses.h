/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who an address is, and whether a packet may carry it as its source. */
#pragma once
#include "config.h"
#include "maps.h"
#include "packet.h"

enum {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_RESERVED_END = 256,
};

/* look up: an address of the mesh, by its own row or by its node's pod CIDR; kind 0: world */
static __framed void address_find(const struct addr *addr, struct address *found)
{
	struct address *address = bpf_map_lookup_elem(&mg_address, addr);

	if (address) {
		*found = *address;
		return;
	}
	struct cidr_key key = {.prefix = 128, .addr = *addr};
	struct cidr *cidr = bpf_map_lookup_elem(&mg_addr_cidr, &key);
	*found = (struct address){.identity = IDENTITY_WORLD};
	if (cidr)
		*found = (struct address){.node = cidr->node, .kind = ADDRESS_POD};
}

static __always_inline struct pod *pod_find(const struct addr *addr)
{
	return bpf_map_lookup_elem(&mg_pod_addr, addr);
}

/* What Linux never forwards: IPv6 link-local, multicast, 0.0.0.0/8, 255.255.255.255. */
static __always_inline bool is_link_scope(const struct addr *addr)
{
	if (!addr_is_v4(addr)) {
		__u32 top = bpf_ntohl(addr->w[0]);
		return top >> 24 == 0xff || top >> 22 == 0xfe80 >> 6;
	}
	__u32 v4 = bpf_ntohl(addr->w[3]);
	return v4 >> 28 == 0xe || v4 >> 24 == 0 || v4 == 0xffffffff;
}

/* Neighbour discovery of a pod: its source is link-local, or unspecified while it probes. */
static __always_inline bool is_neighbour_talk(const struct packet *packet)
{
	return packet->icmp == ICMP_NEIGHBOUR &&
	       (addr_is_zero(&packet->source) || is_link_scope(&packet->source));
}

/* decide: the pod behind this device, which may only use its own addresses */
static __always_inline int pod_source(const struct packet *packet, __u32 ifindex, struct pod **pod)
{
	*pod = pod_find(&packet->source);
	if (!*pod) {
		struct address owner;

		address_find(&packet->source, &owner);
		return owner.kind == ADDRESS_POD && owner.node == cfg.node ? DROP_ENDPOINT_NOT_READY
									   : DROP_INVALID_SOURCE_IP;
	}
	return (*pod)->ifindex == ifindex ? 0 : DROP_INVALID_SOURCE_IP;
}

/* decide: an identity that a tunnel packet of this cluster may carry */
static __always_inline int identity_allowed(__u32 identity, __u32 cluster)
{
	if (identity == IDENTITY_REMOTE_NODE)
		return 0;
	if (identity < IDENTITY_RESERVED_END)
		return DROP_INVALID_IDENTITY;
	return identity >> cfg.cluster_shift == cluster ? 0 : DROP_INVALID_CLUSTER_ID;
}

/* decide: an inner source that lives behind the node that sent it */
static __always_inline int tunnel_source(const struct packet *packet)
{
	struct address owner;

	address_find(&packet->source, &owner);
	__u8 kind = packet->identity == IDENTITY_REMOTE_NODE ? ADDRESS_NODE : ADDRESS_POD;
	return owner.kind == kind && owner.node == packet->sender ? 0 : DROP_INVALID_SOURCE_IP;
}
