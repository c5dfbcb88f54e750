/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* VRFs: networks of their own, whose addresses may be those of other VRFs and of the mesh. A VRF's
 * number is the zone (zone.h) of its packets, so it stands in the keys of its pods, routes,
 * connections, mappings and fragments. A pod is in a VRF by its interface, never by an address.
 *
 * Keys are those of every other map: struct zoned_addr and struct cidr_key (addresses.h), zone =
 * the VRF's number. Routes have two writers, so there are two maps of each kind: the agent writes
 * what the nodes of the mesh say in etcd, the speaker what routers say by BGP. Of a destination a
 * host row decides before any prefix, then the longer prefix, then etcd before BGP.
 */
#pragma once
#include "addresses.h"
#include "bfd.h"
#include "egress.h"
#include "srv6.h"

enum vrf_limit {
	VRF_PATHS = 4, /* of a route, at most: the flow's hash chooses one */
	VRF_LINKS = 4096,
	VRF_DESTINATIONS = 16384,
	VRF_HOSTS = 131072,
	VRF_PREFIXES = 131072,
	VRF_V4_BITS = 96 /* of a prefix in the 128-bit form that can have IPv4 addresses */,
};
SCHEMA(enum vrf_limit, vrf_limit);

enum vrf_link_flag {
	VRF_TENANT = 1, /* its pod has tenant addresses: from no other address anything goes into
			   the VRF */
};
SCHEMA(enum vrf_link_flag, vrf_link_flag);

struct vrf_link { /* the interface of a pod that is in a VRF */
	__u32 vrf;
	__u32 flags; /* enum vrf_link_flag */
};

enum vrf_route_flag {
	VRF_CLOSED = 1, /* what is for it is dropped: another VRF has its SID */
};
SCHEMA(enum vrf_route_flag, vrf_route_flag);

struct vrf_route {	      /* where a destination of a VRF is */
	__u32 via[VRF_PATHS]; /* numbers of equal paths, the first `paths` of them */
	__u32 identity;	      /* of what is there */
	__u8 paths;	      /* 1 to VRF_PATHS; 0: nowhere (dropped, sender told) */
	__u8 flags;	      /* enum vrf_route_flag */
	__u8 bits;	      /* of the prefix in the 128-bit form, 128 for a host */
	__u8 pad;
};

/* host side of a pod's veth -> its VRF. Agent, last of a pod's rows in a VRF. */
MAP_HASH(mg_vrf_link, __u32, struct vrf_link, VRF_LINKS, BPF_F_NO_PREALLOC);
/* destinations of a VRF (VRF.spec.destinations) -> bits of the prefix in the 128-bit form. Agent.
 */
MAP_LPM(mg_vrf_dest, struct cidr_key, __u32, VRF_DESTINATIONS);

/* /32 and /128 of a VRF, by etcd -> path. Agent. */
MAP_HASH(mg_vrf_host, struct zoned_addr, struct vrf_route, VRF_HOSTS, BPF_F_NO_PREALLOC);
/* shorter prefixes of a VRF, by etcd -> path. Agent. */
MAP_LPM(mg_vrf_prefix, struct cidr_key, struct vrf_route, VRF_PREFIXES);

/* The same two, by BGP. Speaker. */
MAP_HASH(mg_vrf_bgp_host, struct zoned_addr, struct vrf_route, VRF_HOSTS, BPF_F_NO_PREALLOC);
MAP_LPM(mg_vrf_bgp, struct cidr_key, struct vrf_route, VRF_PREFIXES);

/* decide: ::/0 holds no IPv4 address, mapped or not */
static __always_inline bool is_of_family(const struct addr *addr, __u32 bits)
{
	return bits >= VRF_V4_BITS || !addr_is_v4(addr);
}

/* look up: of two prefixes the longer one decides, of equal ones etcd */
static __always_inline const struct vrf_route *vrf_prefix_find(const struct zoned_addr *to,
							       __u8 *bgp)
{
	struct cidr_key key = {.bits = 32 + 128, .zone = to->zone};

	__builtin_memcpy(&key.addr, to->w, sizeof(key.addr));
	const struct vrf_route *own = bpf_map_lookup_elem(&mg_vrf_prefix, &key);
	APART(own);
	const struct vrf_route *learned = bpf_map_lookup_elem(&mg_vrf_bgp, &key);
	APART(learned);
	if (own && !is_of_family(&key.addr, own->bits))
		own = NULL;
	if (learned && !is_of_family(&key.addr, learned->bits))
		learned = NULL;
	*bgp = learned && (!own || learned->bits > own->bits);
	return *bgp ? learned : own;
}

