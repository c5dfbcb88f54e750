/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connection tracking: one entry per connection, keyed by the tuple of the packet that opened it.
 * Preallocated, never evicting: a full map refuses new connections (share.h). Entries go by
 * sweep.bpf.c only, or when a translation takes the port of one that is not live (nat.h).
 */
#pragma once
#include "event.h"
#include "packet.h"
#include "share.h"

struct tuple_v4 { /* struct tuple in native width */
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad;
	__u16 zone;
};

enum connection_timers {
	TIMERS_SHIFT = 10,
	TIMERS_MOST = 63, /* numbers of timers; 0: those of all connections */
};
SCHEMA(enum connection_timers, connection_timers);

enum connection_flag {
	CONNECTION_OPENED = 1,	  /* seen from its first packet on: TCP by its SYN */
	CONNECTION_REPLIED = 2,	  /* both sides have spoken */
	CONNECTION_FIN = 4,	  /* from the opener */
	CONNECTION_REPLY_FIN = 8, /* from the other side */
	CONNECTION_RST = 16,
	CONNECTION_HANDED = 32, /* the other generation has it (handover.h) */
	CONNECTION_STREAM = 64, /* TCP, or translated datagrams for more than 2 s (nat.h) */
	/* Its opener has not answered the answer: what has begun it may be forged. Entries of the
	 * versions before this flag are established without it.
	 */
	CONNECTION_HALF_OPEN = 128,
	/* reset with the pod's own address (reset.h); challenged, and reset once more */
	CONNECTION_RESET = 256,
	CONNECTION_CHALLENGED = 512,
	/* the number of its policy's timers (timers.h); in entries of the versions before it is 0
	 */
	CONNECTION_TIMERS = TIMERS_MOST << TIMERS_SHIFT,
	CONNECTION_OVERLAY = 1 << 16, /* its host's packets come by the overlay, and so go back */
	CONNECTION_STACK = 1 << 17,   /* the kernel's stack gets all of its packets (stack.h) */
	CONNECTION_MASQUERADED = 1 << 18, /* translated to this node's address (masquerade.h) */
	/* TCP that others have opened, and whose SYN the pod has not answered by SYN-ACK. Entries
	 * of the versions before this flag have been answered.
	 */
	CONNECTION_UNACCEPTED = 1 << 19,
	/* datagrams that others have sent first to a declared port, which has answered (egress.h)
	 */
	CONNECTION_SERVED = 1 << 20,
	CONNECTION_BOUND = 1 << 24, /* its port is that of a binding (binding.h) */
};

struct connection {
	struct addr translated; /* egress address, or this node's; zero: not translated */
	__be16 translated_port; /* or ICMP id */
	/* When a packet of a one-shot was noted in its mapping (nat.h). */
	__u16 touched;
	__u32 flags;  /* enum connection_flag */
	__u32 seen;   /* last packet, CLOCK_MONOTONIC in 2^30 ns; sweep.bpf.c compares it */
	__u32 opened; /* first packet, likewise */
	__u32 source_identity; /* of the opener */
	__u32 destination_identity;
};

enum connection_limit {
	CONNECTIONS = 262144, /* entries, unless the configuration says otherwise */
};

enum direction {
	DIRECTION_NEW,
	DIRECTION_ORIGINAL,
	DIRECTION_REPLY,
};

/* opener's tuple -> connection. BPF only. */
MAP_HASH(mg_ct_v4, struct tuple_v4, struct connection, CONNECTIONS, 0);
MAP_HASH(mg_ct_v6, struct tuple, struct connection, CONNECTIONS, 0);

/* In two stores of eight bytes: the look-up reads it so, and would wait for smaller ones. */
static __always_inline struct tuple_v4 tuple_narrow(const struct tuple *tuple)
{
	union {
		struct tuple_v4 tuple;
		__u64 words[2];
	} narrow;

	narrow.words[0] = (__u64)tuple->destination.w[3] << 32 | tuple->source.w[3];
	narrow.words[1] = (__u64)tuple->zone << 48 | (__u64)tuple->protocol << 32 |
			  (__u32)tuple->destination_port << 16 | tuple->source_port;
	return narrow.tuple;
}

/* look up; without a frame, for where frames are used up */
static __always_inline struct connection *connection_look(const struct tuple *tuple)
{
	if (!addr_is_v4(&tuple->source))
		return bpf_map_lookup_elem(&mg_ct_v6, tuple);
	struct tuple_v4 key = tuple_narrow(tuple);
	struct connection *connection = bpf_map_lookup_elem(&mg_ct_v4, &key);
	APART(connection);
	return connection;
}

