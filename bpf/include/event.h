/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the outside learns: an event for each new connection, a count and a rate-limited event for
 * each drop. Every drop of the datapath leaves through `drop`. A sender has a share of the events,
 * so that none can push the others' out of the history; the rest is counted.
 */
#pragma once
#include "addresses.h"
#include "config.h"
#include "packet.h"
#include "service.h"

enum event_verdict {
	EVENT_FORWARDED = 1, /* Hubble's numbers */
	EVENT_DROPPED = 2,
};
SCHEMA(enum event_verdict, event_verdict);
SCHEMA(enum drop_reason, drop_reason);

struct event {	    /* one new connection, or one drop */
	__u64 time; /* CLOCK_MONOTONIC, ns */
	struct addr source;
	__u64 cookie; /* of the sender's socket, 0: none; with what follows a struct asked_key */
	struct addr destination;
	__be16 destination_port; /* ICMP: id */
	__u8 pad_of_key[6];
	struct addr translated; /* source after egress translation; zero: none */
	struct addr service;	/* that the sender's socket had asked for; zero: none */
	__be16 source_port;	/* ICMP: type and code */
	__be16 translated_port;
	__u8 protocol;
	__u8 verdict; /* enum event_verdict */
	__u8 reason;  /* enum drop_reason, 0 when forwarded */
	__u8 point;   /* enum event_point */
	__u8 tcp_flags;
	__u8 pad;
	__be16 service_port;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 ifindex;
	__u32 length;
	__u32 lost; /* drop events suppressed by the rate limit since the last one of this reason */
	__be32 sender; /* tunnel endpoint that it came from; 0: no tunnel */
	__u32 unshown; /* events of the same sender that its share left out since the last one */
};
SCHEMA(struct event, event);
_Static_assert(offsetof(struct event, pad_of_key) - offsetof(struct event, cookie) ==
		   offsetof(struct asked_key, pad),
	       "event_submit looks up by the event's own bytes");

struct drop { /* mg_drop, per CPU, index = enum drop_reason */
	__u64 packets;
	__u64 bytes;
	__u64 from_pod;	    /* packets that a pod of this node, or this host, has sent */
	__u64 from_overlay; /* packets that a node has sent; all others came from outside */
};

/* drop reason -> packets, bytes. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct drop);
} mg_drop SEC(".maps");

/* new connections and drops, one record type. Written by BPF, drained by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} mg_event SEC(".maps");

#define NSEC_PER_SEC 1000000000ULL

struct drop_rate {
	__u32 second; /* of the window */
	__u32 sent;   /* events in it */
	__u32 lost;   /* events suppressed since the last one sent */
	__u32 pad;
	__u64 at; /* of ICMP_RATE: when tokens were added last, in ns */
	__u64 left;
};

enum drop_rate_of {
	ICMP_RATE = 0, /* less than any drop reason: the tokens of our ICMP errors (icmp.h) */
};

/* drop reason -> window of its rate limit; ICMP_RATE -> tokens. Private. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct drop_rate);
} mg_drop_rate SEC(".maps");

enum event_share {
	EVENT_SENDERS =
	    4096, /* devices in the first half of mg_event_rate, addresses in the other */
	EVENT_WINDOW_BITS = 33, /* of nanoseconds: 8.6 s */
};
SCHEMA(enum event_share, event_share);

struct event_rate { /* of a sender */
	__u32 window;
	__u32 events;  /* in it */
	__u32 drops;   /* of these */
	__u32 unshown; /* left out since the last event */
	__u64 total;   /* left out since the map was made */
};

