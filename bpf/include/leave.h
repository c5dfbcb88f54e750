/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* How every packet enters and leaves a program: the only place that acts on a decision. */
#pragma once
#include "bfd_answer.h"
#include "direct.h"
#include "forward.h"
#include "handover.h"
#include "icmp.h"
#include "layer2_answer.h"
#include "sound.h"
#include "overlay.h"
#include "probe.h"
#include "reset.h"
#include "rewrite.h"
#include "srv6.h"
#include "tunnel.h"
#include "zone.h"

struct slot { /* the packet in hand */
	struct packet packet;
	struct way way;
};

enum slot_of { /* one for each program: mg_to_pod may run between two steps of another one */
	       SLOT_FROM_POD,
	       SLOT_TO_POD,
	       SLOT_FROM_UPLINK,
	       SLOT_FROM_VXLAN,
	       SLOT_TO_VXLAN,
	       SLOT_TO_UPLINK,
	       SLOT_XDP_UPLINK,
	       SLOTS,
};

/* Of the object alone, so not pinned: nothing in it outlives a packet. A program is not interrupted
 * by itself: it runs in a softirq, or with softirqs switched off. Written by BPF.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SLOTS);
	__uint(pinning, LIBBPF_PIN_NONE);
	__type(key, __u32);
	__type(value, struct slot);
} mg_slot SEC(".maps");

/* act: the packet comes in. Whatever of the slot is read is written before: the packet whole, of
 * the way what says which of its fields count. After a helper that may run other programs
 * (bpf_clone_redirect) it is another packet's.
 */
static __always_inline struct slot *enter(hook_t *ctx, enum slot_of number, enum event_point point)
{
	__u32 key = number;
	struct slot *slot = bpf_map_lookup_elem(&mg_slot, &key);

	if (!slot)
		return NULL;
	__builtin_memset(&slot->packet, 0, sizeof(slot->packet));
	__builtin_memset(&slot->way.kind, 0, sizeof(slot->way.kind));
	slot->packet.point = point;
	slot->packet.ordered = hook_take_mark(ctx, MARK_ORDERED);
	packet_in_zone(&slot->packet, zone_find(ZONE_OF_DEVICE, hook_device(ctx)));
	return slot;
}

/* act: what the way says. Returns a verdict or a drop reason. */
__global int go(hook_t *ctx, struct packet *packet, struct way *way)
{
	int reason = 0;

	if (!packet || !way)
		return HOOK_DROP;
	if (way->kind.end && is_icmp_error(packet))
		reason = icmp_unsound(ctx, packet);
	if (!reason && way->kind.end && is_icmp_error(packet))
		reason =
		    rewrite_embedded(ctx, packet, way->kind.end, &way->as.address, way->as.port);
	if (!reason && way->kind.end)
		reason = rewrite(ctx, packet, way->kind.end, &way->as.address, way->as.port);
	if (!reason && way->kind.ttl)
		reason = rewrite_ttl(ctx, packet, way->kind.ttl);
	if (reason)
		return reason;
	if (way->kind.act == ACT_NODE)
		return overlay_send(ctx, packet, way, hook_protocol(ctx));
	if (way->kind.act == ACT_POD)
		return icmp_enter(ctx, packet, way);
	if (way->kind.act == ACT_HOP)
		return forward_hop(ctx, way);
	if (way->kind.act == ACT_SRV6)
		return srv6_send(ctx, packet, way);
	if (way->kind.act == ACT_HOST)
		return hook_to_host(cfg.vxlan);
	if (way->kind.act == ACT_BACK)
		return overlay_back(ctx, way);
	if (way->kind.act == ACT_PROBE)
		return probe_send(ctx, packet, way);
	if (way->kind.act == ACT_BFD)
		return bfd_answer(ctx, packet, way);
	if (way->kind.act == ACT_AGAIN)
		return hook_to_host(way->ifindex);
	if (way->kind.act == ACT_ARP)
		return layer2_answer_arp(ctx, packet, way);
	if (way->kind.act == ACT_NDP)
		return layer2_answer_ndp(ctx, packet, way);
	if (way->kind.act == ACT_CLAIM)
		return claim_send(ctx, packet, way);
	if (way->kind.act == ACT_DIRECT)
		return direct_answer(ctx, packet, way);
	if (way->kind.act == ACT_STACK && way->kind.virtual)
		hook_virtual(ctx, false);
	if (way->kind.act == ACT_DEVICE)
		return overlay_kernel(ctx, way);
	/* With its own address a pod's packet leaves by the other CNI. */
	return cfg.beside && packet->point == POINT_FROM_POD && !way->kind.end ? HOOK_NEXT
									       : HOOK_PASS;
}

/* act: count the drop; true when the packet has become what tells its sender, or the other end of
 * its connection
 */
static __always_inline bool answer(hook_t *ctx, struct packet *packet, struct way *way, int reason)
{
	if (!way->kind.reset)
		return drop_with_icmp(ctx, packet, way, reason);
	drop(ctx, packet, reason);
	return reset_answer(ctx, packet) && !reset_way(ctx, packet, way);
}

/* act: the end of every packet's way through a program. A drop that somebody is told of leaves,
 * too, as what tells: an ICMP error or RST. Returns the verdict.
 */
static __always_inline int leave(hook_t *ctx, struct slot *slot, int reason)
{
	struct packet *packet = &slot->packet;
	struct way *way = &slot->way;

	if (reason == NOT_OURS)
		return HOOK_NEXT;
	if (reason == HANDOVER)
		return drop(ctx, packet, hand_over(ctx, packet));
	if (reason && way->kind.reset && !HOOK_HAS_COPY)
		return HOOK_PASS; /* the tc program behind this one */
	if (reason && !way->kind.reset && !icmp_tells(way, reason))
		return drop(ctx, packet, reason);
	bool shut = reason && is_to_be_shut(ctx, packet);
	if (reason && !shut && !answer(ctx, packet, way, reason))
		return HOOK_DROP;
	int outcome = shut ? tunnel_shut(ctx, packet) : go(ctx, packet, way);
	return outcome < DROP_FIRST ? outcome : drop(ctx, packet, outcome);
}