static __framed struct connection *connection_get(const struct tuple *tuple)
{
	return connection_look(tuple);
}

static __framed long connection_write(const struct tuple *tuple, const struct connection *value,
				      __u64 flags)
{
	if (!addr_is_v4(&tuple->source))
		return bpf_map_update_elem(&mg_ct_v6, tuple, value, flags);
	struct tuple_v4 key = tuple_narrow(tuple);
	return bpf_map_update_elem(&mg_ct_v4, &key, value, flags);
}

/* The kernel's own view of a map, as far as it is read here. */
struct bpf_map {
	__u32 max_entries;
} __attribute__((preserve_access_index));

static __always_inline __u32 connection_table(const struct tuple *tuple)
{
	return addr_is_v4(&tuple->source) ? USED_V4 : USED_V6;
}

/* The verifier knows a field of a map only where its offset stands in the load: so each has a
 * function of its own, which clang does not merge.
 */
static __framed __u32 room_v4(void)
{
	return ((struct bpf_map *)&mg_ct_v4)->max_entries;
}

static __framed __u32 room_v6(void)
{
	return ((struct bpf_map *)&mg_ct_v6)->max_entries;
}

/* look up: how many entries the table of this family has room for */
static __always_inline __u32 connection_room(const struct tuple *tuple)
{
	return addr_is_v4(&tuple->source) ? room_v4() : room_v6();
}

/* act: BPF_NOEXIST makes an entry, which counts; all else writes over the one that is there */
static __always_inline long connection_put(const struct tuple *tuple,
					   const struct connection *value, __u64 flags)
{
	long failed = connection_write(tuple, value, flags);

	if (!failed && flags == BPF_NOEXIST)
		used_more(tuple, connection_table(tuple), connection_room(tuple));
	return failed;
}

/* decide: whether a new entry is for whoever opens it */
static __always_inline bool connection_fits(const struct tuple *tuple)
{
	return has_share(tuple, connection_table(tuple), connection_room(tuple));
}

static __always_inline long connection_remove(const struct tuple *tuple)
{
	if (!addr_is_v4(&tuple->source))
		return bpf_map_delete_elem(&mg_ct_v6, tuple);
	struct tuple_v4 key = tuple_narrow(tuple);
	return bpf_map_delete_elem(&mg_ct_v4, &key);
}

static __framed long connection_delete(const struct tuple *tuple)
{
	return connection_remove(tuple);
}

static __always_inline bool is_translated(const struct connection *connection)
{
	return !addr_is_zero(&connection->translated);
}

static __always_inline bool is_masqueraded(const struct connection *connection)
{
	return connection->flags & CONNECTION_MASQUERADED;
}

/* decide: an egress policy has translated it */
static __always_inline bool is_egress(const struct connection *connection)
{
	return is_translated(connection) && !is_masqueraded(connection);
}

static __always_inline bool has_ended(const struct connection *connection)
{
	__u32 both = CONNECTION_FIN | CONNECTION_REPLY_FIN;

	return (connection->flags & both) == both;
}

static __always_inline bool is_closed(const struct connection *connection)
{
	return connection->flags & CONNECTION_RST || has_ended(connection);
}

static __always_inline bool is_half_open(const struct connection *connection)
{
	return connection->flags & CONNECTION_HALF_OPEN;
}

/* decide: it asks for an answer, so it is none */
static __always_inline bool is_opening(const struct packet *packet)
{
	return is_syn(packet) || packet->icmp == ICMP_ECHO;
}

/* decide: a SYN opens a new one on the same tuple: this one has ended, or half of it has, or it
 * never began: a stray packet made the entry.
 */
static __always_inline bool is_over(const struct connection *connection)
{
	__u32 ends = CONNECTION_FIN | CONNECTION_REPLY_FIN | CONNECTION_RST;

	return connection->flags & ends || !(connection->flags & CONNECTION_OPENED);
}

/* decide: whose packet this is. On one that is over a SYN opens a new connection: then `connection`
 * is the one that is over.
 */
static __framed enum direction connection_find(const struct packet *packet,
					       struct connection **connection)
{
	struct tuple reversed;

	*connection = connection_get(&packet->flow);
	if (*connection)
		return is_syn(packet) && is_over(*connection) ? DIRECTION_NEW : DIRECTION_ORIGINAL;
	if (is_opening(packet))
		return DIRECTION_NEW;
	tuple_reverse(&reversed, &packet->flow);
	*connection = connection_get(&reversed);
	return *connection ? DIRECTION_REPLY : DIRECTION_NEW;
}

