/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Timers of egress policies: after how long without a packet their connections end. A connection
 * notes the number of its policy's timers when it opens (conntrack.h); only the sweep reads the
 * row, so a packet looks nothing up.
 */
#pragma once
#include "conntrack.h"

struct timers {		   /* seconds; 0: as all connections */
	__u32 established; /* TCP */
	__u32 transitory;  /* TCP that opens or has ended */
	__u32 datagram;
	__u32 echo;
	__u32 used; /* by the sweep: when it met such a connection last, in the unit of `seen` */
};

/* number of timers -> timers. Agent, from table egress timers. */
MAP_HASH(mg_timers, __u32, struct timers, TIMERS_MOST, BPF_F_NO_PREALLOC);

/* look up: the timers of the policy that has translated the connection; NULL: it says nothing */
static __framed struct timers *timers_of(const struct connection *connection)
{
	__u32 number = (connection->flags & CONNECTION_TIMERS) >> TIMERS_SHIFT;

	return number ? bpf_map_lookup_elem(&mg_timers, &number) : NULL;
}
