/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The state of a BFD session, and the timer that judges silence. User space writes the rows of
 * mg_bfd and nothing of a session: an update of an entry takes its timer away.
 *
 * A timer keeps the program that has armed it, with its maps, until another one arms it; so a
 * session is judged while programs are replaced. User space must hold mg_bfd_session (a pin), or
 * the kernel stops its timers. Source: RFC 5880, whose sections the comments name.
 */
#pragma once
#include <bpf/bpf_endian.h>
#include "bfd.h"

enum bfd_state { /* 4.1 */
		 BFD_STATE_ADMIN_DOWN,
		 BFD_STATE_DOWN,
		 BFD_STATE_INIT,
		 BFD_STATE_UP,
};
SCHEMA(enum bfd_state, bfd_state);

enum bfd_diagnostic { /* 4.1: why a session left its last state */
		      BFD_DIAGNOSTIC_NONE = 0,
		      BFD_DIAGNOSTIC_EXPIRED = 1,
		      BFD_DIAGNOSTIC_NEIGHBOR_DOWN = 3,
		      BFD_DIAGNOSTIC_ADMIN_DOWN = 7,
};
SCHEMA(enum bfd_diagnostic, bfd_diagnostic);

enum bfd_flag {			  /* of struct bfd */
		BFD_MULTIHOP = 1, /* RFC 5883; else RFC 5881 */
		BFD_ENDING = 2,	  /* the session is to be removed: the router hears AdminDown */
		BFD_ASKS = 4, /* the router is passive: the agent sends to it while it is down */
};
SCHEMA(enum bfd_flag, bfd_flag);

enum bfd_refusal { /* of a packet; 6.8.6, and RFC 5881 5 */
		   BFD_TAKEN,
		   BFD_REFUSED_PORT, /* single hop where multihop is configured, or the reverse */
		   BFD_REFUSED_TTL,  /* not 255: it has crossed a router */
		   BFD_REFUSED_VERSION,
		   BFD_REFUSED_LENGTH,
		   BFD_REFUSED_MULTIPLIER,
		   BFD_REFUSED_MULTIPOINT,
		   BFD_REFUSED_MINE,  /* My Discriminator is 0 */
		   BFD_REFUSED_YOURS, /* Your Discriminator is another session's */
		   BFD_REFUSED_STATE, /* Your Discriminator is 0 in Init or Up */
		   BFD_REFUSED_AUTHENTICATION,
};
SCHEMA(enum bfd_refusal, bfd_refusal);

enum bfd_timing {
	BFD_SLOW_US = 1000000, /* 6.8.3: no faster while the session is not up */
	BFD_AUTHENTICATION = 20,
};

struct bfd_key {
	struct addr peer;
	struct addr local;
};

struct bfd {
	__u32 number;	      /* of the session, 1 and above */
	__be32 discriminator; /* ours; never 0, another one for each session */
	__u32 interval;	      /* Required Min RX, and the least Desired Min TX; microseconds */
	__be16 port;	      /* UDP port from which we send */
	__u8 multiplier;
	__u8 flags;		    /* enum bfd_flag */
	__u8 authentication_length; /* of the section; 0: none */
	__u8 pad[3];
	__u32
	    authentication[BFD_AUTHENTICATION / 4]; /* the section as it is sent, then zeros; 4.2 */
};

struct bfd_session {
	struct bpf_timer timer;
	__u64 seen;	 /* CLOCK_MONOTONIC, ns: last good packet */
	__u64 sent;	 /* our last one */
	__u64 since;	 /* last change of the state */
	__u64 detection; /* ns of silence until the session is down */
	__be32 mine;	 /* discriminator; that of another row: the session begins anew */
	__be32 theirs;
	__u32 desired;	 /* of the router: Desired Min TX, microseconds */
	__u32 required;	 /* likewise: Required Min RX */
	__u32 confirmed; /* our interval that the router has answered by F; 0: none */
	__u32 downs;	 /* how often it has left Up */
	__u32 refused;	 /* packets */
	__u8 refusal;	 /* enum bfd_refusal of the last of them */
	__u8 state;	 /* enum bfd_state */
	__u8 their_state;
	__u8 their_multiplier;
	__u8 diagnostic; /* enum bfd_diagnostic */
	__u8 their_diagnostic;
	__u8 pad[6];
};

