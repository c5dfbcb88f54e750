/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The direct path of egress: the pod's node sends the translated packet by its own routes, and only
 * the way back passes a gateway. The fabric may drop a source that is not the node's, so each agent
 * sends echoes with the egress address straight to the gateways (gateway/direct.py). A gateway's
 * program answers over the overlay, which the fabric carries in any case.
 */
#pragma once
#include "gateway.h"
#include "icmp.h"
#include "overlay.h"
#include "probe.h"

enum direct_number {
	DIRECT_PORT = 8474, /* UDP port of a gateway to which echoes go */
};
SCHEMA(enum direct_number, direct_number);

struct direct {
	__u64 until; /* CLOCK_MONOTONIC, ns: the end of the agent's last word that packets may */
};

struct direct_echo {
	__u32 asked;	/* its number, which only its two ends know */
	__u32 answered; /* 1: with this number */
};

/* egress address -> until when packets go straight. Agent, from table direct path: no row, no word
 * that holds, and packets go by the gateway.
 */
MAP_HASH(mg_direct, struct addr, struct direct, 4096, BPF_F_NO_PREALLOC);
/* (egress address, gateway) -> the last echo. Agent; BPF writes that it has been answered. */
MAP_HASH(mg_direct_echo, struct gateway_key, struct direct_echo, 65536, BPF_F_NO_PREALLOC);

struct direct_ask { /* what a node sends to a gateway, without the IP header; then it has room */
	__be16 source_port; /* of a block of the node */
	__be16 destination_port;
	__be16 length;
	__be16 check;
	__be32 number;
};

/* The answer, as an inner packet of an echo. Where IPv6 has the next header, there is 0
 * (is_for_kernel).
 */
struct direct_answer {
	__u8 kind; /* enum echo_kind */
	__u8 pad[7];
	__be32 number;
	struct addr address;
};
_Static_assert(sizeof(struct direct_answer) >= sizeof(struct probe), "probe_rest fills the rest");

/* decide: the fabric carries what this node sends with the address, as far as the agent knows */
static __always_inline bool is_direct(const struct addr *address)
{
	struct direct *row = bpf_map_lookup_elem(&mg_direct, address);

	return row && (__s64)(row->until - bpf_ktime_get_coarse_ns()) > 0;
}

/* decide: a UDP packet that is an echo of a node of the mesh to this gateway: its source is an
 * address of the gateway's, from a block of that node. Returns whether it is one. A stranger's
 * datagram may look like one; then the node gets an answer with a number that it has not sent.
 */
static __framed bool direct_asked(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct direct_ask ask;
	struct address to;

	if (packet->fragment != FRAGMENT_NONE || packet->l4 + sizeof(ask) > packet->end ||
	    packet_load(ctx, packet->l4, &ask, sizeof(ask)) ||
	    ask.destination_port != bpf_htons(DIRECT_PORT) ||
	    !gateway_accepts(&packet->source, cfg.node))
		return false;
	address_find(destination_key(packet), &to);
	struct block *block =
	    is_own_host(&to) ? block_find(&packet->source, ask.source_port) : NULL;
	struct node *node = block ? bpf_map_lookup_elem(&mg_node, &block->node) : NULL;
	if (!node || node->cluster != cfg.cluster || !icmp_token())
		return false;
	way->kind.act = ACT_DIRECT;
	way->node = block->node;
	way->next_hop = node->next_hop;
	way->port = node_port(node);
	way->vni = IDENTITY_REMOTE_NODE;
	way->number = ask.number;
	return true;
}

/* act: the echo becomes its answer. Returns a verdict or a drop reason. */
static __framed int direct_answer(hook_t *ctx, const struct packet *packet, const struct way *way)
{
	struct direct_answer answer = {
	    .kind = ECHO_DIRECT, .number = way->number, .address = packet->source};

	if (hook_cut(ctx, L3_OFFSET + PROBE_SIZE) ||
	    hook_store(ctx, L3_OFFSET + sizeof(answer), (const void *)probe_rest,
		       PROBE_SIZE - sizeof(answer), 0) ||
	    hook_store(ctx, L3_OFFSET, &answer, sizeof(answer), 0))
		return DROP_WRITE_ERROR;
	return overlay_send(ctx, packet, way, bpf_htons(ECHO_PROTOCOL));
}

/* act: an answer of a known sender's */
static __framed void direct_heard(hook_t *ctx, __be32 sender)
{
	struct direct_answer answer;

	if (packet_load(ctx, L3_OFFSET + sizeof(struct overlay), &answer, sizeof(answer)))
		return;
	struct gateway_key key = {.address = answer.address, .node = sender};
	struct direct_echo *echo = bpf_map_lookup_elem(&mg_direct_echo, &key);
	if (echo && echo->asked == bpf_ntohl(answer.number))
		echo->answered = 1;
}
