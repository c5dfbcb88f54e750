/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* act: a router's BFD packet becomes ours (bfd_packet.h decides what it says) and goes back. */
#pragma once
#include "packet.h"
#include "way.h"

struct bfd_bytes { /* that change under the checksum of UDP; what changes places does not count */
	__be16 ports[2];
	struct bfd_packet packet;
};

/* The MAC addresses and the addresses of the IP header change places. Returns 0 when they have. */
static __always_inline long bfd_turn(hook_t *ctx, const struct packet *packet)
{
	__u8 mac[2][ETH_ALEN], swapped[2][ETH_ALEN];
	__u32 at = L3_OFFSET + offsetof(struct ipv6_header, source);

	if (packet_load(ctx, 0, mac, sizeof(mac)))
		return -1;
	__builtin_memcpy(swapped[0], mac[1], ETH_ALEN);
	__builtin_memcpy(swapped[1], mac[0], ETH_ALEN);
	if (packet_store(ctx, 0, swapped, sizeof(swapped)))
		return -1;
	if (packet->family == 4) {
		__be32 ends[] = {packet->destination.w[3], packet->source.w[3]};

		at = L3_OFFSET + offsetof(struct ipv4_header, source);
		return packet_store(ctx, at, ends, sizeof(ends));
	}
	return packet_store(ctx, at, &packet->destination, sizeof(packet->destination)) ||
	       packet_store(ctx, at + sizeof(packet->destination), &packet->source,
			    sizeof(packet->source));
}

/* Returns a verdict or a drop reason. */
static __framed int bfd_answer(hook_t *ctx, const struct packet *packet, const struct way *way)
{
	__u32 body = packet->l4 + 8, check = packet->l4 + 6;
	struct bfd_bytes was, is;

	if (packet_load(ctx, packet->l4, &was.ports, sizeof(was.ports)) ||
	    packet_load(ctx, body, &was.packet, sizeof(was.packet)))
		return DROP_INVALID_PACKET;
	is.ports[0] = way->port;
	is.ports[1] = was.ports[1];
	is.packet = way->bfd;
	if (bfd_turn(ctx, packet) || packet_store(ctx, packet->l4, &is.ports, sizeof(is.ports)) ||
	    packet_store(ctx, body, &is.packet, sizeof(is.packet)))
		return DROP_WRITE_ERROR;
	__s64 change = bpf_csum_diff((__be32 *)&was, sizeof(was), (__be32 *)&is, sizeof(is), 0);
	if (change < 0 || hook_check_l4(ctx, check, 0, change, BPF_F_MARK_MANGLED_0))
		return DROP_WRITE_ERROR;
	hook_vouch(ctx); /* it goes as it is */
	return hook_back(ctx);
}
