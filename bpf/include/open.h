/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections that are not translated are opened. Whoever forges addresses opens TCP to a pod with
 * one packet each. So of a table that is more than half full such connections have an eighth: each
 * takes the place of the oldest of them, if that is still half-open or has ended. The rest stays
 * for all others.
 */
#pragma once
#include "conntrack.h"

enum half_open_limit {
	HALF_OPENS = 32768, /* of a table, at most: an eighth of the usual size */
};

/* enum used_table and place -> TCP that was opened to a pod while the table was pressed. Private:
 * a place may tell of a connection that has gone, or is open by now.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, USED_TABLES *HALF_OPENS);
	__type(key, __u32);
	__type(value, struct tuple);
} mg_half_open SEC(".maps");

/* act: note it in the place of the oldest one, which it returns in `oldest`; false: there is none
 */
static __always_inline bool half_open_note(const struct tuple *tuple, __u32 table, __u32 size,
					   struct tuple *oldest)
{
	struct used *asked = table_used(USED_ASKED + table);
	__u32 places = size / 8 < HALF_OPENS ? size / 8 : HALF_OPENS;

	if (!asked || !places)
		return false;
	__u32 place = table * HALF_OPENS + __sync_fetch_and_add(&asked->half, 1) % places;
	struct tuple *noted = bpf_map_lookup_elem(&mg_half_open, &place);
	if (!noted)
		return false;
	*oldest = *noted;
	*noted = *tuple;
	return oldest->protocol;
}

/* decide: nobody needs it any more, or ever did. A guessed answer opens it, and the pod resets it.
 */
static __always_inline bool may_make_room(const struct connection *connection)
{
	return !is_translated(connection) && (is_half_open(connection) || is_closed(connection));
}

/* act: one more that is half-open; the oldest such one makes room */
__global int half_open_more(const struct tuple *tuple, __u32 table, __u32 size)
{
	struct tuple oldest;

	if (!tuple || !half_open_note(tuple, table, size, &oldest))
		return 0;
	struct connection *connection = connection_look(&oldest);
	if (connection && may_make_room(connection) && !connection_remove(&oldest))
		used_less_asked(&oldest, table);
	return 0;
}

/* act: a new entry, which counts */
static __always_inline long connection_make(const struct tuple *tuple,
					    const struct connection *value)
{
	__u32 table = connection_table(tuple), size = connection_room(tuple);
	long failed = connection_write(tuple, value, BPF_NOEXIST);

	if (!failed && used_more(tuple, table, size) && tuple->protocol == IPPROTO_TCP)
		half_open_more(tuple, table, size);
	return failed;
}

/* decide: a packet without an entry. Between two addresses of the mesh it needs none; from or to
 * the world the direction of the entry decides whether egress may leave it untranslated.
 */
static __always_inline int connection_missed(const struct packet *packet,
					     __u32 destination_identity)
{
	bool world = packet->identity == IDENTITY_WORLD || destination_identity == IDENTITY_WORLD;

	return world ? DROP_CT_MAP_INSERTION_FAILED : 0;
}

/* decide: the entry on this tuple has been accepted and has not ended: a SYN, which may be forged,
 * does not take that away. What the pod still sends on it leaves as before.
 */
static __always_inline bool stays_accepted(const struct packet *packet)
{
	struct connection *connection = connection_get(&packet->flow);

	return connection && !is_closed(connection) &&
	       (connection->flags & (CONNECTION_OPENED | CONNECTION_UNACCEPTED)) ==
		   CONNECTION_OPENED;
}

/* act: open a connection that is not translated, in place of the entry that its tuple `has`. An
 * ICMP error opens none. Returns 0 or a drop reason.
 */
__global int connection_open(hook_t *ctx, const struct packet *packet, __u32 destination_identity,
			     bool has)
{
	struct connection connection;

	if (!packet || is_icmp_error(packet))
		return 0;
	if (!has && !connection_fits(&packet->flow))
		return connection_missed(packet, destination_identity);
	connection_new(packet, destination_identity, &connection);
	if (has && stays_accepted(packet))
		connection.flags &= ~CONNECTION_UNACCEPTED;
	long failed = has ? connection_put(&packet->flow, &connection, BPF_ANY)
			  : connection_make(&packet->flow, &connection);
	if (failed == -EEXIST) /* another CPU was faster */
		return 0;
	if (failed)
		return connection_missed(packet, destination_identity);
	event_connection(ctx, packet, destination_identity, NULL);
	return 0;
}
