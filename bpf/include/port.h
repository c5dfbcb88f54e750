/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of egress addresses, out of the runs that this node has lent to the pod (run.h); and of
 * this node's address, out of a range (masquerade.h). Candidates are in keyed order. A live mapping
 * is never taken; the port of another one is used again when none is free (nat.h).
 * Of an egress address, first a few candidates of all runs of the pod, then those of its last run,
 * then more of all; then the pod gets a run more, and when it gets none all candidates are looked
 * at. A pod's quota of runs limits it, and the node's last runs are for pods with less than their
 * share. Of this node's address three quarters of the ports are anybody's. When those are in use,
 * all are looked at; of a remote with three quarters of them live, a pod with its share of live
 * ones gets no more.
 */
#pragma once
#include "binding.h"

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
#define ALL_PORTS    65536
#define NO_RUN	     (~0U)
#define NEEDS_RUN    (-1) /* no drop reason: the pod needs a run more */
#define RUNS_TRIED   3	  /* for one port, when other CPUs are faster */
#define FEW	     2	  /* candidates of all runs of a pod, before those of its last one */
#define MORE	     32	  /* before it gets another one: what these miss is one in ten at most */
/* A closed mapping gives its port before another run is lent: its other end has forgotten it. */
#define CLOSED_REST (60 * NSEC_PER_SEC)

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

enum port_turn {
	PORT_RANGE, /* of this node's own address */
	PORT_FIRST, /* a few candidates */
	PORT_NEXT,  /* likewise, and a run more */
	PORT_ALL,   /* each candidate */
};

struct search { /* for a free port */
	struct tuple reply;
	struct mapping mapping;
	__u64 oldest; /* rank of what may be taken, 0: none met */
	__u16 start;
	__u16 step;  /* odd: start + i * step visits each number up to mask once */
	__u16 ports; /* candidates */
	__u16 first; /* of those that are tried now */
	__u16 count; /* how many of them there are from there */
	__u16 mask;  /* of as many numbers as are tried, and more: a power of two, minus one */
	__u16 live;  /* met: mappings that may not be taken */
	__u16 own;   /* of these, the pod's own */
	__u16 pods;  /* of this node that share the range; while the last quarter is tried */
	__u16 range; /* first port of a range; 0: ports of runs */
	__be16 oldest_port;
	__be16 free_port; /* 0: none met */
	int result;	  /* 0, -EEXIST: none free, or the map's error */
	__u32 all;	  /* every candidate of the pod's runs is looked at */
	struct pod_runs_key pod;
	struct run_key run; /* that is lent now */
	__u32 quota;	    /* runs of the pod, at most */
	__u32 free;	    /* met: runs that are lent to nobody */
	__u32 total;	    /* runs of the node's blocks */
	__u32 block;	    /* the first one with a free run, plus one */
	__u32 binding;	    /* enum binding_kind */
	__u32 crossed;	    /* another CPU took what was found: any of the first kind will do */
};

struct searching { /* what bpf_loop hands on: it takes no map value */
	struct search *search;
	const struct own_blocks *blocks;
	struct pod_runs *runs;
};

/* Of what may be taken the oldest goes first. CPUs that cross there would all choose alike again,
 * so each takes what it meets first in its own order: the order of a flow.
 */
static __always_inline void search_meet(struct search *search, const struct mapping *taken)
{
	__u64 rank = mapping_rank(taken, search->mapping.first);
	__u32 alike = search->crossed ? ONE_SHOT_SHIFT : 0;

	if (!rank) {
		search->live++;
		search->own += addr_equal(&taken->pod, &search->mapping.pod) &&
			       taken->zone == search->mapping.zone;
	} else if (!search->oldest || rank >> alike < search->oldest >> alike) {
		search->oldest = rank;
		search->oldest_port = search->reply.destination_port;
	}
}

/* How many candidates are anybody's. */
static __always_inline __u16 search_common(const struct search *search)
{
	return search->ports - search->ports / 4;
}

