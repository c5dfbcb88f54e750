/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether another gateway lives, as this node judges it. Packets of its pods that are for a gateway
 * are copied into probes (probe.h), at most one in an interval, and the gateway's program sends
 * them back. A gateway that has left PROBES_UNANSWERED of them unanswered is down. Every packet
 * judges, so no timer and no process of ours takes part, on neither side.
 *
 * The interval is at least twice the time that answers take. So a gateway that is far away, or
 * answers late under load, is not down for it.
 */
#pragma once
#include "packet.h"

enum probe_number {
	PROBES_UNANSWERED = 3,
	PROBES_GOOD = 5, /* answers in a row, before a gateway that was down gets packets again */
	PROBE_INTERVAL_US = 10000,
	PROBE_FIRST_US = 100000, /* while nobody knows how long an answer takes */
	PROBE_DOWN_US = 50000,	 /* of a gateway that is down */
	PROBE_HOLD_US = 1000000, /* it is so for as long at least */
	PROBE_SLOWEST_US = 1000000,
};
SCHEMA(enum probe_number, probe_number);

enum live_state {
	LIVE_UP, /* or never judged */
	LIVE_DOWN,
};
SCHEMA(enum live_state, live_state);

struct gw_live {
	__u64 sent;  /* CLOCK_MONOTONIC, ns: the last probe; 0: none yet */
	__u64 heard; /* likewise: the last answer */
	__u64 since; /* likewise: the first answer, later the last change of the state */
	__u32 asked; /* number of the last probe, from 1 on */
	__u32 answered;
	__u32 took;  /* microseconds that answers take: more at once, less little by little */
	__u32 state; /* enum live_state */
	__u32 good;  /* answers in a row since it is down */
	__u32 downs;
};

/* tunnel endpoint of a gateway -> what was found out. The agent makes and deletes rows, from table
 * gateway live; only BPF writes into them.
 */
MAP_HASH(mg_gw_live, __be32, struct gw_live, 4096, BPF_F_NO_PREALLOC);

static __always_inline struct gw_live *live_find(__be32 gateway)
{
	return bpf_map_lookup_elem(&mg_gw_live, &gateway);
}

static __always_inline __u32 live_unanswered(const struct gw_live *live)
{
	return live->asked - live->answered;
}

static __always_inline __u64 live_interval_ns(const struct gw_live *live)
{
	__u32 interval = live->took ? 2 * live->took : PROBE_FIRST_US;

	if (interval < PROBE_INTERVAL_US)
		interval = PROBE_INTERVAL_US;
	if (live->state == LIVE_DOWN && interval < PROBE_DOWN_US)
		interval = PROBE_DOWN_US;
	return 1000ULL * interval;
}

/* Coarse as long as nothing is on its way: then a tick more does not matter. */
static __always_inline __u64 live_now(const struct gw_live *live)
{
	return live_unanswered(live) ? bpf_ktime_get_ns() : bpf_ktime_get_coarse_ns();
}

/* decide: it is time for a probe, and this packet is the one that becomes it */
static __always_inline bool live_due(struct gw_live *live, __u64 now)
{
	__u64 sent = live->sent;

	if ((__s64)(now - sent) < (__s64)live_interval_ns(live))
		return false;
	return __sync_val_compare_and_swap(&live->sent, sent, now) == sent;
}

/* act: whether the gateway is up; it is down from the moment in which this is found out */
static __always_inline bool live_judge(struct gw_live *live, __u64 now)
{
	if (live->state == LIVE_DOWN)
		return false;
	if (live_unanswered(live) < PROBES_UNANSWERED ||
	    (__s64)(now - live->sent) < (__s64)live_interval_ns(live))
		return true;
	if (__sync_val_compare_and_swap(&live->state, LIVE_UP, LIVE_DOWN) != LIVE_UP)
		return false;
	live->since = now;
	live->good = 0;
	live->downs++;
	return false;
}

/* decide: how good a gateway is for packets whose own gateway is down; 0: not at all. One that has
 * begun to answer again is better than none. One that has never answered may be of a version that
 * knows no probes, and is better than none, too.
 */
static __always_inline __u32 live_worth(struct gw_live *live, __u64 now)
{
	if (!live || live_judge(live, now))
		return 3;
	if (live->good && live_unanswered(live) < PROBES_UNANSWERED)
		return 2;
	return !live->heard;
}

/* act: an answer has come */
static __always_inline void live_hear(struct gw_live *live, __u32 number, __u64 sent)
{
	__u64 now = bpf_ktime_get_ns(), took = (now - sent) / 1000;
	__u32 before = live->answered;

	if ((__s32)(number - before) <= 0 || (__s32)(live->asked - number) < 0)
		return;
	live->answered = number;
	live->heard = now;
	if (!live->since)
		live->since = now;
	if (took > PROBE_SLOWEST_US)
		took = PROBE_SLOWEST_US;
	live->took = took > live->took ? took : live->took - (live->took - took) / 8;
	if (!live->took)
		live->took = 1;
	if (live->state != LIVE_DOWN)
		return;
	live->good = number == before + 1 ? live->good + 1 : 1;
	if (live->good >= PROBES_GOOD && now - live->since >= 1000ULL * PROBE_HOLD_US) {
		live->since = now;
		live->state = LIVE_UP;
	}
}
