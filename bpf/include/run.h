/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Runs: 16 ports of an egress address that this node has lent to one pod, out of its own blocks. A
 * bit of the block's row is the lock on a run, so two CPUs never lend it twice. Lending and return
 * are written to a pinned log before the first packet leaves; a full log lends nothing. The sweep
 * returns what the pod uses no more, and gives it to others after its rest.
 */
#pragma once
#include "addresses.h"
#include "gateway.h"

enum run_limit {
	OWN_BLOCKS = 32, /* of one egress address on a node, at most */
	RUN_PORTS = 16,
	POD_RUNS = 64,	  /* of one egress address that a pod holds, at most */
	RUN_REST_S = 120, /* RFC 6888 REQ-8: between a return and the next lending */
	LENT_ENTRIES = 32768,
};
SCHEMA(enum run_limit, run_limit);

struct own_blocks { /* of this node; runs come out of the first one that has any */
	__u32 count;
	__u32 number[OWN_BLOCKS];
};

/* egress address -> our own blocks of it. Agent, from table own block. */
MAP_HASH(mg_own_block, struct addr, struct own_blocks, 4096, BPF_F_NO_PREALLOC);

struct block_runs {
	__u64 taken; /* a bit for each run of the block: lent, or at rest */
};

/* block of this node -> its runs. Written by BPF, never deleted. */
MAP_HASH(mg_block_runs, struct block_key, struct block_runs, 65536, BPF_F_NO_PREALLOC);

struct run_key {
	struct addr address;
	__u32 number; /* (port - 1024) / RUN_PORTS */
};

struct run {
	struct addr pod;
	__u16 zone;	/* of the pod */
	__u16 bound;	/* for bindings alone (binding.h) */
	__u32 used;	/* when the sweep met a mapping last, CLOCK_MONOTONIC in 2^30 ns */
	__u64 since;	/* CLOCK_MONOTONIC in ns: when it was lent, as the log says it */
	__u64 returned; /* CLOCK_MONOTONIC in ns; 0: it is lent */
};

/* run that is lent or rests -> its pod. Written by BPF. */
MAP_HASH(mg_run, struct run_key, struct run, 131072, BPF_F_NO_PREALLOC);

struct pod_runs_key {
	struct addr pod;
	struct addr address;
	__u16 zone;
	__u16 bound; /* those for bindings alone (binding.h) */
};

struct pod_runs {
	__u64 used;    /* a bit for each element of `number` */
	__u64 free_at; /* CLOCK_MONOTONIC in ns: its rate of new mappings (RFC 6888 REQ-4) */
	__u32 number[POD_RUNS]; /* of the run, plus one; 0: none */
	__u32 last;		/* element that was filled last */
	__u32 pad;
};

/* pod, egress address -> the runs from which its new connections get ports. Written by BPF. */
MAP_HASH(mg_pod_runs, struct pod_runs_key, struct pod_runs, 16384, BPF_F_NO_PREALLOC);

enum lent_kind {
	LENT = 1,
	LENT_RETURNED,
};
SCHEMA(enum lent_kind, lent_kind);

struct lent {	    /* one line of the log */
	__u64 line; /* its number, plus one: written last */
	__u64 at;   /* CLOCK_MONOTONIC in ns */
	struct addr address;
	struct addr pod;
	__u32 run;
	__u16 zone;
	__u8 kind; /* enum lent_kind */
	__u8 pad[9];
};

enum lent_end { /* behind the lines: rows whose `line` is the number of a line */
		LENT_HEAD = LENT_ENTRIES, /* of the next one: written by BPF */
		LENT_TAIL,		  /* by the agent: what comes before is in the store */
		LENT_ROWS,
};
SCHEMA(enum lent_end, lent_end);

/* number of a line, modulo LENT_ENTRIES -> line; enum lent_end -> where the log ends. Lines are
 * written by BPF and read by the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LENT_ROWS);
	__type(key, __u32);
	__type(value, struct lent);
} mg_lent SEC(".maps");

const volatile struct block_runs no_runs = {};
const volatile struct pod_runs no_pod_runs = {};

/* In the unit of `used`; the sweep has no coarse clock. */
static __always_inline __u32 run_now(void)
{
	return bpf_ktime_get_ns() >> 30;
}

static __always_inline struct run *run_find(const struct run_key *key)
{
	return bpf_map_lookup_elem(&mg_run, key);
}

