/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Two generations of programs side by side, while a map changes its layout. The programs of this
 * header stand at the hooks; a connection has one owner, this generation or the other, and a
 * packet of the other's connection goes there by a tail call, as it arrived. The agent moves
 * connections from one owner to the other (mesh/datapath/migrate.py). While mg_phase is 0 there is
 * no other generation.
 */
#pragma once
#include "conntrack.h"

enum handover_phase { /* bits of mg_phase: which packets the other generation gets */
		      HANDOVER_MARKED =
			  1, /* of marked connections; replies without a mapping here */
		      HANDOVER_UNKNOWN =
			  2, /* of connections without an entry here, which is made, marked */
		      HANDOVER_ALL = 4, /* all; what it may change by them is marked */
};

SCHEMA(enum handover_phase, handover_phase);
SCHEMA(enum connection_flag, connection_flag);

enum {
	POINTS = 128, /* each enum event_point is smaller */
};

/* For a decision: the other generation's program gets the packet. No drop reason. */
#define HANDOVER (-1)

/* enum event_point -> the other generation's program for packets seen there. Agent, while it
 * migrates.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, POINTS);
	__type(key, __u32);
	__type(value, __u32);
} mg_handover SEC(".maps");

/* 0 -> bits of enum handover_phase. Agent, while it migrates. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} mg_phase SEC(".maps");

static __always_inline __u32 handover_phase(void)
{
	__u32 zero = 0;
	__u32 *phase = bpf_map_lookup_elem(&mg_phase, &zero);

	return phase ? *phase : 0;
}

/* act: the other generation decides what becomes of this flow from now on */
static __always_inline void handover_mark(const struct packet *packet,
					  struct connection *connection)
{
	struct connection marked = {.flags = CONNECTION_HANDED, .seen = now_s()};

	if (connection)
		connection->flags = CONNECTION_HANDED;
	else if (!is_icmp_error(packet))
		connection_write(&packet->flow, &marked, BPF_NOEXIST);
}

/* decide: whether a packet changes more of its connection than the time of its last packet */
static __always_inline bool is_turning_point(const struct packet *packet,
					     const struct connection *connection)
{
	return packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || is_closed(connection);
}

static __framed bool handover_decide(const struct packet *packet, struct connection *connection,
				     __u32 phase)
{
	if (!connection || phase & HANDOVER_ALL) {
		bool theirs = phase & (HANDOVER_ALL | HANDOVER_UNKNOWN);

		if (theirs && (!connection || is_turning_point(packet, connection)))
			handover_mark(packet, connection);
		return theirs;
	}
	if (!(connection->flags & CONNECTION_HANDED))
		return false;
	/* A closed one is the other's for what still arrives; what opens it anew is ours, unless
	 * the other opens.
	 */
	return phase & HANDOVER_UNKNOWN || !is_syn(packet) || !is_closed(connection);
}

/* decide: is this connection, NULL for none, the other generation's? Nothing is changed yet. */
static __always_inline bool is_handed(const struct packet *packet, struct connection *connection)
{
	__u32 phase = handover_phase();

	return phase && handover_decide(packet, connection, phase);
}

/* act: say who sent it, as the kernel's VXLAN device does with the headers that it takes off */
static __framed void handover_sender(hook_t *ctx, const struct packet *packet)
{
	struct bpf_tunnel_key key = {.tunnel_id = packet->identity,
				     .local_ipv4 = bpf_ntohl(packet->sender)};

	hook_from_device(ctx, &key);
}

/* act: the packet as it arrived, to the other generation; one out of the tunnel, to the program
 * that takes what the kernel's VXLAN device has opened. Returns a drop reason: no program is there.
 */
static __always_inline int hand_over(hook_t *ctx, const struct packet *packet)
{
	if (packet->sender) {
		handover_sender(ctx, packet);
		hook_vouch(ctx);
	}
	hook_hand_over(ctx, &mg_handover, packet->point);
	return DROP_MISSED_TAIL_CALL;
}
