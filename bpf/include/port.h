/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of egress addresses, out of this node's own blocks; and of this node's address, out of a
 * range (masquerade.h). All candidates are in keyed order, so full ones are found full. A live
 * mapping is never taken; the port of another one is used again when none is free (nat.h). Three
 * quarters of the ports are anybody's. When those are in use, all are looked at; of a remote with
 * three quarters of them live, a pod with its share of live ones gets no more.
 */
#pragma once
#include "addresses.h"
#include "nat.h"

enum port_limit {
	OWN_BLOCKS = 16, /* of one egress address, at most */
};
SCHEMA(enum port_limit, port_limit);

struct own_blocks { /* blocks of this node, by egress address */
	__u32 count;
	__u32 number[OWN_BLOCKS];
};

/* egress address -> our own blocks of it. Agent, from table block. */
MAP_HASH(mg_own_block, struct addr, struct own_blocks, 4096, BPF_F_NO_PREALLOC);

struct masquerade { /* of one family: this node's address stands for its pods */
	struct addr address;
	__u16 first; /* port, or ICMP id */
	__u16 ports; /* how many; none of them is the host's own */
	__u32 opens; /* new connections get ports; 0: only those that have one go on */
};

/* family, 4 or 6 -> this node's address. Agent, from table masquerade. */
MAP_HASH(mg_masquerade, __u32, struct masquerade, 4, BPF_F_NO_PREALLOC);

/* egress address -> pods of this node that leave through it. Agent, from table egress pods. */
MAP_HASH(mg_egress_pods, struct addr, __u32, 4096, BPF_F_NO_PREALLOC);

#define SEARCHES_MAX 8 /* for one port, when other CPUs take over what was found */

/* look up: the row of a family */
static __always_inline const struct masquerade *masquerade_find(__u32 family)
{
	return bpf_map_lookup_elem(&mg_masquerade, &family);
}

/* look up: the row of an address that opens connections */
static __always_inline const struct masquerade *masquerade_of(const struct addr *address)
{
	const struct masquerade *row = masquerade_find(addr_is_v4(address) ? 4 : 6);

	return row && row->opens && addr_equal(&row->address, address) ? row : NULL;
}

static __always_inline bool range_holds(const struct masquerade *range, __be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= range->first && number - range->first < range->ports;
}

static __always_inline bool block_holds(const struct own_blocks *blocks, __be16 port)
{
	__u32 number = (bpf_ntohs(port) - 1024) / cfg.block_size;

	for (__u32 i = 0; i < OWN_BLOCKS; i++)
		if (i < blocks->count && blocks->number[i] == number)
			return true;
	return false;
}

struct search { /* for a free port */
	struct tuple reply;
	struct mapping mapping;
	__u64 oldest; /* rank of what may be taken, 0: none met */
	__u16 start;
	__u16 step;  /* odd: start + i * step visits each number up to mask once */
	__u16 ports; /* candidates */
	__u16 first; /* of those that are tried now: 0, or the first one of the last quarter */
	__u16 mask;  /* of as many numbers as are tried, and more: a power of two, minus one */
	__u16 live;  /* met: mappings that may not be taken */
	__u16 own;   /* of these, the pod's own */
	__u16 pods;  /* of this node that leave by the address; while the last quarter is tried */
	__u16 range; /* first port of a range; 0: ports of blocks */
	__be16 oldest_port;
	__be16 free_port; /* 0: none met */
	__u16 pad;
	int result; /* 0, -EEXIST: none free, or the map's error */
	__u32 pad_last;
};

/* The search of the packet in hand, as mg_slot is: written whole before it is read. On the stack
 * the verifier would follow every value of every field through both loops.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_NONE);
	__type(key, __u32);
	__type(value, struct search);
} mg_search SEC(".maps");

struct searching { /* what bpf_loop hands on: it takes no map value */
	struct search *search;
	const struct own_blocks *blocks;
};

