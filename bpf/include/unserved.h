/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets to the address of a service. Sockets get backends instead (sock.bpf.c), so a packet to it
 * is for a port or a protocol that the service does not have, or a ping. By the routes it would
 * leave for the router, which sends it back, or on into the world.
 */
#pragma once
#include "addresses.h"
#include "parse.h"
#include "service.h"
#include "way.h"

/* decide: nothing answers; the sender is told. Returns a drop reason. */
static __always_inline int unserved(struct way *way)
{
	way->kind.tell = 1;
	return DROP_NO_SERVICE;
}

/* look up: a packet to a service's address that leaves by the uplink; nearly nothing is */
static __always_inline bool may_be_unserved(hook_t *ctx)
{
	struct zoned_addr to = {};

	if (cfg.beside)
		return false; /* the services have another owner */
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		struct ipv4_header *v4 = packet_at(ctx, L3_OFFSET, sizeof(*v4));
		if (!v4)
			return true;
		to.w[2] = bpf_htonl(0xffff);
		to.w[3] = v4->destination;
		return is_service_address(&to);
	}
	struct ipv6_header *v6 = packet_at(ctx, L3_OFFSET, sizeof(*v6));
	if (!v6 || hook_protocol(ctx) != bpf_htons(ETH_P_IPV6))
		return hook_protocol(ctx) == bpf_htons(ETH_P_IPV6);
	__builtin_memcpy(to.w, v6->destination, sizeof(to.w));
	return is_service_address(&to);
}

/* decide: a packet of this host, or of what is behind it, that leaves for a service's address.
 * Returns 0 or a drop reason.
 */
static __always_inline int unserved_out(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct address from;

	if (cfg.beside || !is_service_address(destination_key(packet)))
		return 0;
	if (parse_transport(ctx, packet)) /* errors are not answered, and this may be one */
		return DROP_NO_SERVICE;
	address_find(source_key(packet), &from);
	if (is_own_host(&from))
		packet->identity = IDENTITY_HOST;
	return unserved(way);
}