/* look up: the run of a port */
static __always_inline __u32 run_of(__be16 port)
{
	return ((__u32)bpf_ntohs(port) - 1024) / RUN_PORTS;
}

/* Runs of a block with this number. */
static __always_inline __u32 runs_of_block(__u32 number)
{
	return block_size_of(number) / RUN_PORTS;
}

/* look up: whether a port is in one of the blocks, which are all of one size */
static __always_inline bool block_holds(const struct own_blocks *blocks, __be16 port)
{
	__u32 number = block_number(port, blocks->number[0] >> BLOCK_SIZE_SHIFT);

	for (__u32 i = 0; i < OWN_BLOCKS && i < blocks->count; i++)
		if (blocks->number[i] == number)
			return true;
	return false;
}

/* look up: the runs of a pod, made with its first one */
static __always_inline struct pod_runs *pod_runs_make(const struct pod_runs_key *key)
{
	struct pod_runs *runs = bpf_map_lookup_elem(&mg_pod_runs, key);

	if (runs)
		return runs;
	bpf_map_update_elem(&mg_pod_runs, key, (const void *)&no_pod_runs, BPF_NOEXIST);
	return bpf_map_lookup_elem(&mg_pod_runs, key);
}

static __always_inline struct block_runs *block_runs_find(const struct addr *address, __u32 block)
{
	struct block_key key = {.address = *address, .number = block};

	return bpf_map_lookup_elem(&mg_block_runs, &key);
}

/* look up: the row that locks the runs of a block */
static __always_inline struct block_runs *block_runs_make(const struct addr *address, __u32 block)
{
	struct block_key key = {.address = *address, .number = block};
	struct block_runs *runs = bpf_map_lookup_elem(&mg_block_runs, &key);

	if (runs)
		return runs;
	bpf_map_update_elem(&mg_block_runs, &key, (const void *)&no_runs, BPF_NOEXIST);
	return bpf_map_lookup_elem(&mg_block_runs, &key);
}

static __always_inline __u32 lent_of(__u64 line)
{
	return line % LENT_ENTRIES;
}

/* act: one line more; false when the log is full. The CPUs that come at once take one each, and
 * there is room for that many behind what counts as full.
 */
static __always_inline bool lent_write(const struct run_key *key, const struct run *run, __u8 kind,
				       __u64 at_ns)
{
	__u32 at_head = LENT_HEAD, at_tail = LENT_TAIL;
	struct lent *head = bpf_map_lookup_elem(&mg_lent, &at_head);
	struct lent *tail = bpf_map_lookup_elem(&mg_lent, &at_tail);

	if (!head || !tail || head->line - tail->line >= LENT_ENTRIES - 1024)
		return false;
	__u64 line = __sync_fetch_and_add(&head->line, 1);
	__u32 at = lent_of(line);
	struct lent *lent = bpf_map_lookup_elem(&mg_lent, &at);
	if (!lent)
		return false;
	lent->at = at_ns;
	lent->address = key->address;
	lent->pod = run->pod;
	lent->run = key->number;
	lent->zone = run->zone;
	lent->kind = kind;
	__sync_lock_test_and_set(&lent->line, line + 1);
	return true;
}

static __always_inline __u32 bit_count(__u64 word)
{
	word -= word >> 1 & 0x5555555555555555ULL;
	word = (word & 0x3333333333333333ULL) + (word >> 2 & 0x3333333333333333ULL);
	word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return word * 0x0101010101010101ULL >> 56;
}

/* The number of the lowest bit that is set. */
static __always_inline __u32 first_bit(__u64 word)
{
	return bit_count((word & -word) - 1);
}

/* How many elements reach up to the last one that is set. */
static __always_inline __u32 bits_upto(__u64 word)
{
	word |= word >> 1;
	word |= word >> 2;
	word |= word >> 4;
	word |= word >> 8;
	word |= word >> 16;
	word |= word >> 32;
	return bit_count(word);
}

/* act: the run is one of the pod's; false when it has no room for it */
static __always_inline bool pod_runs_add(struct pod_runs *runs, __u32 number)
{
	for (__u32 tries = 0; tries < 4; tries++) {
		__u64 room = ~runs->used;
		if (!room)
			return false;
		__u32 at = first_bit(room) & (POD_RUNS - 1);
		if (__sync_val_compare_and_swap(&runs->number[at], 0, number + 1))
			continue; /* another CPU adds one, too */
		runs->last = at;
		__sync_fetch_and_or(&runs->used, 1ULL << at);
		return true;
	}
	return false;
}

