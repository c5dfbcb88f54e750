/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The host's neighbours are the host's. Linux notes each sender of ARP and NDP, so of a pod's only
 * that passes which names the pod itself, or asks for its gateway, a link-local address.
 */
#pragma once
#include "layer2_answer.h"
#include "vrf.h"

struct device { /* the pod's end of a veth */
	__u8 mac[ETH_ALEN];
	__u8 pad[2];
};

/* host end of a pod's veth, by its ifindex -> the pod's end. Agent, from table device. */
MAP_HASH(mg_device, __u32, struct device, 4096, BPF_F_NO_PREALLOC);

enum {
	MLD_QUERY = 130,
	NDP_ROUTER_SOLICITATION = 133,
	NDP_ROUTER_ADVERTISEMENT = 134,
	NDP_REDIRECT = 137,
	NDP_TARGET = 8, /* offset in the message; RFC 4861 4.3 and 4.4 */
	ICMPV4_REDIRECT = 5,
	ICMPV4_ROUTER = 9, /* RFC 1256 */
};

/* look up: an address of the pod behind this device */
static __always_inline bool is_pods(const struct zoned_addr *addr, __u32 ifindex)
{
	struct pod *pod = pod_find(addr);

	return (pod && pod->ifindex == ifindex) || is_tenants(addr, ifindex);
}

static __always_inline bool is_link_local(const struct addr *addr)
{
	if (addr_is_v4(addr)) /* RFC 3927 2.1 */
		return bpf_ntohl(addr->w[3]) >> 16 == 0xa9fe;
	return bpf_ntohl(addr->w[0]) >> 22 == 0xfe80 >> 6;
}

/* look up: the link-local address of the pod behind this device; RFC 4291 2.5.1 */
static __always_inline bool is_pods_link_local(const struct addr *addr, __u32 ifindex)
{
	struct device *device = bpf_map_lookup_elem(&mg_device, &ifindex);

	if (!device)
		return false;
	const __u8 *mac = device->mac;
	__u32 high = (mac[0] ^ 2) << 24 | mac[1] << 16 | mac[2] << 8 | 0xff;
	__u32 low = 0xfeu << 24 | mac[3] << 16 | mac[4] << 8 | mac[5];
	return addr->w[0] == bpf_htonl(0xfe800000) && !addr->w[1] &&
	       addr->w[2] == bpf_htonl(high) && addr->w[3] == bpf_htonl(low);
}

/* look up: the agent has not said yet what is behind this device, which talks as soon as it is up
 */
static __always_inline bool is_new(__u32 ifindex)
{
	return !bpf_map_lookup_elem(&mg_device, &ifindex);
}

/* look up: an address, link-local or not, of the pod behind this device */
static __framed bool is_own(const struct zoned_addr *addr, __u32 ifindex)
{
	const struct addr *bare = (const struct addr *)addr;

	if (!addr_is_v4(bare) && is_link_local(bare))
		return is_pods_link_local(bare, ifindex);
	return is_pods(addr, ifindex);
}

/* decide: a pod asks or answers in its own name; a probe for duplicates (RFC 5227 2.1) has no
 * sender. Returns 0 or a drop reason.
 */
static __framed int arp_check(hook_t *ctx, struct packet *packet)
{
	struct arp *arp = ip_header(ctx, sizeof(*arp));

	if (!arp || hook_tagged(ctx) || arp->hardware != bpf_htons(ARP_ETHERNET) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_length != ETH_ALEN ||
	    arp->protocol_length != sizeof(arp->sender))
		return DROP_NEIGHBOUR_CLAIM;
	if (is_new(hook_device(ctx)))
		return DROP_ENDPOINT_NOT_READY;
	bool asks = arp->operation == bpf_htons(ARP_REQUEST), probes = asks && !arp->sender;
	bool answers = arp->operation == bpf_htons(ARP_ANSWER);
	addr_from_v4(&packet->source, arp->sender);
	addr_from_v4(&packet->destination, arp->target);
	if (!(asks || answers) || !(probes || is_own(source_key(packet), hook_device(ctx))))
		return DROP_NEIGHBOUR_CLAIM;
	if (answers || is_link_local(&packet->destination))
		return 0;
	return is_own(destination_key(packet), hook_device(ctx)) ? 0 : DROP_NEIGHBOUR_CLAIM;
}

/* decide: the same of NDP. What only routers say is dropped. Reports of multicast groups, which
 * every Linux sends, go no further and are no drop: nobody misses them. Returns 0 or a drop reason.
 */
static __framed int neighbour_check(hook_t *ctx, struct packet *packet)
{
	__u32 device = hook_device(ctx);
	struct zoned_addr target = {.zone = packet->zone};
	__u8 type = packet->icmp_type;

	if (type == NDP_ROUTER_ADVERTISEMENT || type == NDP_REDIRECT || type == MLD_QUERY)
		return DROP_ROUTER_TALK;
	if (type < NDP_ROUTER_SOLICITATION || type > NDP_REDIRECT) {
		hook_to_nobody(ctx);
		return 0;
	}
	if (is_new(device))
		return DROP_ENDPOINT_NOT_READY;
	bool nameless = addr_is_zero(&packet->source) && type != NDP_ADVERTISEMENT;
	if (!nameless && !is_own(source_key(packet), device))
		return DROP_NEIGHBOUR_CLAIM;
	if (type == NDP_ROUTER_SOLICITATION)
		return 0;
	if (packet_load(ctx, packet->l4 + NDP_TARGET, target.w, sizeof(target.w)))
		return is_link_scope(&packet->destination) ? DROP_INVALID_PACKET : 0;
	if (type == NDP_SOLICITATION && is_link_local((const struct addr *)&target))
		return 0;
	return is_own(&target, device) ? 0 : DROP_NEIGHBOUR_CLAIM;
}

/* decide: IPv4's words of a router */
static __always_inline bool is_router_talk(const struct packet *packet)
{
	return packet->icmp == ICMP_OTHER && packet->family == 4 &&
	       (packet->icmp_type == ICMPV4_REDIRECT || packet->icmp_type == ICMPV4_ROUTER);
}
