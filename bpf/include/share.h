/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Shares of the connection tables. From three quarters of a table on, a new entry is only for a
 * pod of this node that has less than its share, size / (pods of this node); below that nobody is
 * limited. What a pod opens and what others ask of it count apart, and strangers leave the last
 * eighth to what pods open. A count is what the last sweep met and what has been opened since: BPF
 * counts up, the sweep sets right whatever else has changed (the agent's copies while it migrates,
 * say). Pods are counted by the sweep, and at inserts from a quarter of a table on. From half of it
 * on an insert calls the sweep.
 */
#pragma once
#include "addresses.h"
#include "event.h"

struct used {	       /* entries of a connection table */
	__u32 held;    /* what the last sweep met */
	__u32 mark;    /* `opened` when that sweep began */
	__u32 opened;  /* entries ever made; goes round */
	__u32 pods;    /* of a table: this node's pods of its family */
	__u32 counted; /* of the sweep that runs */
	__u32 begun;   /* likewise: `opened` when it began */
	__u32 half;    /* of those asked: half-open ones ever noted (open.h); goes round */
	__u32 told;    /* of a table: second in which the agent heard of its pressure */
};

struct pod_used {
	struct used opens; /* entries that the pod opened */
	struct used asked; /* entries that others opened to it, who are no pods of this node */
};

enum used_table {
	USED_V4,
	USED_V6,
	USED_TABLES,
	USED_ASKED = USED_TABLES, /* of these: what others asked of pods; from a quarter on */
	USED_COUNTS = 2 * USED_TABLES,
};
SCHEMA(enum used_table, used_table);

/* enum used_table, with USED_ASKED or without -> entries. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, USED_COUNTS);
	__type(key, __u32);
	__type(value, struct used);
} mg_used SEC(".maps");

/* pod of this node -> its entries. Written by BPF. */
MAP_HASH(mg_pod_used, struct zoned_addr, struct pod_used, 16384, BPF_F_NO_PREALLOC);

struct pressure {    /* a table is more than half full: the next sweep is due */
	__u32 table; /* enum used_table */
};
SCHEMA(struct pressure, pressure);

/* At most one record a second. Written by BPF at an insert, drained by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} mg_pressure SEC(".maps");

const volatile struct pod_used unused = {};

/* look up */
static __always_inline __u32 used_now(const struct used *used)
{
	__s32 now = used->held + (used->opened - used->mark);

	return now > 0 ? now : 0;
}

/* decide: whether pods are counted at each insert: what came before is less than any share that is
 * left at three quarters, so these hold without a sweep, too
 */
static __always_inline bool is_counted(const struct used *table, __u32 size)
{
	return used_now(table) > size / 4;
}

/* decide: whether the sweep is due */
static __always_inline bool is_pressed(const struct used *table, __u32 size)
{
	return used_now(table) > size / 2;
}

static __always_inline struct used *table_used(__u32 table)
{
	return bpf_map_lookup_elem(&mg_used, &table);
}

/* look up: the counts of a pod of this node, made with its first entry; NULL: no pod of this node
 */
static __always_inline struct pod_used *pod_used(struct zoned_addr *pod, const struct addr *address)
{
	__builtin_memcpy(pod->w, address, sizeof(pod->w));
	struct pod_used *used = bpf_map_lookup_elem(&mg_pod_used, pod);
	if (used || !pod_find(pod))
		return used;
	bpf_map_update_elem(&mg_pod_used, pod, (const void *)&unused, BPF_NOEXIST);
	return bpf_map_lookup_elem(&mg_pod_used, pod);
}

/* look up: where an entry counts: with the pod that opened it, or with the pod of which somebody
 * else `asked` it; NULL: no pod of this node has to do with it
 */
static __always_inline struct used *used_by(const struct tuple *tuple, bool *asked)
{
	struct zoned_addr pod = {.zone = tuple->zone};
	struct pod_used *used = pod_used(&pod, &tuple->source);

	*asked = !used;
	if (used)
		return &used->opens;
	used = pod_used(&pod, &tuple->destination);
	return used ? &used->asked : NULL;
}

/* act: the sweep is due */
static __always_inline void pressure_tell(__u32 table)
{
	struct used *used = bpf_map_lookup_elem(&mg_used, &table);
	struct pressure pressure = {.table = table};
	__u32 now = now_s();

	if (!used || used->told == now)
		return;
	used->told = now;
	bpf_ringbuf_output(&mg_pressure, &pressure, sizeof(pressure), 0);
}

/* act: so many entries more, or less */
static __always_inline void used_add(struct used *used, __s32 entries)
{
	if (used)
		__sync_fetch_and_add(&used->opened, entries);
}

/* act: an entry more in a table of `size` entries; whether it was asked of a pod, and the table is
 * pressed
 */
__global bool used_more(const struct tuple *tuple, __u32 table, __u32 size)
{
	struct used *all = table_used(table);
	bool asked;

	if (!all || !tuple)
		return false;
	used_add(all, 1);
	if (!is_counted(all, size))
		return false;
	struct used *pod = used_by(tuple, &asked);
	used_add(pod, 1);
	if (pod && asked)
		used_add(table_used(USED_ASKED + table), 1);
	if (!is_pressed(all, size))
		return false;
	pressure_tell(table);
	return pod && asked;
}

/* act: an entry less that a pod of this node had opened */
static __always_inline void used_less(const struct zoned_addr *pod, __u32 table, __u32 size)
{
	struct used *all = table_used(table);

	if (!all)
		return;
	used_add(all, -1);
	struct pod_used *used =
	    is_pressed(all, size) ? bpf_map_lookup_elem(&mg_pod_used, pod) : NULL;
	if (used)
		used_add(&used->opens, -1);
}

/* act: an entry less that had been asked of a pod while the table was pressed */
static __always_inline void used_less_asked(const struct tuple *tuple, __u32 table)
{
	struct zoned_addr pod = {.zone = tuple->zone};

	__builtin_memcpy(pod.w, &tuple->destination, sizeof(pod.w));
	used_add(table_used(table), -1);
	used_add(table_used(USED_ASKED + table), -1);
	struct pod_used *used = bpf_map_lookup_elem(&mg_pod_used, &pod);
	if (used)
		used_add(&used->asked, -1);
}

/* decide: whether a new entry in a table of `size` entries is for whoever opens it. What others ask
 * of pods takes nothing away from what pods open: that is shared out of the rest.
 */
__global bool has_share(const struct tuple *tuple, __u32 table, __u32 size)
{
	struct used *all = table_used(table);
	__u32 now = all ? used_now(all) : 0;
	bool asked;

	if (!all || !tuple || !all->pods || now < size - size / 4)
		return true;
	struct used *pod = used_by(tuple, &asked), *others = table_used(USED_ASKED + table);
	if (!pod || !others)
		return true;
	__u64 whole = (__u64)used_now(pod) * all->pods;
	if (asked)
		return whole < size && now < size - size / 8;
	return whole + used_now(others) < size;
}