static __always_inline void search_meet(struct search *search, const struct mapping *taken)
{
	__u64 rank = mapping_rank(taken, search->mapping.first);

	if (!rank) {
		search->live++;
		search->own += addr_equal(&taken->pod, &search->mapping.pod) &&
			       taken->zone == search->mapping.zone;
	} else if (!search->oldest || rank < search->oldest) {
		search->oldest = rank;
		search->oldest_port = search->reply.destination_port;
	}
}

/* How many candidates are anybody's. */
static __always_inline __u16 search_common(const struct search *search)
{
	return search->ports - search->ports / 4;
}

/* The port of a candidate. */
static __always_inline __be16 search_candidate(const struct searching *at_work, __u64 at)
{
	const struct own_blocks *blocks = at_work->blocks;

	if (at_work->search->range)
		return bpf_htons(at_work->search->range + at);
	__u64 block = at / cfg.block_size;
	asm volatile("" : "+r"(block)); /* the verifier loses the bound of a 32-bit quotient */
	if (!blocks || block >= OWN_BLOCKS)
		return 0;
	return bpf_htons(1024 + blocks->number[block] * cfg.block_size + at % cfg.block_size);
}

static long search_port(__u32 i, const struct searching *at_work)
{
	struct search *search = at_work->search;
	__u64 at = ((__u32)search->start + i * search->step) & search->mask;
	__u16 common = search_common(search);

	if (at >= (search->first ? search->ports - common : common))
		return 0;
	search->reply.destination_port = search_candidate(at_work, at + search->first);
	if (!search->reply.destination_port)
		return 0;
	struct mapping *taken = mapping_find(&search->reply);
	if (taken) {
		search_meet(search, taken);
		return 0;
	}
	if (search->pods > 1) {
		search->free_port = search->reply.destination_port;
		return 0;
	}
	search->result = mapping_write(&search->reply, &search->mapping, BPF_NOEXIST);
	return search->result != -EEXIST;
}

/* What has been found changes hands; its connection's entry goes with it. The mapping is DYING
 * until then, or its old connection could come back to life on the same port.
 */
static __always_inline long search_take_over(struct search *search)
{
	union {
		struct tuple flow;
		struct zoned_addr pod;
	} victim;

	search->reply.destination_port = search->oldest_port;
	struct mapping *mapping = mapping_get(&search->reply);
	if (!mapping || !mapping_take(mapping, search->oldest))
		return -EEXIST;
	original_tuple(&victim.flow, &search->reply, mapping);
	struct connection *connection = connection_get(&victim.flow);
	if (connection && connection_holds(connection, &search->reply) &&
	    !connection_delete(&victim.flow)) {
		__u32 table = connection_table(&victim.flow);
		__u32 size = connection_room(&victim.flow);
		__u16 zone = victim.flow.zone;
		victim.pod.zone = zone;
		victim.pod.pad = 0;
		used_less(&victim.pod, table, size);
	}
	return mapping_put(&search->reply, &search->mapping, BPF_EXIST);
}

static __always_inline __u64 mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
	return hash ^ hash >> 32;
}

/* The keyed order of candidates: unpredictable from outside (RFC 6888 R15). */
static __framed void search_order(struct search *search, const struct tuple *flow)
{
	__u64 hash = mix(cfg.permutation_key, (__u64)flow->source.w[0] << 32 | flow->source.w[1]);

	hash = mix(hash, (__u64)flow->source.w[2] << 32 | flow->source.w[3]);
	hash = mix(hash, (__u64)flow->destination.w[0] << 32 | flow->destination.w[1]);
	hash = mix(hash, (__u64)flow->destination.w[2] << 32 | flow->destination.w[3]);
	hash = mix(hash, (__u64)flow->source_port << 32 | (__u32)flow->destination_port << 16 |
			     flow->protocol);
	hash = mix(hash, cfg.permutation_key);
	search->start = hash;
	search->step = hash >> 32 | 1;
}

/* act: nothing has been met yet */
static __always_inline void search_begin(struct search *search)
{
	search->mapping.first = bpf_ktime_get_ns();
	if (search->reply.protocol != IPPROTO_TCP)
		search->mapping.quiet =
		    quiet_after(search->mapping.first, search->mapping.first, false);
	search->oldest = search->live = search->own = search->free_port = 0;
	search->pods = 0;
	search->result = -EEXIST;
}

