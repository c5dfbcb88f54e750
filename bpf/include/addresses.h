/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who an address is, and whether a packet may carry it as its source. */
#pragma once
#include "config.h"
#include "packet.h"
#include "way.h"

enum address_kind {
	ADDRESS_POD = 1,    /* reached through the tunnel to .node */
	ADDRESS_NODE = 2,   /* a host; this one when .node is our own */
	ADDRESS_ROUTER = 3, /* a host, too, by an address that the tunnel leads to (Cilium's own) */
};
SCHEMA(enum address_kind, address_kind);

struct address { /* who an address is */
	__u32 identity;
	__be32 node; /* tunnel endpoint */
	__u8 kind;   /* enum address_kind */
	__u8 cluster;
	__u16 pad;
};

struct cidr_key { /* LPM; bits = 32 + those of the prefix in the 128-bit form */
	__u32 bits;
	__u16 pad;
	__u16 zone;
	struct addr addr;
};

struct cidr { /* pod CIDR of a node, for addresses that are not known yet */
	__be32 node;
	__u32 cluster;
};

struct pod {	       /* a pod of this node */
	__u32 ifindex; /* host side of its veth */
	__u32 identity;
	__u32 egress_class; /* 0: no policy covers it */
	/* Of a pod that ran before it got these numbers: the second (now_s) when it did. 0: it has
	 * had them from its start.
	 */
	__u32 since;
	__u8 mac[6];
	__u8 host_mac[6];
	__u32 vrf; /* number of its VRF; 0: none */
};

/* address -> identity, node: pods and nodes of every cluster. Agent, from table address. */
MAP_HASH(mg_address, struct zoned_addr, struct address, 524288, BPF_F_NO_PREALLOC);
/* pod CIDR -> node, for pods whose address has not arrived yet. Agent, from table node. */
MAP_LPM(mg_addr_cidr, struct cidr_key, struct cidr, 16384);
/* address -> pod of this node. Agent, from tables pod and egress. */
MAP_HASH(mg_pod_addr, struct zoned_addr, struct pod, 4096, BPF_F_NO_PREALLOC);
/* address in a VRF -> pod of this node; zone = the VRF's number, and so is .vrf. Tenant addresses,
 * and the cluster addresses of pods without them. Agent; written before the pod's own row above.
 */
MAP_HASH(mg_vrf_pod, struct zoned_addr, struct pod, 4096, BPF_F_NO_PREALLOC);

enum identity {
	IDENTITY_UNKNOWN = 0,
	IDENTITY_HOST = 1,
	IDENTITY_WORLD = 2,
	IDENTITY_HEALTH = 4,
	IDENTITY_REMOTE_NODE = 6,
	IDENTITY_INGRESS = 8,
	IDENTITY_WELL_KNOWN = 100, /* of parts of a cluster that run before there are identities */
	IDENTITY_WELL_KNOWN_END = 116,
	IDENTITY_RESERVED_END = 256,
	IDENTITY_CLUSTER_SHIFT =
	    16, /* of 24 bits, the upper ones are the cluster's id; 15 in 511 mode */
};
SCHEMA(enum identity, identity);

/* look up: an address of the mesh, by its own row or by its node's pod CIDR; kind 0: world */
__global int address_find(const struct zoned_addr *addr, struct address *found)
{
	if (!addr || !found)
		return 0;
	struct address *address = bpf_map_lookup_elem(&mg_address, addr);
	if (address) {
		*found = *address;
		return 0;
	}
	struct cidr_key key = {.bits = 32 + 128, .zone = addr->zone};
	__builtin_memcpy(&key.addr, addr->w, sizeof(key.addr));
	struct cidr *cidr = bpf_map_lookup_elem(&mg_addr_cidr, &key);
	*found = (struct address){.identity = IDENTITY_WORLD};
	if (cidr)
		*found = (struct address){
		    .node = cidr->node, .kind = ADDRESS_POD, .cluster = cidr->cluster};
	return 0;
}