/* look up: where a destination of a VRF is; NULL: nobody says so */
static __framed const struct vrf_route *vrf_route_find(const struct zoned_addr *to, __u8 *bgp)
{
	const struct vrf_route *route = bpf_map_lookup_elem(&mg_vrf_host, to);

	APART(route);
	*bgp = 0;
	if (route)
		return route;
	route = bpf_map_lookup_elem(&mg_vrf_bgp_host, to);
	APART(route);
	*bgp = 1;
	return route ? route : vrf_prefix_find(to, bgp);
}

/* look up: a destination that the VRF's pods send into it */
static __framed bool is_vrf_destination(__u32 vrf, const struct addr *destination)
{
	struct cidr_key key = {.bits = 32 + 128, .zone = vrf, .addr = *destination};

	__u32 *bits = bpf_map_lookup_elem(&mg_vrf_dest, &key);
	return bits && is_of_family(destination, *bits);
}

/* look up: a usable one of a route's equal paths, by the flow's hash; NULL: there is none */
static __framed struct vrf_via *vrf_path_find(const struct vrf_route *route, __u32 hash,
					      struct outer *outer)
{
	__u32 first = hash * 0x9e3779b1u >> 16; /* of the hash itself the low bits say little */

	for (__u32 i = 0; i < VRF_PATHS && i < route->paths; i++) {
		__u32 path = route->paths == 1 ? 0 : (first + i) % route->paths;
		__u32 number = route->via[path & (VRF_PATHS - 1)];
		struct vrf_via *via = via_find(number, outer->bgp);

		if (via && bfd_usable(via->bfd)) {
			outer->via = number;
			return via;
		}
	}
	return NULL;
}

/* decide: the headers and the hop of a path, after which one hop of the pod's packet has gone.
 * Returns 0 or a drop reason; DROP_FRAGMENTATION_NEEDED sets packet->mtu.
 */
static __framed int vrf_path(hook_t *ctx, struct packet *packet, struct way *way,
			     const struct vrf_route *route)
{
	__u32 hash = flow_hash(&packet->flow, flow_ports(&packet->flow));
	struct vrf_via *via = vrf_path_find(route, hash, &way->outer);

	if (packet->ttl <= 1)
		return DROP_TTL_EXCEEDED;
	if (!via || !via->segments || via->segments > SRV6_SEGMENTS) {
		way->kind.tell = 1;
		return DROP_NO_VRF_ROUTE;
	}
	way->outer.label = hash;
	outer_of(packet, &way->outer, via);
	int reason = outer_hop(ctx, packet, way, via);
	if (reason)
		return reason;
	way->kind.act = ACT_SRV6;
	way->kind.ttl = packet->ttl - 1;
	return 0;
}

/* decide: out of the VRF, by the route of the packet's destination. Sets the identity of what is
 * there. Returns 0 or a drop reason.
 */
static __always_inline int vrf_way(hook_t *ctx, struct packet *packet, struct way *way,
				   __u32 *identity)
{
	const struct vrf_route *route = vrf_route_find(destination_key(packet), &way->outer.bgp);

	if (!route || !route->paths || route->flags & VRF_CLOSED) {
		way->kind.tell = 1;
		return DROP_NO_VRF_ROUTE;
	}
	*identity = route->identity;
	return vrf_path(ctx, packet, way, route);
}

/* decide: a packet of a VRF, its sender checked: to a pod of this node, or out by a route; neither
 * through the stack, which knows no VRF, nor handed over (handover.h): an entry that is not
 * translated makes no difference to where a packet goes. Returns 0 or a drop reason.
 */
static __framed int vrf_forward(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection;
	const struct pod *near = pod_find(destination_key(packet));
	__u32 identity = near ? near->identity : 0;

	if (packet->icmp == ICMP_NEIGHBOUR)
		return DROP_INVALID_PACKET;
	int reason = near ? pod_way(way, near) : vrf_way(ctx, packet, way, &identity);
	if (reason)
		return reason;
	enum direction direction = connection_find(packet, &connection);
	return connection_plain(ctx, packet, connection, direction, identity);
}

/* decide: who has sent a packet that opens a connection in a VRF, unless its SID's argument has
 * said so; nobody outside has an address of a pod of this node. Returns 0 or a drop reason.
 */
static __framed int vrf_sender(struct packet *packet)
{
	const struct vrf_route *route;
	__u8 bgp;

	if (is_link_scope(&packet->source) || pod_find(source_key(packet)))
		return DROP_INVALID_SOURCE_IP;
	if (packet->identity)
		return 0;
	route = vrf_route_find(source_key(packet), &bgp);
	packet->identity = route && route->identity ? route->identity : IDENTITY_WORLD;
	return 0;
}

/* decide: a packet of a VRF, its outer headers off, to a pod of this node; not through the stack,
 * and not handed over, as vrf_forward. Returns 0 or a drop reason.
 */
