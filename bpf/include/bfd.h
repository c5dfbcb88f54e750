/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Whether the way to a router stands, as BFD has found out. Next hops ask here by the number of
 * their session (bfd_session.h makes the answers).
 */
#pragma once
#include "types.h"

enum bfd_path {		     /* the way to a router and back */
		BFD_UNKNOWN, /* the session was never up, or the router has switched it off */
		BFD_UP,
		BFD_DOWN, /* it was up, and has failed */
};
SCHEMA(enum bfd_path, bfd_path);

enum bfd_number {
	BFD_SESSIONS = 256, /* of one node; number 0 is no session */
};
SCHEMA(enum bfd_number, bfd_number);

struct bfd_packet { /* RFC 5880 4.1 */
	__u8 version_diagnostic;
	__u8 state_flags;
	__u8 multiplier;
	__u8 length;
	__be32 mine;	   /* discriminator of the sender's session */
	__be32 yours;	   /* likewise of the receiver's */
	__be32 desired_tx; /* microseconds */
	__be32 required_rx;
	__be32 required_echo;
};

/* number of a session -> enum bfd_path. Written by BPF, by the agent when a number is given away.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BFD_SESSIONS);
	__type(key, __u32);
	__type(value, __u32);
} mg_bfd_state SEC(".maps");

/* look up: may packets use a next hop of this session? Number 0, a session without BFD, always. */
static __always_inline bool bfd_usable(__u32 number)
{
	__u32 *path = number ? bpf_map_lookup_elem(&mg_bfd_state, &number) : NULL;

	return !path || *path != BFD_DOWN;
}