/* look up: the pod of this node that has an address in its zone */
static __always_inline struct pod *pod_find(const struct zoned_addr *addr)
{
	if (!addr->zone)
		return bpf_map_lookup_elem(&mg_pod_addr, addr);
	struct pod *pod = bpf_map_lookup_elem(&mg_vrf_pod, addr);
	APART(pod);
	return pod;
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

/* decide: the pod behind this device may only use its own addresses; `pod` is the one that has the
 * source. Returns 0 or a drop reason.
 */
static __always_inline int pod_source(const struct packet *packet, __u32 ifindex,
				      const struct pod *pod)
{
	if (!pod) {
		struct address owner;

		address_find(source_key(packet), &owner);
		return owner.kind == ADDRESS_POD && owner.node == cfg.node ? DROP_ENDPOINT_NOT_READY
									   : DROP_INVALID_SOURCE_IP;
	}
	return pod->ifindex == ifindex ? 0 : DROP_INVALID_SOURCE_IP;
}

/* decide: the address is this node's own, as its Node object says */
static __always_inline bool is_own_host(const struct address *address)
{
	return address->kind == ADDRESS_NODE && address->node == cfg.node;
}

/* decide: the inner source lives behind the node that sent the packet */
static __always_inline bool is_senders(const struct packet *packet, const struct address *source)
{
	return source->kind && source->node == packet->sender;
}

/* decide: a reserved identity that only nodes of other makes put on the wire */
static __always_inline bool is_foreign_identity(__u32 identity)
{
	if (identity >= IDENTITY_WELL_KNOWN && identity < IDENTITY_WELL_KNOWN_END)
		return true;
	return identity == IDENTITY_WORLD ||
	       (identity >= IDENTITY_HEALTH && identity <= IDENTITY_INGRESS);
}

/* decide: the identity on the wire is one of a pod of the sender's cluster */
static __always_inline int pod_identity(const struct packet *packet)
{
	if (packet->identity < IDENTITY_RESERVED_END)
		return DROP_INVALID_IDENTITY;
	return packet->identity >> cfg.cluster_shift == packet->cluster ? 0
									: DROP_INVALID_CLUSTER_ID;
}

/* decide: between nodes of our cluster an identity of a node comes from a node, but for what is
 * sent in the name of a pod: errors about its packets, and resets
 */
static __always_inline int node_identity(const struct packet *packet, const struct address *source)
{
	bool names = is_icmp_error(packet) || packet->tcp_flags & TCP_RST;

	return source->kind != ADDRESS_POD || names ? 0 : DROP_INVALID_SOURCE_IP;
}

/* decide: what the wire may say of a source of this kind. A pod's identity on a host's address is
 * how Cilium answers at a node port. Returns 0 or a drop reason.
 */
static __always_inline int wire_identity(struct packet *packet, const struct address *source)
{
	if (packet->identity >= IDENTITY_RESERVED_END) {
		packet->answers = source->kind != ADDRESS_POD;
		return pod_identity(packet);
	}
	if (packet->cluster != cfg.cluster)
		return is_foreign_identity(packet->identity) ? 0 : DROP_INVALID_IDENTITY;
	if (packet->identity != IDENTITY_REMOTE_NODE)
		return DROP_INVALID_IDENTITY;
	return node_identity(packet, source);
}

/* decide: who the source of a tunnel packet is to us, whatever the wire says. Our own cluster's
 * nodes know their new pods before our rows do; nobody else's word is taken.
 */
static __always_inline __u32 own_identity(const struct packet *packet, const struct address *source)
{
	if (source->kind != ADDRESS_POD)
		return packet->identity == IDENTITY_WORLD ? IDENTITY_WORLD : IDENTITY_REMOTE_NODE;
	if (source->identity)
		return source->identity;
	bool known = packet->cluster == cfg.cluster && packet->identity >= IDENTITY_RESERVED_END;
	return known ? packet->identity : IDENTITY_UNKNOWN;
}

/* decide: may the sender say this identity of this source; from here on it has ours. Returns 0 or a
 * drop reason.
 */
static __always_inline int tunnel_identity(struct packet *packet, const struct address *source)
{
	int reason = wire_identity(packet, source);

	if (!reason)
		packet->identity = own_identity(packet, source);
	return reason;
}
