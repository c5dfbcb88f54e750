/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The leak detector: packets of covered pods to covered destinations that leave by the uplink
 * without the egress address. It counts them and drops nothing: mg_from_pod lets none of them
 * through, so each one shows that something of ours is wrong, or that somebody has gone round it.
 * What the host or another CNI has translated is known by what netfilter has of it (netfilter.h).
 */
#pragma once
#include "egress.h"
#include "netfilter.h"

enum {
	/* What was judged before its pod was covered may be on its way still; now_s. */
	LEAK_GRACE_S = 1,
};

struct leak {
	__u64 packets;
	__u64 seen;	    /* the last one, CLOCK_MONOTONIC in ns */
	struct addr pod;    /* that sent it */
	struct addr source; /* with which it has left */
	struct addr destination;
};

/* 0 -> packets that have leaked, and the last one, on each CPU. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct leak);
} mg_leak SEC(".maps");

/* look up: the packet as its sender sent it, where that is to be seen without parsing */
static __framed bool leak_sent(hook_t *ctx, struct tuple *sent, __u8 *icmp)
{
	if (netfilter_sent(ctx, sent, icmp))
		return true;
	*sent = (struct tuple){};
	if (hook_protocol(ctx) == bpf_htons(ETH_P_IP)) {
		struct ipv4_header *v4 = packet_at(ctx, L3_OFFSET, sizeof(*v4));
		if (v4)
			addr_from_v4(&sent->source, v4->source);
		return v4;
	}
	struct ipv6_header *v6 = packet_at(ctx, L3_OFFSET, sizeof(*v6));
	if (!v6 || hook_protocol(ctx) != bpf_htons(ETH_P_IPV6))
		return false;
	__builtin_memcpy(&sent->source, v6->source, sizeof(sent->source));
	return true;
}

/* look up: the covered pod of this node that has sent it; NULL: nobody's packet */
static __framed const struct pod *leak_pod(const struct tuple *sent)
{
	struct zoned_addr key = {};

	__builtin_memcpy(key.w, &sent->source, sizeof(key.w));
	const struct pod *pod = pod_find(&key);
	return pod && pod->egress_class != EGRESS_UNCOVERED ? pod : NULL;
}

/* look up: worth parsing; nearly nothing that leaves is of a covered pod */
static __framed bool may_leak(hook_t *ctx)
{
	struct tuple sent;
	__u8 icmp;

	return leak_sent(ctx, &sent, &icmp) && leak_pod(&sent);
}

/* decide: an answer that the pod may give, as egress_exempt has noted it */
static __framed bool is_allowed_answer(const struct tuple *sent, __u8 icmp)
{
	struct tuple reversed;

	tuple_reverse(&reversed, sent);
	const struct connection *connection = connection_look(&reversed);
	if (!connection || !(connection->flags & CONNECTION_OPENED) || icmp == ICMP_ERROR)
		return false;
	if (sent->protocol == IPPROTO_TCP)
		return !(connection->flags & CONNECTION_UNACCEPTED);
	if (sent->protocol == IPPROTO_UDP)
		return connection->flags & CONNECTION_SERVED;
	return icmp == ICMP_ECHO_ANSWER;
}

/* decide: our own reset of what the pod had open before it was covered (reset.h) */
static __framed bool is_own_reset(const struct packet *packet, const struct tuple *sent)
{
	if (packet->protocol != IPPROTO_TCP || !(packet->tcp_flags & TCP_RST))
		return false;
	const struct connection *connection = connection_look(sent);
	return connection && connection->flags & CONNECTION_RESET;
}

/* decide: the class of the pod covers where it goes, and the pod is covered for longer than a
 * packet is on its way
 */
static __framed bool is_to_covered(const struct packet *packet, const struct pod *pod)
{
	const struct zoned_addr *far = destination_key(packet);
	struct address to;

	if (pod->since && now_s() - pod->since <= LEAK_GRACE_S)
		return false;
	address_find(far, &to);
	return !to.kind && !is_link_scope(&packet->destination) && !is_proxied(far) &&
	       egress_find(pod->egress_class, &packet->destination, packet->family,
			   learned_identity(far));
}

/* decide: an error of this host about a packet to the pod hangs on the pod's entry, and is not the
 * pod's
 */
static __always_inline bool is_hosts_error(const struct packet *packet, const struct tuple *sent)
{
	return is_icmp_error(packet) && !addr_equal(&packet->source, &sent->source);
}

/* act: count a packet that leaves, if it leaks; the packet's transport header is parsed here, as
 * most packets need none
 */
static __framed void leak_watch(hook_t *ctx, struct packet *packet, const struct way *way)
{
	__u32 key = 0;
	struct tuple sent;
	__u8 icmp = 0;

	if (!leak_sent(ctx, &sent, &icmp))
		return;
	const struct pod *pod = leak_pod(&sent);
	if (!pod || !is_to_covered(packet, pod) || parse_transport(ctx, packet))
		return;
	if (!sent.protocol) {
		sent = packet->flow;
		icmp = packet->icmp;
	}
	struct leak *leak = bpf_map_lookup_elem(&mg_leak, &key);
	if (!leak || is_hosts_error(packet, &sent) || is_allowed_answer(&sent, icmp) ||
	    is_own_reset(packet, &sent))
		return;
	leak->packets += hook_packets(ctx);
	leak->seen = bpf_ktime_get_ns();
	leak->pod = sent.source;
	leak->source = way->kind.end == END_SOURCE ? way->as.address : packet->source;
	leak->destination = packet->destination;
}
