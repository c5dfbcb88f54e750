/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the outside learns: an event for each new connection, a count and a rate-limited event for
 * each drop. Every drop of the datapath leaves through `drop`.
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
	__u32 pad_at_end;
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
};

/* drop reason -> window of its rate limit. Private. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct drop_rate);
} mg_drop_rate SEC(".maps");

/* Seconds of 2^30 ns: a division costs as much as a look-up. */
static __always_inline __u32 now_s(void)
{
	return bpf_ktime_get_coarse_ns() >> 30;
}

static __always_inline struct event *event_open(hook_t *ctx, const struct packet *packet)
{
	struct event *event = bpf_ringbuf_reserve(&mg_event, sizeof(*event), 0);

	if (!event)
		return NULL;
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
	event->sender = packet->sender;
	event->ifindex = hook_device(ctx);
	event->length = hook_length(ctx);
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
static __framed void event_connection(hook_t *ctx, const struct packet *packet,
				      __u32 destination_identity, const struct translation *as)
{
	struct event *event = event_open(ctx, packet);

	if (!event)
		return;
	event->verdict = EVENT_FORWARDED;
	event->destination_identity = destination_identity;
	if (as) {
		event->translated = as->address;
		event->translated_port = as->port;
	}
	event_submit(event);
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
	struct event *event = rate->sent < cfg.drop_events ? event_open(ctx, packet) : NULL;
	if (!event) {
		rate->lost++;
		return;
	}
	struct address end;
	address_find(destination_key(packet), &end);
	event->destination_identity = end.identity;
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
	if (packet->point == POINT_FROM_POD || packet->point == POINT_TO_POD)
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