/* decide: a host of another node sent it through the overlay */
static __always_inline bool is_host_overlay(const struct packet *packet)
{
	return packet->sender && packet->identity == IDENTITY_REMOTE_NODE;
}

static __always_inline __u32 connection_flags(const struct packet *packet, enum direction direction)
{
	bool reply = direction == DIRECTION_REPLY;
	__u32 flags = reply ? CONNECTION_REPLIED : 0;

	if (is_host_overlay(packet))
		flags |= CONNECTION_OVERLAY;
	if (packet->stack)
		flags |= CONNECTION_STACK;
	if (packet->protocol != IPPROTO_TCP || packet->fragment == FRAGMENT_LATER)
		return flags;
	if (packet->tcp_flags & TCP_FIN)
		flags |= reply ? CONNECTION_REPLY_FIN : CONNECTION_FIN;
	if (packet->tcp_flags & TCP_RST)
		flags |= CONNECTION_RST;
	return flags;
}

/* A packet that comes after a reset shows that nobody believed the reset (RFC 5961). */
static __always_inline bool is_going_on(const struct packet *packet)
{
	return !(packet->tcp_flags & (TCP_RST | TCP_SYN | TCP_FIN)) && !is_icmp_error(packet);
}

/* decide: the opener answers what it has got, as no forger of its address does. RFC 5382: from here
 * on TCP is established; of two that open at once the opener's SYN-ACK is its answer.
 */
static __always_inline bool is_opened_by(const struct connection *connection,
					 const struct packet *packet, enum direction direction)
{
	__u32 both = CONNECTION_HALF_OPEN | CONNECTION_REPLIED;

	if ((connection->flags & both) != both || direction != DIRECTION_ORIGINAL)
		return false;
	return packet->protocol != IPPROTO_TCP ||
	       (packet->tcp_flags & (TCP_ACK | TCP_RST)) == TCP_ACK;
}

/* decide: the pod takes what others have opened */
static __always_inline bool is_acceptance(const struct packet *packet)
{
	return packet->protocol == IPPROTO_TCP && packet->fragment != FRAGMENT_LATER &&
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
}

/* act: note a packet; true when this one closed the connection. ICMP errors change nothing. */
static __always_inline bool connection_see(struct connection *connection,
					   const struct packet *packet, enum direction direction)
{
	__u32 flags = connection_flags(packet, direction), now = now_s();

	if (is_icmp_error(packet))
		return false;
	if (connection->flags & CONNECTION_RST && !is_translated(connection) && is_going_on(packet))
		__sync_fetch_and_and(&connection->flags, ~CONNECTION_RST);
	if (connection->flags & CONNECTION_OVERLAY && packet->point == POINT_FROM_UPLINK)
		__sync_fetch_and_and(&connection->flags, ~CONNECTION_OVERLAY);
	if (is_opened_by(connection, packet, direction))
		__sync_fetch_and_and(&connection->flags, ~CONNECTION_HALF_OPEN);
	if (connection->flags & CONNECTION_UNACCEPTED && direction == DIRECTION_REPLY &&
	    is_acceptance(packet))
		__sync_fetch_and_and(&connection->flags, ~CONNECTION_UNACCEPTED);
	if (connection->seen != now) /* a dirty line costs more than the look-up */
		connection->seen = now;
	if ((connection->flags & flags) == flags)
		return false;
	bool was_closed = is_closed(connection);
	__sync_fetch_and_or(&connection->flags, flags);
	return !was_closed && is_closed(connection);
}

static __always_inline void connection_new(const struct packet *packet, __u32 destination_identity,
					   struct connection *connection)
{
	bool opened = packet->protocol != IPPROTO_TCP || is_syn(packet);
	bool asked = is_syn(packet) && packet->point != POINT_FROM_POD;
	__u32 now = now_s();

	*connection = (struct connection){
	    .flags = (opened ? CONNECTION_OPENED : 0) | CONNECTION_HALF_OPEN |
		     (asked ? CONNECTION_UNACCEPTED : 0) |
		     (packet->protocol == IPPROTO_TCP ? CONNECTION_STREAM : 0) |
		     connection_flags(packet, DIRECTION_ORIGINAL),
	    .seen = now,
	    .opened = now,
	    .source_identity = packet->identity,
	    .destination_identity = destination_identity,
	};
}
