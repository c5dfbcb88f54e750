/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Bytes -> struct packet, in two steps: `parse_network` reads addresses and lengths and is enough
 * to say whose packet it is; `parse_transport` reads ports. Both return 0 or a drop reason. Behind
 * the IP header bytes are read with packet_load, which reaches non-linear data and checks the
 * bounds.
 */
#pragma once
#include "fragment.h"
#include "packet.h"

enum {
	IPV4_NO_OPTION = 1,
	IPV4_LOOSE_ROUTE = 131,
	IPV4_STRICT_ROUTE = 137,
	IPV4_OPTIONS_MAX = 40,
	IPV4_DONT_FRAGMENT = 0x4000,
	IPV4_MORE_FRAGMENTS = 0x2000,
	IPV4_FRAGMENT_OFFSET = 0x1fff,
	IPV6_MORE_FRAGMENTS = 0x0001,
	IPV6_FRAGMENT_OFFSET = 0xfff8,
	IPV6_EXTENSIONS_MAX = 6,
	ICMP_HEADER = 8,
};

static __always_inline int parse_ipv4(hook_t *ctx, struct packet *packet)
{
	struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));

	if (!ip)
		return DROP_INVALID_PACKET;
	__u32 header = (ip->version_ihl & 0x0f) * 4, length = bpf_ntohs(ip->length);
	__u16 fragment = bpf_ntohs(ip->fragment);
	if (hook_segment(ctx)) /* the field may have wrapped */
		length = hook_length(ctx) - L3_OFFSET;
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip) || length < header ||
	    L3_OFFSET + length > hook_length(ctx))
		return DROP_INVALID_PACKET;
	addr_from_v4(&packet->source, ip->source);
	addr_from_v4(&packet->destination, ip->destination);
	packet->family = 4;
	packet->length = length;
	packet->end = L3_OFFSET + length;
	packet->l4 = L3_OFFSET + header;
	packet->protocol = ip->protocol;
	packet->ttl = ip->ttl;
	packet->fragment_id = bpf_ntohs(ip->id);
	packet->dont_fragment = !!(fragment & IPV4_DONT_FRAGMENT);
	if (fragment & IPV4_FRAGMENT_OFFSET)
		packet->fragment = FRAGMENT_LATER;
	else if (fragment & IPV4_MORE_FRAGMENTS)
		packet->fragment = FRAGMENT_FIRST;
	return 0;
}

static __always_inline int parse_ipv6(hook_t *ctx, struct packet *packet)
{
	struct ipv6_header *ip = ip_header(ctx, sizeof(*ip));

	if (!ip)
		return DROP_INVALID_PACKET;
	__u32 length = sizeof(*ip) + bpf_ntohs(ip->payload);
	if (hook_segment(ctx)) /* the field may have wrapped */
		length = hook_length(ctx) - L3_OFFSET;
	if (bpf_ntohl(ip->version_class_label) >> 28 != 6 || L3_OFFSET + length > hook_length(ctx))
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&packet->source, ip->source, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, ip->destination, sizeof(packet->destination));
	/* On the wire these would pass for the other family's addresses in every map. */
	if (addr_is_v4(&packet->source) || addr_is_v4(&packet->destination))
		return DROP_INVALID_SOURCE_IP;
	packet->family = 6;
	packet->length = length;
	packet->end = L3_OFFSET + length;
	packet->l4 = L3_OFFSET + sizeof(*ip);
	packet->protocol = ip->next;
	packet->ttl = ip->hop_limit;
	return 0;
}

static __always_inline int parse_network(hook_t *ctx, struct packet *packet)
{
	if (hook_tagged(ctx))
		return DROP_UNSUPPORTED_L3_PROTOCOL;
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP))
		return parse_ipv4(ctx, packet);
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(ctx, packet);
	return DROP_UNSUPPORTED_L3_PROTOCOL;
}

struct extensions { /* an IPv6 header chain */
	__u32 offset;
	__u32 fragment_id;
	__u16 fragment_offset; /* the field as it is, host order */
	__u8 next;
	__u8 fragmented;
};

