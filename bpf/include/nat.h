/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Translation: which pod holds a port of an egress address, or of this node's (masquerade.h). The
 * mapping is keyed by the tuple of the reply as it arrives, so its insert with BPF_NOEXIST is the
 * lock on the port, and a port may serve any number of remotes. Whoever swaps `closed` owns the
 * mapping's fate. Of a one-shot each packet swaps `quiet`, and so does who takes its port: the
 * first one wins.
 */
#pragma once
#include "addresses.h"
#include "config.h"
#include "open.h"
#include "way.h"

/* What is live is never taken: TCP that has not ended, and datagrams exchanged for
 * longer than a one-shot does. The rest gives its port when none is free for a remote (port.h):
 * what has ended, then one-shots in the order of this enum; the oldest first.
 */
enum one_shot {
	ONE_SHOT_ANSWERED = 1, /* taken when quiet for ANSWERED_REST */
	ONE_SHOT_UNANSWERED,   /* taken when quiet for UNANSWERED_REST */
	ONE_SHOT_SHIFT = 62,   /* below it: since when, CLOCK_MONOTONIC in ns */
	TOUCH_SHIFT = 26,      /* noted once in 2^26 ns: a dirty line is dear */
	ANSWERED_REST_S = 1,
	UNANSWERED_REST_S = 10,
};
SCHEMA(enum one_shot, one_shot);

#define ONE_SHOT_MOST (2 * NSEC_PER_SEC) /* from its first packet to its last one */
/* What was not noted was that much later at most. */
#define NOT_NOTED	(1ULL << TOUCH_SHIFT)
#define ANSWERED_REST	(ANSWERED_REST_S * NSEC_PER_SEC + NOT_NOTED)
#define UNANSWERED_REST (UNANSWERED_REST_S * NSEC_PER_SEC + NOT_NOTED)

#define DYING (~0ULL)
/* A reset from outside may be forged: nobody here knows which sequence number the pod expects. So
 * of the closed mappings those that ended otherwise come first, and the pod's next packet takes the
 * mapping back. It cannot rest for good: a server that ends by RST would use up the ports.
 */
#define RESET_REST (60 * NSEC_PER_SEC)

struct mapping {
	struct addr pod;
	__be16 pod_port; /* or ICMP id */
	__u16 orphan;	 /* the sweep has met it without a connection */
	__u16 zone;	 /* of the pod */
	__u16 bound;	 /* its port is that of a binding (binding.h) */
	__u64 closed;	 /* CLOCK_MONOTONIC in ns; 0: lives, DYING: somebody is taking it away */
	__u64 first;	 /* packet, likewise; of datagrams */
	__u64 quiet;	 /* a one-shot: enum one_shot and its last packet; 0: none, DYING: taken */
};

/* {remote, egress address, remote port, egress port} -> pod, in the zone of the world. BPF only. */
MAP_HASH(mg_nat_v4, struct tuple_v4, struct mapping, CONNECTIONS, 0);
MAP_HASH(mg_nat_v6, struct tuple, struct mapping, CONNECTIONS, 0);

/* look up; without a frame, for the body of a loop */
static __always_inline struct mapping *mapping_find(const struct tuple *reply)
{
	if (!addr_is_v4(&reply->source))
		return bpf_map_lookup_elem(&mg_nat_v6, reply);
	struct tuple_v4 key = tuple_narrow(reply);
	struct mapping *mapping = bpf_map_lookup_elem(&mg_nat_v4, &key);
	APART(mapping);
	return mapping;
}

static __framed struct mapping *mapping_get(const struct tuple *reply)
{
	return mapping_find(reply);
}

static __always_inline long mapping_write(const struct tuple *reply, const struct mapping *value,
					  __u64 flags)
{
	if (!addr_is_v4(&reply->source))
		return bpf_map_update_elem(&mg_nat_v6, reply, value, flags);
	struct tuple_v4 key = tuple_narrow(reply);
	return bpf_map_update_elem(&mg_nat_v4, &key, value, flags);
}

static __framed long mapping_put(const struct tuple *reply, const struct mapping *value,
				 __u64 flags)
{
	return mapping_write(reply, value, flags);
}

static __framed long mapping_delete(const struct tuple *reply)
{
	if (!addr_is_v4(&reply->source))
		return bpf_map_delete_elem(&mg_nat_v6, reply);
	struct tuple_v4 key = tuple_narrow(reply);
	return bpf_map_delete_elem(&mg_nat_v4, &key);
}

