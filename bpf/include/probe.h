/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Probes of gateways (live.h): echoes of the overlay (echo.h) with a number. The pod's node makes
 * them out of copies of packets: bpf_clone_redirect gives the copy to mg_vxlan, where mg_to_vxlan
 * cuts it, writes the probe and sends it as the overlay's packets go. Where no packets go, the
 * agent sends a frame out of mg_vxlan, which becomes a probe too.
 */
#pragma once
#include "live.h"
#include "overlay.h"

enum probe_frame {
	PROBE_MARK = 0x6d677062, /* of a copy that is to become a probe */
	PROBE_SIZE = 100,	 /* bytes behind the inner Ethernet header */
};

/* What an inner packet of an echo begins with. The checksum of what it was a copy of may be written
 * behind it yet, by the device; and where IPv6 has the next header, there is 0 (is_for_kernel).
 */
struct probe {
	__u8 kind; /* enum echo_kind */
	__u8 pad[7];
	__u32 number; /* 0: an echo of the agent's */
	__u32 pad_again;
	__u64 sent; /* by the asker's clock */
};
_Static_assert(sizeof(struct probe) <= 20 + 6, "the checksum of UDP behind an IPv4 header");

const volatile __u8 probe_rest[PROBE_SIZE - sizeof(struct probe)] = {};

/* act: a copy of the packet in hand goes to mg_vxlan and becomes a probe for the gateway */
__global int probe_copy(hook_t *ctx, __be32 gateway)
{
	return hook_copy_with(ctx, cfg.vxlan, PROBE_MARK, gateway);
}

/* decide: where the probe goes. Returns 0 or a drop reason. */
static __framed int probe_way(struct way *way, __be32 gateway)
{
	struct node *node = bpf_map_lookup_elem(&mg_node, &gateway);
	struct gw_live *live = live_find(gateway);

	if (!node || !live)
		return DROP_NO_TUNNEL_ENDPOINT;
	way->kind.act = ACT_PROBE;
	way->node = gateway;
	way->next_hop = node->next_hop;
	way->port = node_port(node);
	way->vni = IDENTITY_REMOTE_NODE;
	way->number = ++live->asked;
	return 0;
}

/* decide: the agent's frame for way->node, unless packets go there. Returns 0 or a drop reason. */
static __framed int probe_ask(struct way *way)
{
	struct gw_live *live = live_find(way->node);
	__u64 now = bpf_ktime_get_ns();

	if (!live)
		return DROP_NO_TUNNEL_ENDPOINT;
	live_judge(live, now);
	return live_due(live, now) ? probe_way(way, way->node) : 0;
}

/* act: the packet's bytes become the probe's. Returns a verdict or a drop reason. */
static __framed int probe_send(hook_t *ctx, const struct packet *packet, const struct way *way)
{
	struct probe probe = {
	    .kind = ECHO_PROBE, .number = way->number, .sent = bpf_ktime_get_ns()};
	bool copy = hook_protocol(ctx) != bpf_htons(ECHO_PROTOCOL);

	if (copy && (hook_cut(ctx, L3_OFFSET + PROBE_SIZE) ||
		     hook_store(ctx, L3_OFFSET + sizeof(probe), (const void *)probe_rest,
				sizeof(probe_rest), 0)))
		return DROP_WRITE_ERROR;
	if (hook_store(ctx, L3_OFFSET, &probe, sizeof(probe), 0))
		return DROP_WRITE_ERROR;
	if (!copy)
		return overlay_kernel(ctx, way);
	return overlay_send(ctx, packet, way, bpf_htons(ECHO_PROTOCOL));
}

/* act: an answer of a known sender's */
static __framed void probe_answer(hook_t *ctx, __be32 sender)
{
	struct gw_live *live = live_find(sender);
	struct probe probe;

	if (live && !packet_load(ctx, L3_OFFSET + sizeof(struct overlay), &probe, sizeof(probe)) &&
	    probe.number)
		live_hear(live, probe.number, probe.sent);
}