/* look at the candidates from `first` up to `end`, each once */
static __always_inline void search_part(struct searching *at_work, __u32 first, __u32 end)
{
	struct search *search = at_work->search;
	__u32 mask = end - first - 1;

	mask |= mask >> 1;
	mask |= mask >> 2;
	mask |= mask >> 4;
	mask |= mask >> 8;
	search->first = first;
	search->mask = mask & 0xffff;
	if (end > first)
		bpf_loop(search->mask + 1, search_port, at_work, 0);
}

/* look up: how many pods of this node leave by the address, 65535 at most */
static __framed __u16 egress_pods(const struct addr *address)
{
	__u32 *pods = bpf_map_lookup_elem(&mg_egress_pods, address);

	if (!pods)
		return 0;
	return *pods < 0xffff ? *pods : 0xffff;
}

/* look up: how many pods of this node share the ports; behind its own address, all of the family */
static __always_inline __u16 search_pods(const struct search *search)
{
	if (!search->range)
		return egress_pods(&search->reply.destination);
	struct used *table = table_used(connection_table(&search->reply));
	__u32 pods = table ? table->pods : 0;
	return pods < 0xffff ? pods : 0xffff;
}

/* decide: whether what is left of this remote's ports is for others */
static __always_inline bool search_has_share(const struct search *search)
{
	return search->pods <= 1 || search->live < search_common(search) ||
	       (__u32)search->own * search->pods < search->ports;
}

/* act: use what the search has met: a port of the last quarter, or that of the mapping which goes
 * first
 */
static __always_inline void search_use(struct search *search)
{
	if (search->free_port) {
		search->reply.destination_port = search->free_port;
		search->result = mapping_put(&search->reply, &search->mapping, BPF_NOEXIST);
	} else {
		search->result = search_take_over(search);
	}
}

/* act: even turns look at what is anybody's, odd ones at the last quarter. What is found may go to
 * another CPU, which chose alike: then once more. Returns 1 at the end, as bpf_loop wants it.
 */
static long search_turn(__u32 turn, struct searching *at_work)
{
	struct search *search = at_work->search;
	__u32 common = search_common(search);
	bool last_quarter = turn & 1;

	if (last_quarter)
		search->pods = search_pods(search);
	else
		search_begin(search);
	search_part(at_work, last_quarter ? common : 0, last_quarter ? search->ports : common);
	if (search->result != -EEXIST)
		return 1;
	if (!last_quarter)
		return 0;
	if (!search_has_share(search) || (!search->free_port && !search->oldest))
		return 1;
	search_use(search);
	return search->result != -EEXIST;
}

static __always_inline __u16 blocks_ports(const struct own_blocks *blocks)
{
	__u32 count = blocks ? blocks->count : 0;

	return (count < OWN_BLOCKS ? count : OWN_BLOCKS) * cfg.block_size;
}

/* act: lock a port for the flow. Returns 0 or a drop reason. */
__global int port_open(const struct tuple *flow, struct translation *translation)
{
	struct searching at_work = {};
	__u32 key = 0;

	if (!flow || !translation)
		return DROP_NO_NAT_MAPPING;
	const struct masquerade *range = masquerade_of(&translation->address);
	at_work.blocks = bpf_map_lookup_elem(&mg_own_block, &translation->address);
	if (!range && (!at_work.blocks || !at_work.blocks->count))
		return DROP_NO_BLOCK;
	struct search *search = bpf_map_lookup_elem(&mg_search, &key);
	if (!search)
		return DROP_NO_NAT_MAPPING;
	__builtin_memset(search, 0, sizeof(*search));
	search->mapping.pod = flow->source;
	search->mapping.pod_port = flow->source_port;
	search->mapping.zone = flow->zone;
	search->range = range ? range->first : 0;
	search->ports = range ? range->ports : blocks_ports(at_work.blocks);
	search_order(search, flow);
	reply_tuple(&search->reply, flow, &translation->address, 0);
	at_work.search = search;
	bpf_loop(2 * SEARCHES_MAX, search_turn, &at_work, 0);
	translation->port = search->reply.destination_port;
	return search->result ? DROP_NO_NAT_MAPPING : 0;
}