/* Walk to the upper-layer header; Source: RFC 8200 4. */
__global int parse_extensions(hook_t *ctx, struct extensions *chain)
{
	struct {
		__u8 next;
		__u8 length;
		__be16 second;
		__be32 third;
	} header;

	if (!chain)
		return DROP_INVALID_IPV6_EXTENSION;
	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		if (chain->next != IPPROTO_HOPOPTS && chain->next != IPPROTO_ROUTING &&
		    chain->next != IPPROTO_DSTOPTS && chain->next != IPPROTO_FRAGMENT)
			return 0;
		if (packet_load(ctx, chain->offset, &header, sizeof(header)))
			return DROP_INVALID_IPV6_EXTENSION;
		/* With segments left, the destination is not the last one: checks would not hold.
		 */
		if (chain->next == IPPROTO_ROUTING && (bpf_ntohs(header.second) & 0xff))
			return DROP_INVALID_IPV6_EXTENSION;
		bool fragment = chain->next == IPPROTO_FRAGMENT;
		chain->next = header.next;
		chain->offset += fragment ? 8 : (header.length + 1) * 8;
		if (!fragment)
			continue;
		chain->fragmented = 1;
		chain->fragment_id = bpf_ntohl(header.third);
		chain->fragment_offset = bpf_ntohs(header.second);
		if (chain->fragment_offset & IPV6_FRAGMENT_OFFSET)
			return 0; /* what follows is payload */
	}
	return DROP_INVALID_IPV6_EXTENSION;
}

static __always_inline int parse_ipv6_chain(hook_t *ctx, struct packet *packet)
{
	struct extensions chain = {.offset = packet->l4, .next = packet->protocol};

	int reason = parse_extensions(ctx, &chain);
	if (reason)
		return reason;
	if (chain.offset > packet->end)
		return DROP_INVALID_IPV6_EXTENSION;
	packet->l4 = chain.offset;
	packet->protocol = chain.next;
	packet->fragment_id = chain.fragment_id;
	if (chain.fragment_offset & IPV6_FRAGMENT_OFFSET)
		packet->fragment = FRAGMENT_LATER;
	else if (chain.fragment_offset & IPV6_MORE_FRAGMENTS)
		packet->fragment = FRAGMENT_FIRST;
	return 0;
}

static __always_inline __u8 icmp_kind(__u8 protocol, __u8 type)
{
	if (protocol == IPPROTO_ICMP) {
		if (type == 8)
			return ICMP_ECHO;
		if (type == 0)
			return ICMP_ECHO_ANSWER;
		return type == 3 || type == 4 || type == 11 || type == 12 ? ICMP_ERROR : ICMP_OTHER;
	}
	if (type == 128)
		return ICMP_ECHO;
	if (type == 129)
		return ICMP_ECHO_ANSWER;
	if ((type >= 130 && type <= 137) || type == 143)
		return ICMP_NEIGHBOUR;
	return type < 128 ? ICMP_ERROR : ICMP_OTHER;
}

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* Ports, or the id of an ICMP echo, into the tuple. */
static __always_inline int parse_ports(hook_t *ctx, __u32 offset, struct tuple *tuple)
{
	struct {
		__u8 type;
		__u8 code;
		__be16 check;
		__be16 id;
		__be16 sequence;
	} icmp;

	if (!is_icmp(tuple->protocol))
		return packet_load(ctx, offset, &tuple->source_port, 4);
	if (packet_load(ctx, offset, &icmp, sizeof(icmp)))
		return -1;
	__u8 kind = icmp_kind(tuple->protocol, icmp.type);
	tuple->source_port = kind == ICMP_ECHO ? icmp.id : 0;
	tuple->destination_port = kind == ICMP_ECHO_ANSWER ? icmp.id : 0;
	return 0;
}

static __always_inline int parse_embedded_ipv4(hook_t *ctx, struct packet *packet,
					       struct tuple *tuple)
{
	struct ipv4_header ip;

	if (packet_load(ctx, packet->inner_l3, &ip, sizeof(ip)))
		return DROP_INVALID_PACKET;
	__u32 header = (ip.version_ihl & 0x0f) * 4;
	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
		return DROP_INVALID_PACKET;
	addr_from_v4(&tuple->source, ip.source);
	addr_from_v4(&tuple->destination, ip.destination);
	tuple->protocol = ip.protocol;
	if (!(bpf_ntohs(ip.fragment) & IPV4_FRAGMENT_OFFSET))
		packet->inner_l4 = packet->inner_l3 + header;
	return 0;
}

static __always_inline int parse_embedded_ipv6(hook_t *ctx, struct packet *packet,
					       struct tuple *tuple)
{
	struct { /* without the addresses, which go to where they belong at once */
		__be32 version_class_label;
		__be16 payload;
		__u8 next;
		__u8 hop_limit;
	} ip;

	if (packet_load(ctx, packet->inner_l3, &ip, sizeof(ip)) ||
	    packet_load(ctx, packet->inner_l3 + sizeof(ip), &tuple->source,
			2 * sizeof(struct addr)))
		return DROP_INVALID_PACKET;
	if (bpf_ntohl(ip.version_class_label) >> 28 != 6)
		return DROP_INVALID_PACKET;
	struct extensions chain = {.offset = packet->inner_l3 + sizeof(struct ipv6_header),
				   .next = ip.next};
	int reason = parse_extensions(ctx, &chain);
	if (reason)
		return reason;
	tuple->protocol = chain.next;
	if (!(chain.fragment_offset & IPV6_FRAGMENT_OFFSET))
		packet->inner_l4 = chain.offset;
	return 0;
}