static __framed int vrf_deliver(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection;
	const struct pod *pod = pod_find(destination_key(packet));

	if (!pod)
		return DROP_UNKNOWN_L3_TARGET;
	if (packet->icmp == ICMP_NEIGHBOUR)
		return DROP_INVALID_PACKET;
	enum direction direction = connection_find(packet, &connection);
	int reason = direction == DIRECTION_NEW ? vrf_sender(packet) : 0;
	if (!reason)
		reason = connection_plain(ctx, packet, connection, direction, pod->identity);
	return reason ? reason : pod_way(way, pod);
}

/* decide: the answer to what somebody outside of the VRF has opened to the cluster address, if the
 * pod may give it (exempt.h); the other generation knows it of what is its own. What the pod itself
 * had open before it was in the VRF is none.
 */
static __always_inline bool is_outside_answer(const struct packet *packet)
{
	struct connection *connection;

	if (connection_find(packet, &connection) != DIRECTION_REPLY)
		return false;
	return connection->flags & CONNECTION_HANDED || egress_exempt(packet, connection);
}

/* decide: a pod speaks from a cluster address: what is for its VRF goes there, but not what the
 * mesh or a connection from outside the VRF wants. Returns 0, NOT_VRF or a drop reason.
 */
static __framed int vrf_enter(hook_t *ctx, struct packet *packet, const struct pod *pod)
{
	__u32 ifindex = hook_device(ctx);
	struct vrf_link *link = bpf_map_lookup_elem(&mg_vrf_link, &ifindex);
	struct address to;

	if (!link || link->vrf != pod->vrf)
		return DROP_ENDPOINT_NOT_READY;
	if (!is_vrf_destination(pod->vrf, &packet->destination))
		return NOT_VRF;
	address_find(destination_key(packet), &to);
	if (to.kind || service_owner(destination_key(packet)))
		return NOT_VRF;
	if (is_outside_answer(packet))
		return NOT_VRF;
	if (link->flags & VRF_TENANT)
		return DROP_VRF_SOURCE;
	packet_in_zone(packet, pod->vrf);
	packet->flow.zone = pod->vrf;
	return pod_find(source_key(packet)) ? 0 : DROP_ENDPOINT_NOT_READY;
}

/* decide: what the pod's tenant address sends to a network that an egress policy covers, and that
 * the VRF has only from a router. The VRF's own destinations, and its pods, are the VRF's.
 */
static __framed bool is_covered_in_vrf(const struct packet *packet, const struct pod *pod)
{
	__u8 bgp;

	if (pod->egress_class == EGRESS_UNCOVERED || pod_find(destination_key(packet)) ||
	    is_vrf_destination(pod->vrf, &packet->destination))
		return false;
	return vrf_route_find(destination_key(packet), &bgp) && bgp &&
	       egress_find(pod->egress_class, &packet->destination, packet->family, 0);
}

/* decide: what a pod that is in a VRF sends. Returns 0, NOT_VRF or a drop reason. */
static __framed int vrf_from_pod(hook_t *ctx, struct packet *packet, struct way *way,
				 const struct pod *pod)
{
	int reason = packet->zone == pod->vrf ? 0 : vrf_enter(ctx, packet, pod);

	if (!reason && is_covered_in_vrf(packet, pod)) {
		way->kind.tell = 1;
		return DROP_COVERED_IN_VRF;
	}
	return reason ? reason : vrf_forward(ctx, packet, way);
}

/* look up: a tenant address of the pod behind this device */
static __framed bool is_tenants(const struct zoned_addr *addr, __u32 ifindex)
{
	struct vrf_link *link = bpf_map_lookup_elem(&mg_vrf_link, &ifindex);
	struct zoned_addr tenant = *addr;

	if (!link)
		return false;
	tenant.zone = link->vrf;
	struct pod *pod = pod_find(&tenant);
	return pod && pod->ifindex == ifindex;
}

/* look up: the pod that has a packet's source, in the network in which the pod behind this device
 * speaks: that of its VRF when the source is one of its tenant addresses. Ports are read after
 * this: fragments have keys in their zone.
 */
static __framed struct pod *pod_speaking(struct packet *packet, __u32 ifindex)
{
	__u16 zone = packet->zone;
	struct pod *pod = pod_find(source_key(packet)), *tenant;

	if (pod && pod->ifindex == ifindex)
		return pod;
	struct vrf_link *link = bpf_map_lookup_elem(&mg_vrf_link, &ifindex);
	if (!link)
		return pod;
	packet_in_zone(packet, link->vrf);
	tenant = pod_find(source_key(packet));
	if (tenant && tenant->ifindex == ifindex)
		return tenant;
	packet_in_zone(packet, zone);
	return pod;
}