/* The reply's tuple of a connection whose source is translated to address and port. */
static __always_inline void reply_tuple(struct tuple *reply, const struct tuple *original,
					const struct addr *address, __be16 port)
{
	tuple_reverse(reply, original);
	reply->destination = *address;
	reply->destination_port = port;
	reply->zone = 0; /* whatever the pod's is: the egress address is the world's */
}

/* The reply's tuple of a connection that is translated already. */
static __always_inline void connection_reply(struct tuple *reply, const struct tuple *original,
					     const struct connection *connection)
{
	reply_tuple(reply, original, &connection->translated, connection->translated_port);
}

/* The opener's tuple behind a reply's. */
static __always_inline void original_tuple(struct tuple *original, const struct tuple *reply,
					   const struct mapping *mapping)
{
	tuple_reverse(original, reply);
	original->source = mapping->pod;
	original->source_port = mapping->pod_port;
	original->zone = mapping->zone;
}

static __always_inline bool mapping_is_of(const struct mapping *mapping,
					  const struct tuple *original)
{
	return addr_equal(&mapping->pod, &original->source) &&
	       mapping->pod_port == original->source_port && mapping->zone == original->zone;
}

static __always_inline bool swap(__u64 *word, __u64 from, __u64 to)
{
	return __sync_val_compare_and_swap(word, from, to) == from;
}

static __always_inline bool mapping_swap(struct mapping *mapping, __u64 from, __u64 to)
{
	return swap(&mapping->closed, from, to);
}

/* decide: what may be taken, as a number that is smaller for what goes first; 0: it is live */
static __always_inline __u64 mapping_rank(const struct mapping *mapping, __u64 now)
{
	__u64 closed = mapping->closed, quiet = mapping->quiet;
	__u64 rest = quiet >> ONE_SHOT_SHIFT == ONE_SHOT_ANSWERED ? ANSWERED_REST : UNANSWERED_REST;

	if (closed)
		return closed == DYING ? 0 : closed;
	if (!quiet || quiet == DYING)
		return 0;
	__s64 since = now - (quiet & ((1ULL << ONE_SHOT_SHIFT) - 1));
	return since >= (__s64)rest ? quiet : 0; /* another CPU may be ahead of `now` */
}

/* act: what was found by its rank is DYING now; false when a packet or another CPU came first */
static __always_inline bool mapping_take(struct mapping *mapping, __u64 rank)
{
	if (!(rank >> ONE_SHOT_SHIFT))
		return mapping_swap(mapping, rank, DYING);
	if (!mapping_swap(mapping, 0, DYING))
		return false;
	if (swap(&mapping->quiet, rank, DYING))
		return true;
	mapping_swap(mapping, DYING, 0);
	return false;
}

static __always_inline __u16 touch_now(void)
{
	return bpf_ktime_get_coarse_ns() >> TOUCH_SHIFT;
}

/* `quiet` after a packet of datagrams that began at `first`. */
static __always_inline __u64 quiet_after(__u64 first, __u64 now, bool answered)
{
	if (now - first > ONE_SHOT_MOST)
		return 0;
	return (__u64)(answered ? ONE_SHOT_ANSWERED : ONE_SHOT_UNANSWERED) << ONE_SHOT_SHIFT | now;
}

/* decide: whether a mapping is that of this connection, and of no other one */
static __always_inline bool connection_holds(const struct connection *connection,
					     const struct tuple *reply)
{
	return connection->translated_port == reply->destination_port &&
	       addr_equal(&connection->translated, &reply->destination);
}

/* act: its connection has ended; the port is free when nothing else is, `rest` ns later than that
 * of another one that ends now. On another CPU a packet may have refuted the end meanwhile: whoever
 * comes second, here or in nat_see, sees what the first one wrote.
 */
__global int mapping_close(const struct tuple *original, const struct connection *connection,
			   __u64 rest)
{
	struct tuple reply;

	if (!original || !connection)
		return 0;
	connection_reply(&reply, original, connection);
	struct mapping *mapping = mapping_get(&reply);
	if (!mapping || !mapping_is_of(mapping, original))
		return 0;
	__u64 closed = bpf_ktime_get_ns() + rest;
	if (mapping_swap(mapping, 0, closed) && !is_closed(connection))
		mapping_swap(mapping, closed, 0);
	return 0;
}