/* An ICMP error belongs to the connection of the packet embedded in it, turned round. */
static __framed int parse_icmp_error(hook_t *ctx, struct packet *packet)
{
	struct tuple embedded = {.zone = packet->zone};

	packet->inner_l3 = packet->l4 + ICMP_HEADER;
	int reason = packet->family == 4 ? parse_embedded_ipv4(ctx, packet, &embedded)
					 : parse_embedded_ipv6(ctx, packet, &embedded);
	if (reason)
		return reason;
	if (!addr_equal(&embedded.source, &packet->destination))
		return DROP_INVALID_PACKET;
	bool has_ports = embedded.protocol == IPPROTO_TCP || embedded.protocol == IPPROTO_UDP ||
			 is_icmp(embedded.protocol);
	if (!has_ports)
		packet->inner_l4 = 0;
	else if (packet->inner_l4 && (packet->inner_l4 + 8 > packet->end ||
				      parse_ports(ctx, packet->inner_l4, &embedded)))
		return DROP_INVALID_PACKET;
	tuple_reverse(&packet->flow, &embedded);
	return 0;
}

static __always_inline int parse_icmp(hook_t *ctx, struct packet *packet)
{
	struct {
		__u8 type;
		__u8 code;
	} icmp;

	if (packet->l4 + ICMP_HEADER > packet->end ||
	    packet_load(ctx, packet->l4, &icmp, sizeof(icmp)))
		return DROP_CT_TRUNCATED;
	packet->icmp_type = icmp.type;
	packet->icmp_code = icmp.code;
	packet->icmp = icmp_kind(packet->protocol, icmp.type);
	if (is_icmp_error(packet))
		return parse_icmp_error(ctx, packet);
	return parse_ports(ctx, packet->l4, &packet->flow) ? DROP_CT_TRUNCATED : 0;
}

static __always_inline int parse_tcp(hook_t *ctx, struct packet *packet)
{
	struct {
		__be16 source;
		__be16 destination;
		__be32 sequence;
		__be32 acknowledged;
		__u8 length;
		__u8 flags;
	} __attribute__((packed)) tcp;

	if (packet_load(ctx, packet->l4, &tcp, sizeof(tcp)))
		return DROP_CT_TRUNCATED;
	__u32 header = (tcp.length >> 4) * 4;
	if (header < 20 || packet->l4 + header > packet->end)
		return DROP_CT_TRUNCATED;
	packet->flow.source_port = tcp.source;
	packet->flow.destination_port = tcp.destination;
	packet->tcp_flags = tcp.flags;
	if (hook_segment(ctx))
		packet->length = packet->l4 - L3_OFFSET + header + hook_segment(ctx);
	return 0;
}

static __always_inline int parse_udp(hook_t *ctx, struct packet *packet)
{
	if (packet->l4 + 8 > packet->end || parse_ports(ctx, packet->l4, &packet->flow))
		return DROP_CT_TRUNCATED;
	if (hook_segment(ctx))
		packet->length = packet->l4 - L3_OFFSET + 8 + hook_segment(ctx);
	return 0;
}

__global int parse_transport(hook_t *ctx, struct packet *packet)
{
	int reason = 0;

	if (!packet)
		return DROP_INVALID_PACKET;
	if (packet->family == 6)
		reason = parse_ipv6_chain(ctx, packet);
	if (reason)
		return reason;
	packet->flow.source = packet->source;
	packet->flow.destination = packet->destination;
	packet->flow.protocol = packet->protocol;
	packet->flow.zone = packet->zone;
	bool icmp = packet->protocol == (packet->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	if (!icmp && packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP)
		return 0;
	if (packet->fragment == FRAGMENT_LATER)
		return fragment_ports(packet);
	if (icmp)
		reason = parse_icmp(ctx, packet);
	else if (packet->protocol == IPPROTO_TCP)
		reason = parse_tcp(ctx, packet);
	else
		reason = parse_udp(ctx, packet);
	if (!reason && packet->point != POINT_FROM_POD && packet->point != POINT_FROM_OVERLAY)
		fragment_record(packet); /* those have their source checked first */
	return reason;
}

static __always_inline int parse(hook_t *ctx, struct packet *packet)
{
	int reason = parse_network(ctx, packet);

	return reason ? reason : parse_transport(ctx, packet);
}