/* sender -> its share of the events. Senders that meet in a row share it. Written by BPF, read by
 * the agent.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * EVENT_SENDERS);
	__type(key, __u32);
	__type(value, struct event_rate);
} mg_event_rate SEC(".maps");

/* Seconds of 2^30 ns: a division costs as much as a look-up. */
static __always_inline __u32 now_s(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

/* look up: who caused an event, by what cannot be forged. Of this node: the device. Of the overlay:
 * the source of a packet that was let in, the node that sent one that was dropped. From outside
 * sources are anybody's: the address that was asked for. At the uplink all pods have one device:
 * the source, once it is known to be a pod's.
 */
static __always_inline __u32 event_sender(hook_t *ctx, const struct packet *packet, bool dropped)
{
	const struct addr *addr = &packet->destination;
	bool masked = packet->point == POINT_TO_UPLINK && packet->identity;

	if (packet->point != POINT_FROM_OVERLAY && packet->point != POINT_FROM_UPLINK && !masked)
		return hook_device(ctx) & (EVENT_SENDERS - 1);
	if (packet->point == POINT_FROM_OVERLAY || masked)
		addr = &packet->source;
	__u32 hash = addr->w[0] ^ addr->w[1] ^ addr->w[2] ^ addr->w[3];
	if (packet->point == POINT_FROM_OVERLAY && dropped)
		hash = packet->sender;
	return EVENT_SENDERS + (hash * 2654435761u >> 20 & (EVENT_SENDERS - 1));
}

/* decide: within the sender's share. CPUs that begin a window at once may let some more pass. */
static __always_inline bool event_fits(struct event_rate *rate, bool dropped)
{
	__u32 window = bpf_ktime_get_coarse_ns() >> EVENT_WINDOW_BITS;

	if (rate->window != window) {
		rate->window = window;
		rate->events = 0;
		rate->drops = 0;
	}
	if (rate->events >= cfg.event_share || (dropped && rate->drops >= cfg.drop_share))
		return false;
	__sync_fetch_and_add(&rate->events, 1);
	if (dropped)
		__sync_fetch_and_add(&rate->drops, 1);
	return true;
}

/* look up: the identity of an end, by its labels where BGP has taught them (learned.h) */
static __always_inline __u32 far_identity(const struct packet *packet, __u32 identity)
{
	return identity == IDENTITY_WORLD && packet->far ? packet->far : identity;
}

/* act: an event of this packet, if its sender has one left; NULL: it is counted */
static __always_inline struct event *event_open(hook_t *ctx, const struct packet *packet,
						bool dropped)
{
	__u32 sender = event_sender(ctx, packet, dropped);
	struct event_rate *rate = bpf_map_lookup_elem(&mg_event_rate, &sender);
	struct event *event = NULL;

	if (!rate)
		return NULL;
	if (event_fits(rate, dropped))
		event = bpf_ringbuf_reserve(&mg_event, sizeof(*event), 0);
	if (!event) {
		__sync_fetch_and_add(&rate->unshown, 1);
		__sync_fetch_and_add(&rate->total, 1);
		return NULL;
	}
	/* field by field: an initializer would keep all of them on the stack first */
	__builtin_memset(event, 0, sizeof(*event));
	event->cookie = hook_socket(ctx);
	event->time = bpf_ktime_get_ns();
	event->source = packet->source;
	event->destination = packet->destination;
	event->destination_port = packet->flow.destination_port;
	event->source_port = packet->flow.source_port;
	event->protocol = packet->protocol;
	event->point = packet->point;
	event->tcp_flags = packet->tcp_flags;
	event->source_identity = packet->identity;
	if (packet->point == POINT_FROM_UPLINK)
		event->source_identity = far_identity(packet, packet->identity);
	event->sender = packet->sender;
	event->ifindex = hook_device(ctx);
	event->length = hook_length(ctx);
	if (rate->unshown)
		event->unshown = __sync_lock_test_and_set(&rate->unshown, 0);
	if (packet->icmp) {
		event->source_port = bpf_htons(packet->icmp_type << 8 | packet->icmp_code);
		event->destination_port = packet->flow.source_port | packet->flow.destination_port;
	}
	return event;
}

/* With the service that the sender's socket had asked for. */
static __always_inline void event_submit(struct event *event)
{
	const struct asked *asked = asked_of((const struct asked_key *)&event->cookie);

	if (asked) {
		event->service = asked->address;
		event->service_port = asked->port;
	}
	bpf_ringbuf_submit(event, 0);
}

/* `as` is NULL when the source stays as it is. */
__global int event_connection(hook_t *ctx, const struct packet *packet, __u32 destination_identity,
			      const struct translation *as)
{
	struct event *event = packet ? event_open(ctx, packet, false) : NULL;

	if (!event)
		return 0;
	event->verdict = EVENT_FORWARDED;
	event->destination_identity = far_identity(packet, destination_identity);
	if (as) {
		event->translated = as->address;
		event->translated_port = as->port;
	}
	event_submit(event);
	return 0;
}

static __framed void event_drop(hook_t *ctx, const struct packet *packet, __u32 reason)
{
	struct drop_rate *rate = bpf_map_lookup_elem(&mg_drop_rate, &reason);
	__u32 now = now_s();

	if (!rate)
		return;
	if (rate->second != now) {
		rate->second = now;
		rate->sent = 0;
	}
	if (rate->sent >= cfg.drop_events) {
		rate->lost++;
		return;
	}
	struct event *event = event_open(ctx, packet, true);
	if (!event)
		return;
	struct address end;
	address_find(destination_key(packet), &end);
	event->destination_identity = far_identity(packet, end.identity);
	if (!event->source_identity) { /* dropped before anybody asked who sent it */
		address_find(source_key(packet), &end);
		event->source_identity = end.kind ? IDENTITY_UNKNOWN : IDENTITY_WORLD;
	}
	event->verdict = EVENT_DROPPED;
	event->reason = reason;
	event->lost = rate->lost;
	rate->sent++;
	rate->lost = 0;
	event_submit(event);
}

/* Whoever reads the counts asks first whether a stranger can cause them alone. */
static __always_inline void drop_count(struct drop *count, const struct packet *packet, __u32 bytes)
{
	count->packets++;
	count->bytes += bytes;
	if (packet->point == POINT_FROM_POD || packet->point == POINT_TO_POD ||
	    packet->point == POINT_TO_UPLINK)
		count->from_pod++;
	if (packet->point == POINT_FROM_OVERLAY)
		count->from_overlay++;
}

__global int drop(hook_t *ctx, const struct packet *packet, __u32 reason)
{
	struct drop *count = bpf_map_lookup_elem(&mg_drop, &reason);

	if (!packet)
		return HOOK_DROP;
	if (count)
		drop_count(count, packet, hook_length(ctx));
	event_drop(ctx, packet, reason);
	return HOOK_DROP;
}