/* act: take a mapping back into use for good; false when its port has gone to another connection */
static __always_inline bool mapping_revive(const struct tuple *reply, const struct tuple *original)
{
	struct mapping *mapping = mapping_get(reply);

	if (!mapping || !mapping_is_of(mapping, original))
		return false;
	__u64 closed = mapping->closed, quiet = mapping->quiet;
	if (closed == DYING || quiet == DYING || (closed && !mapping_swap(mapping, closed, 0)))
		return false;
	return !quiet || swap(&mapping->quiet, quiet, 0);
}

/* decide: whether a packet has to be noted in its mapping. TCP and streams give no port, and ICMP
 * errors keep none (RFC 5508 REQ-6).
 */
static __always_inline bool is_touch(const struct packet *packet,
				     const struct connection *connection, bool reply)
{
	if (connection->flags & CONNECTION_STREAM || packet->protocol == IPPROTO_TCP ||
	    is_icmp_error(packet))
		return false;
	return (reply && !(connection->flags & CONNECTION_REPLIED)) ||
	       connection->touched != touch_now();
}

/* act: a packet of datagrams that are no stream yet keeps their port; false when it has been taken.
 * A swap fails because of a taker, or of another packet; then the word says which.
 */
static __framed bool mapping_keep(const struct tuple *reply, const struct tuple *original,
				  struct connection *connection, bool answered)
{
	struct mapping *mapping = mapping_get(reply);

	if (!mapping || !mapping_is_of(mapping, original))
		return false;
	__u64 before = mapping->quiet;
	__u64 after = quiet_after(mapping->first, bpf_ktime_get_ns(), answered);
	if (before && before != DYING && !swap(&mapping->quiet, before, after))
		before = mapping->quiet;
	if (before == DYING)
		return false;
	connection->touched = touch_now();
	if (!before || !after)
		__sync_fetch_and_or(&connection->flags, CONNECTION_STREAM);
	return true;
}

/* act: a packet of a translated connection from the pod; false when its port has been taken */
static __framed bool nat_keep(const struct packet *packet, struct connection *connection)
{
	struct tuple reply;

	connection_reply(&reply, &packet->flow, connection);
	return mapping_keep(&reply, &packet->flow, connection,
			    connection->flags & CONNECTION_REPLIED);
}

/* act: give up the mapping of a tuple that is used without it from now on */
static __always_inline void mapping_forget(const struct tuple *reply, const struct tuple *original)
{
	if (mapping_revive(reply, original))
		mapping_delete(reply);
}

/* act: a tuple that was translated is used untranslated from now on */
__global int connection_untranslate(const struct tuple *original,
				    const struct connection *connection)
{
	struct tuple reply;

	if (!original || !connection)
		return 0;
	connection_reply(&reply, original, connection);
	mapping_forget(&reply, original);
	return 0;
}

/* decide: this node's address stands for the pod, and whoever translates notes the packet. What
 * comes to the pod's own address from elsewhere is no answer.
 */
static __always_inline bool is_noted_at_uplink(const struct packet *packet,
					       const struct connection *connection,
					       enum direction direction, __u32 destination_identity)
{
	if (!is_masqueraded(connection))
		return false;
	if (direction == DIRECTION_REPLY)
		return packet->point == POINT_TO_POD && packet->identity == IDENTITY_WORLD;
	return destination_identity == IDENTITY_WORLD;
}

/* act: note a packet of an untranslated connection, or open it. The world answers a translated one
 * at the egress address; the mesh knows no translation, so its packet opens one of its own. Returns
 * 0 or a drop reason.
 */
static __always_inline int connection_plain(hook_t *ctx, const struct packet *packet,
					    struct connection *connection, enum direction direction,
					    __u32 destination_identity)
{
	bool translated = connection && is_translated(connection);

	if (connection && direction != DIRECTION_NEW && !translated) {
		connection_see(connection, packet, direction);
		return 0;
	}
	if (translated && is_noted_at_uplink(packet, connection, direction, destination_identity))
		return 0;
	if (translated && direction == DIRECTION_REPLY && packet->identity == IDENTITY_WORLD)
		return DROP_NO_NAT_MAPPING;
	if (translated && direction != DIRECTION_REPLY)
		connection_untranslate(&packet->flow, connection);
	return connection_open(ctx, packet, destination_identity,
			       connection && direction != DIRECTION_REPLY);
}