/* (router, our address) -> session. Agent. */
MAP_HASH(mg_bfd, struct bfd_key, struct bfd, BFD_SESSIONS, BPF_F_NO_PREALLOC);

/* number -> state. Written by BPF only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BFD_SESSIONS);
	__type(key, __u32);
	__type(value, struct bfd_session);
} mg_bfd_session SEC(".maps");

/* What next hops see. A router that says AdminDown has not failed (RFC 5882 3.2). */
static __always_inline void bfd_show(__u32 number, enum bfd_path path)
{
	__u32 *shown = bpf_map_lookup_elem(&mg_bfd_state, &number);

	if (shown && *shown != path)
		*shown = path;
}

static __always_inline void bfd_become(struct bfd_session *session, __u8 state, __u8 diagnostic)
{
	session->downs += session->state == BFD_STATE_UP;
	session->state = state;
	session->diagnostic = diagnostic;
	session->since = bpf_ktime_get_ns();
}

static int bfd_judge(void *map, __u32 *number, struct bfd_session *session);

/* The timer judges after so many ns; one that runs begins anew. */
static __always_inline void bfd_watch(struct bfd_session *session, __u64 nanoseconds)
{
	bpf_timer_init(&session->timer, &mg_bfd_session, 1 /* CLOCK_MONOTONIC */);
	bpf_timer_set_callback(&session->timer, bfd_judge);
	bpf_timer_start(&session->timer, nanoseconds, 0);
}

/* Source: 6.8.4 */
static int bfd_judge(void *map __attribute__((unused)), __u32 *number, struct bfd_session *session)
{
	__u64 now = bpf_ktime_get_ns(), end = session->seen + session->detection;

	if (session->state <= BFD_STATE_DOWN)
		return 0;
	if (now < end) { /* a packet came while this was on its way */
		bpf_timer_start(&session->timer, end - now, 0);
		return 0;
	}
	if (session->state == BFD_STATE_UP)
		bfd_show(*number, BFD_DOWN);
	session->theirs = 0;
	bfd_become(session, BFD_STATE_DOWN, BFD_DIAGNOSTIC_EXPIRED);
	return 0;
}

/* decide: the state after a packet of the router's; 6.8.6 */
static __always_inline __u8 bfd_next(__u8 state, __u8 theirs)
{
	if (theirs == BFD_STATE_ADMIN_DOWN)
		return BFD_STATE_DOWN;
	if (state <= BFD_STATE_DOWN && theirs == BFD_STATE_DOWN)
		return BFD_STATE_INIT;
	if (state <= BFD_STATE_DOWN)
		return theirs == BFD_STATE_INIT ? BFD_STATE_UP : BFD_STATE_DOWN;
	if (state == BFD_STATE_INIT)
		return theirs == BFD_STATE_DOWN ? BFD_STATE_INIT : BFD_STATE_UP;
	return theirs == BFD_STATE_DOWN ? BFD_STATE_DOWN : BFD_STATE_UP;
}

/* The state after a packet, and what next hops see of it. Returns whether the state is another. */
static __always_inline bool bfd_step(struct bfd_session *session, __u32 number, bool ending)
{
	__u8 before = session->state, after = bfd_next(before, session->their_state);
	__u8 why = BFD_DIAGNOSTIC_NONE;

	if (ending) {
		after = BFD_STATE_ADMIN_DOWN;
		why = BFD_DIAGNOSTIC_ADMIN_DOWN;
	} else if (after == BFD_STATE_DOWN && before > BFD_STATE_DOWN) {
		why = BFD_DIAGNOSTIC_NEIGHBOR_DOWN;
	}
	if (after == BFD_STATE_UP)
		bfd_show(number, BFD_UP);
	else if (ending || session->their_state == BFD_STATE_ADMIN_DOWN)
		bfd_show(number, BFD_UNKNOWN);
	else if (before == BFD_STATE_UP)
		bfd_show(number, BFD_DOWN);
	if (after == before)
		return false;
	bfd_become(session, after, why);
	if (after == BFD_STATE_UP)
		session->confirmed = 0; /* our Desired Min TX changes: a Poll Sequence says so */
	return true;
}