/* act: no new connection of the pod takes a port of the run */
static __always_inline void pod_runs_less(struct pod_runs *runs, __u32 number)
{
	for (__u32 at = 0; at < POD_RUNS; at++)
		if (runs->number[at] == number + 1) {
			__sync_fetch_and_and(&runs->used, ~(1ULL << at));
			runs->number[at] = 0;
		}
}

/* act: a run whose bit is set is the pod's from now on; false when nothing can be noted */
static __always_inline bool run_note(const struct run_key *key, const struct pod_runs_key *pod)
{
	struct run run = {
	    .pod = pod->pod, .zone = pod->zone, .bound = pod->bound, .since = bpf_ktime_get_ns()};

	run.used = run.since >> 30;
	if (bpf_map_update_elem(&mg_run, key, &run, BPF_ANY))
		return false;
	if (lent_write(key, &run, LENT, run.since))
		return true;
	bpf_map_delete_elem(&mg_run, key);
	return false;
}

/* act: lend a run of a block of `in_block` runs whose bit was clear; false when another CPU was
 * faster, or it cannot be noted */
static __always_inline bool run_lend(const struct run_key *key, const struct pod_runs_key *pod,
				     struct block_runs *block, __u32 in_block,
				     struct pod_runs *runs)
{
	__u64 bit = 1ULL << (in_block ? key->number % in_block & 63 : 0);

	if (__sync_fetch_and_or(&block->taken, bit) & bit)
		return false;
	if (!run_note(key, pod)) {
		__sync_fetch_and_and(&block->taken, ~bit);
		return false;
	}
	pod_runs_add(runs, key->number); /* or the sweep takes it back */
	return true;
}

/* act: no new connection takes a port of the run; it rests. False when the log is full. */
static __framed bool run_return(const struct run_key *key, struct run *run)
{
	struct pod_runs_key pod = {
	    .pod = run->pod, .address = key->address, .zone = run->zone, .bound = run->bound};
	struct pod_runs *runs = bpf_map_lookup_elem(&mg_pod_runs, &pod);

	__u64 now = bpf_ktime_get_ns();
	if (!lent_write(key, run, LENT_RETURNED, now))
		return false;
	if (runs)
		pod_runs_less(runs, key->number);
	run->returned = now;
	return true;
}

/* act: the run is no one's in a block that may have it */
static __framed void run_clear(const struct run_key *key, __u32 size)
{
	__u32 in_block = (size ? size : cfg.block_size) / RUN_PORTS;

	if (!in_block)
		return;
	struct block_runs *block =
	    block_runs_find(&key->address, size << BLOCK_SIZE_SHIFT | key->number / in_block);
	if (block)
		__sync_fetch_and_and(&block->taken, ~(1ULL << (key->number % in_block & 63)));
}

/* act: after its rest a run is free. The row goes first: the next one to lend it writes its own.
 * The blocks of its address may have been of another size since, of which nobody else has the bit.
 */
static __framed void run_free(const struct run_key *key)
{
	struct run_key copy = *key;

	bpf_map_delete_elem(&mg_run, &copy);
	run_clear(&copy, 0);
	for (__u32 size = 64; size <= 1024; size <<= 1)
		run_clear(&copy, size);
}

/* act: a live mapping has been met. A run at rest is lent once more, to the same pod: a packet of
 * it came while it was returned. One that nobody had lent is from before there were runs.
 */
static __framed void run_see(const struct run_key *key, const struct pod_runs_key *pod)
{
	struct run *run = run_find(key);
	__u64 now = bpf_ktime_get_ns();

	if (run) {
		if (run->used != now >> 30)
			run->used = now >> 30;
		if (run->returned && lent_write(key, run, LENT, now)) {
			run->since = now;
			run->returned = 0;
		}
		return;
	}
	struct own_blocks *blocks = bpf_map_lookup_elem(&mg_own_block, &key->address);
	if (!blocks)
		return;
	__u32 number = block_number(bpf_htons(1024 + key->number * RUN_PORTS),
				    blocks->number[0] >> BLOCK_SIZE_SHIFT);
	struct pod_runs *runs = pod_runs_make(pod);
	struct block_runs *block = block_runs_make(&key->address, number);
	if (runs && block)
		run_lend(key, pod, block, runs_of_block(number), runs);
}