/* look up: a port of an address that this node may give to a connection */
static __framed bool is_own_port(const struct addr *address, __be16 port)
{
	const struct masquerade *range = masquerade_of(address);

	if (range)
		return range_holds(range, port);
	struct own_blocks *blocks = bpf_map_lookup_elem(&mg_own_block, address);
	return blocks && block_holds(blocks, port);
}

/* decide: the connection that was closed on this tuple, opened again with the same port */
static __framed bool port_reopen(const struct tuple *flow, const struct connection *previous,
				 struct translation *translation)
{
	struct tuple reply;

	if (!previous || !is_translated(previous))
		return false;
	if (!addr_equal(&previous->translated, &translation->address) ||
	    !is_own_port(&translation->address, previous->translated_port))
		return false;
	translation->port = previous->translated_port;
	connection_reply(&reply, flow, previous);
	return mapping_revive(&reply, flow);
}

/* act: lock a port for a new connection. Returns 0 or a drop reason. */
static __always_inline int port_take(const struct tuple *flow, const struct connection *previous,
				     struct translation *translation)
{
	return port_reopen(flow, previous, translation) ? 0 : port_open(flow, translation);
}

/* act: the connection of a port that is locked; when another CPU was faster with the same flow,
 * its port counts. The port it had before goes last: what is refused until then keeps it, or the
 * connection would go on with a port that is somebody else's. Returns 0 or a drop reason.
 */
static __framed int nat_open(hook_t *ctx, const struct packet *packet,
			     const struct connection *previous, struct translation *translation)
{
	struct connection connection;
	struct tuple reply;
	bool translated = previous && is_translated(previous);
	bool same = translated && previous->translated_port == translation->port &&
		    addr_equal(&previous->translated, &translation->address);

	if (translated)
		connection_reply(&reply, &packet->flow, previous);
	connection_new(packet, IDENTITY_WORLD, &connection);
	connection.translated = translation->address;
	connection.translated_port = translation->port;
	if (packet->point == POINT_TO_UPLINK)
		connection.flags |= CONNECTION_MASQUERADED | CONNECTION_STACK;
	if (!connection_put(&packet->flow, &connection, previous ? BPF_ANY : BPF_NOEXIST)) {
		if (translated && !same)
			mapping_forget(&reply, &packet->flow);
		event_connection(ctx, packet, IDENTITY_WORLD, translation);
		return 0;
	}
	if (!same) {
		connection_reply(&reply, &packet->flow, &connection);
		mapping_delete(&reply);
	}
	struct connection *faster = connection_get(&packet->flow);
	if (!faster || !is_translated(faster))
		return DROP_CT_MAP_INSERTION_FAILED;
	translation->address = faster->translated;
	translation->port = faster->translated_port;
	return 0;
}

/* act: a packet after a reset takes the mapping back. Returns 0 or a drop reason. */
static __framed int nat_go_on(struct connection *connection, const struct packet *packet)
{
	struct tuple reply;

	__u32 flags = __sync_fetch_and_and(&connection->flags, ~CONNECTION_RST);
	connection_reply(&reply, &packet->flow, connection);
	if (mapping_revive(&reply, &packet->flow))
		return 0;
	__sync_fetch_and_or(&connection->flags, flags & CONNECTION_RST);
	return DROP_MID_STREAM;
}

/* act: note a packet of a translated connection. Returns 0 or a drop reason. */
static __always_inline int nat_see(struct connection *connection, const struct packet *packet)
{
	if (connection_see(connection, packet, DIRECTION_ORIGINAL))
		mapping_close(&packet->flow, connection, 0);
	if (!(connection->flags & CONNECTION_RST) || has_ended(connection) || !is_going_on(packet))
		return 0;
	return nat_go_on(connection, packet);
}