/* The port of a candidate; 0: none. What a pod holds of another generation's block, or of a block
 * that is no more this node's, opens nothing.
 */
static __always_inline __be16 search_candidate(const struct searching *at_work, __u64 at)
{
	const struct pod_runs *runs = at_work->runs;

	if (at_work->search->range)
		return bpf_htons(at_work->search->range + at);
	if (!runs || !at_work->blocks)
		return 0;
	__u64 element = at / RUN_PORTS & (POD_RUNS - 1);
	asm volatile("" : "+r"(element));
	if (element >= POD_RUNS)
		return 0;
	__u32 number = runs->number[element];
	__be16 port = bpf_htons(1024 + (number - 1) * RUN_PORTS + at % RUN_PORTS);
	return number && block_holds(at_work->blocks, port) ? port : 0;
}

static long search_port(__u32 i, const struct searching *at_work)
{
	struct search *search = at_work->search;
	__u64 at = ((__u32)search->start + i * search->step) & search->mask;

	if (at >= search->count)
		return 0;
	search->reply.destination_port = search_candidate(at_work, at + search->first);
	if (!search->reply.destination_port)
		return 0;
	if (search->pod.bound) {
		search->result = bound_lock(&search->reply, &search->mapping, search->binding);
		return search->result != -EEXIST;
	}
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
 * until then, or its old connection could come back to life on the same port. A connection that is
 * the other generation's (handover.h) keeps its port: there it may be alive.
 */
static __always_inline long search_take_over(struct search *search)
{
	union {
		struct tuple flow;
		struct zoned_addr pod;
	} victim;

	search->reply.destination_port = search->oldest_port;
	struct mapping *mapping = mapping_get(&search->reply);
	if (!mapping)
		return -EEXIST;
	original_tuple(&victim.flow, &search->reply, mapping);
	struct connection *connection = connection_get(&victim.flow);
	if (connection && connection->flags & CONNECTION_HANDED)
		return -EEXIST;
	if (!mapping_take(mapping, search->oldest))
		return -EEXIST;
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

/* look at the candidates from `first` up to `end`, each once; at `most` so many numbers */
static __always_inline void search_part(struct searching *at_work, __u32 first, __u32 end,
					__u32 most)
{
	struct search *search = at_work->search;
	__u32 mask = end - first - 1;

	mask |= mask >> 1;
	mask |= mask >> 2;
	mask |= mask >> 4;
	mask |= mask >> 8;
	search->first = first;
	search->count = end - first;
	search->mask = mask & 0xffff;
	if (end > first)
		bpf_loop(search->mask < most ? search->mask + 1 : most, search_port, at_work, 0);
}

/* look up: how many pods of this node leave by the address */
static __framed __u32 egress_pods(const struct addr *address)
{
	__u32 *pods = bpf_map_lookup_elem(&mg_egress_pods, address);

	return pods ? *pods : 0;
}

/* look up: how many pods of the family share this node's own address, 65535 at most */
static __always_inline __u16 search_pods(const struct search *search)
{
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
		search->crossed = search->result == -EEXIST;
	}
}

/* act: of a range. Even turns look at what is anybody's, odd ones at the last quarter. What is
 * found may go to another CPU, which chose alike: then once more. Returns 1 at the end, as bpf_loop
 * wants it.
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
	search_part(at_work, last_quarter ? common : 0, last_quarter ? search->ports : common,
		    ALL_PORTS);
	if (search->result != -EEXIST)
		return 1;
	if (!last_quarter)
		return 0;
	if (!search_has_share(search) || (!search->free_port && !search->oldest))
		return 1;
	search_use(search);
	return search->result != -EEXIST;
}

/* look up: what is free in one of this node's blocks */
static long search_block(__u32 i, const struct searching *at_work)
{
	const struct own_blocks *blocks = at_work->blocks;
	struct search *search = at_work->search;

	if (!blocks || i >= OWN_BLOCKS || i >= blocks->count)
		return 1;
	__u32 in_block = runs_of_block(blocks->number[i]);
	struct block_runs *row = block_runs_find(&search->pod.address, blocks->number[i]);
	__u32 taken = row ? bit_count(row->taken) : 0;
	search->total += in_block;
	if (taken >= in_block)
		return 0;
	search->free += in_block - taken;
	if (!search->block)
		search->block = blocks->number[i] + 1;
	return 0;
}

/* How many of the node's runs are for pods with less than their share: half a block, which is less
 * than the spare one, so that the node gets a further block; a quarter when it gets no more.
 */
static __always_inline __u32 search_last(const struct search *search)
{
	__u32 in_block = runs_of_block(search->block - 1);
	__u32 most = cfg.blocks_per_node ? cfg.blocks_per_node : OWN_BLOCKS;

	return search->total < most * in_block ? in_block / 2 : search->total / 4;
}

/* decide: whether a free run is for this pod. Returns 0 or a drop reason. */
static __always_inline int search_may_lend(const struct search *search, const struct pod_runs *runs)
{
	__u32 own = bit_count(runs->used);

	if (own >= search->quota)
		return DROP_PORT_QUOTA;
	if (!search->block)
		return DROP_NO_RUN;
	__u32 pods = egress_pods(&search->pod.address);
	if (own && pods > 1 && search->free <= search_last(search) && own * pods >= search->total)
		return DROP_NO_RUN;
	return 0;
}

/* decide: a run of the block that is free, in no order that shows from outside */
static __always_inline __u32 search_run(const struct search *search, const struct block_runs *block)
{
	__u32 in_block = runs_of_block(search->block - 1);
	__u32 number = (search->block - 1) & ((1U << BLOCK_SIZE_SHIFT) - 1);
	__u64 all = in_block < 64 ? (1ULL << (in_block & 63)) - 1 : ~0ULL;
	__u64 free = ~block->taken & all;
	__u64 later = free & (~0ULL << (in_block ? search->start % in_block & 63 : 0));

	if (!free)
		return NO_RUN;
	return number * in_block + first_bit(later ? later : free);
}

/* act: one run more for the pod whose search this CPU has at hand. Returns 0 or a drop reason. */
__global int run_more(const struct addr *address)
{
	struct searching at_work = {};

	if (!address)
		return DROP_NO_RUN;
	struct search *search = SCRATCH(struct search, SCRATCH_SEARCH);
	at_work.blocks = bpf_map_lookup_elem(&mg_own_block, address);
	if (!search || !at_work.blocks)
		return DROP_NO_RUN;
	at_work.search = search;
	search->free = search->total = search->block = 0;
	bpf_loop(OWN_BLOCKS, search_block, &at_work, 0);
	struct pod_runs *runs = bpf_map_lookup_elem(&mg_pod_runs, &search->pod);
	if (!runs)
		return DROP_NO_RUN;
	int reason = search_may_lend(search, runs);
	if (reason)
		return reason;
	struct block_runs *block = block_runs_make(address, search->block - 1);
	if (!block)
		return DROP_NO_RUN;
	search->run.address = *address;
	search->run.number = search_run(search, block);
	if (search->run.number != NO_RUN)
		/* or another CPU has it */
		run_lend(&search->run, &search->pod, block, runs_of_block(search->block - 1), runs);
	return 0;
}

/* decide: a mapping that closed long ago */
static __always_inline bool search_met_closed(const struct search *search)
{
	return search->oldest && !(search->oldest >> ONE_SHOT_SHIFT) &&
	       search->mapping.first - search->oldest > CLOSED_REST;
}

/* act: of the pod's runs: what is free, and what may be taken when it is time. Returns 1 at the
 * end, as bpf_loop wants it.
 */
static long search_runs(__u32 turn, struct searching *at_work)
{
	struct search *search = at_work->search;
	struct pod_runs *runs = at_work->runs;

	(void)turn;
	if (!runs)
		return 1;
	search_begin(search);
	__u32 ports = bits_upto(runs->used) * RUN_PORTS;
	__u32 last = runs->last % POD_RUNS * RUN_PORTS;
	search_part(at_work, 0, ports, search->all ? ALL_PORTS : FEW);
	if (search->result == -EEXIST && !search->all)
		search_part(at_work, last, last + RUN_PORTS, RUN_PORTS);
	if (search->result == -EEXIST && !search->all && ports > RUN_PORTS)
		search_part(at_work, 0, ports, MORE);
	if (search->result != -EEXIST || !search->oldest)
		return 1;
	if (!search->all && !search_met_closed(search))
		return 1;
	search->result = search_take_over(search);
	search->crossed = search->result == -EEXIST;
	return search->result != -EEXIST;
}

/* act: one mapping more of the pod (RFC 6888 REQ-4); false when there were as many as the rate
 * within a second
 */
static __always_inline bool rate_take(struct pod_runs *runs, __u32 per_second)
{
	if (!per_second)
		return true;
	__u64 now = bpf_ktime_get_ns(), before = runs->free_at;
	if (before < now)
		__sync_val_compare_and_swap(&runs->free_at, before, now);
	else if (before - now > NSEC_PER_SEC)
		return false;
	__sync_fetch_and_add(&runs->free_at, NSEC_PER_SEC / per_second);
	return true;
}

/* act: nothing has been looked for yet */
static __always_inline void search_of(struct search *search, const struct tuple *flow,
				      const struct translation *translation)
{
	__builtin_memset(search, 0, sizeof(*search));
	search->mapping.pod = flow->source;
	search->mapping.pod_port = flow->source_port;
	search->mapping.zone = flow->zone;
	search_order(search, flow);
	reply_tuple(&search->reply, flow, &translation->address, 0);
}

/* act: a port of this node's range. Returns 0 or a drop reason. */
static __always_inline int range_open(struct searching *at_work,
				      const struct translation *translation)
{
	struct search *search = at_work->search;
	const struct masquerade *range = masquerade_of(&translation->address);

	if (!range)
		return DROP_NO_NAT_MAPPING;
	search->range = range->first;
	search->ports = range->ports;
	bpf_loop(2 * SEARCHES_MAX, search_turn, at_work, 0);
	return search->result ? DROP_NO_NAT_MAPPING : 0;
}

/* act: a port of the pod's runs. Returns 0, NEEDS_RUN or a drop reason. */
static __always_inline int runs_open(struct searching *at_work, const struct tuple *flow,
				     const struct translation *translation, enum port_turn turn)
{
	struct search *search = at_work->search;

	at_work->blocks = bpf_map_lookup_elem(&mg_own_block, &translation->address);
	if (!at_work->blocks || !at_work->blocks->count)
		return DROP_NO_BLOCK;
	search->pod.pod = flow->source;
	search->pod.address = translation->address;
	search->pod.zone = flow->zone;
	search->pod.bound = !!translation->binding;
	search->binding = translation->binding;
	search->quota =
	    translation->runs && translation->runs < POD_RUNS ? translation->runs : POD_RUNS;
	search->all = turn == PORT_ALL;
	at_work->runs = pod_runs_make(&search->pod);
	if (!at_work->runs)
		return DROP_NO_RUN;
	if (turn == PORT_FIRST && !rate_take(at_work->runs, translation->rate))
		return DROP_RATE_LIMITED;
	bpf_loop(SEARCHES_MAX, search_runs, at_work, 0);
	if (search->result == -EEXIST)
		return NEEDS_RUN;
	return search->result ? DROP_NO_NAT_MAPPING : 0;
}

/* act: a port of the pod's runs for a binding, which this flow uses. Returns 0, NEEDS_RUN or a drop
 * reason.
 */
static __always_inline int runs_bind(struct searching *at_work, const struct tuple *flow,
				     struct translation *translation, enum port_turn turn)
{
	int reason = runs_open(at_work, flow, translation, turn);

	if (reason)
		return reason;
	bind_new(flow, &at_work->search->reply);
	reason = bind_use(flow, translation);
	return reason == NO_BINDING ? DROP_NO_NAT_MAPPING : reason;
}

/* act: lock a port for the flow. Returns 0, NEEDS_RUN or a drop reason. */
__global int port_open(const struct tuple *flow, struct translation *translation, __u32 turn)
{
	struct searching at_work = {};

	if (!flow || !translation)
		return DROP_NO_NAT_MAPPING;
	struct search *search = SCRATCH(struct search, SCRATCH_SEARCH);
	if (!search)
		return DROP_NO_NAT_MAPPING;
	search_of(search, flow, translation);
	at_work.search = search;
	if (turn != PORT_RANGE && translation->binding) {
		int bound = bind_use(flow, translation);
		return bound == NO_BINDING ? runs_bind(&at_work, flow, translation, turn) : bound;
	}
	int reason = turn == PORT_RANGE ? range_open(&at_work, translation)
					: runs_open(&at_work, flow, translation, turn);
	translation->port = search->reply.destination_port;
	return reason;
}

/* look up: a port of an address that this node may give to a connection */
static __framed bool is_own_port(const struct addr *address, __be16 port)
{
	const struct masquerade *range = masquerade_of(address);

	if (range && range_holds(range, port))
		return true;
	struct own_blocks *blocks = bpf_map_lookup_elem(&mg_own_block, address);
	return blocks && block_holds(blocks, port);
}

/* decide: the connection that was closed on this tuple, opened again with the same port */
__global bool port_reopen(const struct tuple *flow, const struct connection *previous,
			  struct translation *translation)
{
	struct tuple reply;

	if (!flow || !translation || !previous || !is_translated(previous))
		return false;
	if (!addr_equal(&previous->translated, &translation->address) ||
	    !is_own_port(&translation->address, previous->translated_port))
		return false;
	translation->port = previous->translated_port;
	connection_reply(&reply, flow, previous);
	return mapping_revive(&reply, flow);
}

/* act: lock a port of this node's own address. Returns 0 or a drop reason. */
static __always_inline int range_take(const struct tuple *flow, const struct connection *previous,
				      struct translation *translation)
{
	return port_reopen(flow, previous, translation) ? 0
							: port_open(flow, translation, PORT_RANGE);
}

/* act: lock a port for a new connection: of the runs that the pod has, of one more, or whichever
 * is left. Returns 0 or a drop reason.
 */
static __always_inline int port_take(const struct tuple *flow, const struct connection *previous,
				     struct translation *translation)
{
	int refused = 0;

	if (!translation->binding && port_reopen(flow, previous, translation))
		return 0;
	int reason = port_open(flow, translation, PORT_FIRST);
	for (int i = 0; i < RUNS_TRIED && reason == NEEDS_RUN && !refused; i++) {
		refused = run_more(&translation->address);
		if (!refused)
			reason = port_open(flow, translation, PORT_NEXT);
	}
	if (reason == NEEDS_RUN)
		reason = port_open(flow, translation, PORT_ALL);
	if (reason == NEEDS_RUN)
		reason = refused ? refused : DROP_NO_RUN;
	return reason;
}

/* act: the connection of a port that is locked; when another CPU was faster with the same flow,
 * its port counts. The port it had before goes last: what is refused until then keeps it, or the
 * connection would go on with a port that is somebody else's. Returns 0 or a drop reason.
 */
__global int nat_open(hook_t *ctx, const struct packet *packet, const struct connection *previous,
		      struct translation *translation)
{
	struct connection connection;
	struct tuple reply;
	if (!packet || !translation)
		return DROP_CT_MAP_INSERTION_FAILED;
	bool translated = previous && is_translated(previous);
	bool same = translated && previous->translated_port == translation->port &&
		    addr_equal(&previous->translated, &translation->address);

	if (translated)
		connection_reply(&reply, &packet->flow, previous);
	connection_new(packet, IDENTITY_WORLD, &connection);
	connection.translated = translation->address;
	connection.translated_port = translation->port;
	connection.flags |= (__u32)translation->timers << TIMERS_SHIFT & CONNECTION_TIMERS;
	if (translation->binding)
		connection.flags |= CONNECTION_BOUND | CONNECTION_STREAM;
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
