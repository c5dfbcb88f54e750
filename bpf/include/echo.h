/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Echoes of the overlay: a frame that the agent sends out of mg_vxlan goes to another node as an
 * overlay packet, and that node's program sends it back. So agents see whether the fabric carries
 * the overlay both ways (mesh/nodes/echo.py). A node that knows no echoes drops it: the inner
 * packet is neither IPv4 nor IPv6.
 */
#pragma once
#include "direct.h"
#include "icmp.h"
#include "layer2_answer.h"
#include "overlay.h"
#include "probe.h"
#include "tunnel.h"

/* node that was asked -> second in which its answer came, 0: not yet. Agent; BPF sets the second of
 * an answer, and makes no row.
 */
MAP_HASH(mg_echo, __be32, __u32, 1024, BPF_F_NO_PREALLOC);

/* decide: a frame of the agent's in mg_vxlan. Returns 0 or a drop reason. */
static __always_inline int echo_ask(hook_t *ctx, struct way *way)
{
	__u8 kind;

	if (hook_protocol(ctx) != bpf_htons(ECHO_PROTOCOL))
		return 0; /* the device drops what has no tunnel */
	if (packet_load(ctx, ECHO_NODE_AT, &way->node, sizeof(way->node)) ||
	    packet_load(ctx, L3_OFFSET, &kind, sizeof(kind)))
		return DROP_INVALID_PACKET;
	if (kind == ECHO_PROBE)
		return probe_ask(way);
	if (!bpf_map_lookup_elem(&mg_node, &way->node))
		return DROP_NO_TUNNEL_ENDPOINT;
	way->kind.act = ACT_DEVICE;
	way->vni = IDENTITY_REMOTE_NODE;
	return 0;
}

/* decide: an overlay packet of a known sender that is neither IPv4 nor IPv6. Returns 0 or a drop
 * reason.
 */
static __framed int echo_way(hook_t *ctx, const struct packet *packet, struct way *way)
{
	const struct tunnel_headers *headers = ip_header(ctx, sizeof(*headers));
	struct node *node = bpf_map_lookup_elem(&mg_node, &packet->sender);
	__u32 *answered;

	if (!headers || !node || headers->overlay.eth.h_proto != bpf_htons(ECHO_PROTOCOL))
		return DROP_UNSUPPORTED_L3_PROTOCOL;
	__u8 kind = headers->inner[0];
	bool probes = kind == ECHO_PROBE || (kind == ECHO_ANSWER && live_find(packet->sender));
	if (!probes && packet->cluster != cfg.cluster)
		return DROP_UNSUPPORTED_L3_PROTOCOL;
	if (kind == ECHO_PROBE || (kind == ECHO_QUESTION && icmp_token())) {
		echo_back(way, packet->sender, node);
		return 0;
	}
	answered = bpf_map_lookup_elem(&mg_echo, &packet->sender);
	if (kind == ECHO_ANSWER && answered)
		*answered = now_s();
	if (kind == ECHO_CLAIM)
		claim_hear(ctx, packet->sender);
	if (kind == ECHO_ANSWER)
		probe_answer(ctx, packet->sender);
	if (kind == ECHO_DIRECT)
		direct_heard(ctx, packet->sender);
	hook_to_nobody(ctx);
	return 0;
}
