/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The uplink, before the kernel makes a packet of a frame: mg_xdp_uplink sends probes of gateways
 * back, passes SRv6 packets on to their next segments, and takes the outer headers off those that
 * end here. What goes into a VRF it notes beside the packet, for mg_from_uplink. All else is left
 * to that program as it came.
 */
#include "hook_xdp.h"
#include "parse.h"
#include "endpoint.h"
#include "leave.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* act: beside the packet, and only there, stands into which VRF it goes */
static __always_inline int brought(hook_t *ctx, const struct packet *packet)
{
	struct note note = {.magic = NOTE_MAGIC, .vrf = packet->zone, .identity = packet->identity};

	return hook_note(ctx, &note) ? HOOK_DROP : HOOK_PASS;
}

/* look up: whether the kernel knows the neighbour by which a probe goes back; tc makes it ask */
static __framed bool knows(hook_t *ctx, __be32 next_hop)
{
	struct bpf_fib_lookup fib = {
	    .family = AF_INET, .ifindex = cfg.uplink, .ipv4_dst = next_hop};

	return !bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT);
}

/* decide: a probe of a known sender's goes back from here (echo.h). Returns 0 or NOT_OURS. */
static __framed int probed(hook_t *ctx, struct packet *packet, struct way *way)
{
	enum tunnel tunnel;
	__be16 inner = 0;
	__u8 kind;

	if (tunnel_find(ctx, packet, &inner, &tunnel) || tunnel != TUNNEL_OURS ||
	    inner != bpf_htons(ECHO_PROTOCOL) ||
	    packet_load(ctx, L3_OFFSET + sizeof(struct overlay), &kind, sizeof(kind)) ||
	    kind != ECHO_PROBE)
		return NOT_OURS;
	struct node *node = bpf_map_lookup_elem(&mg_node, &packet->sender);
	if (!node || packet->sender == cfg.node || !knows(ctx, node->next_hop))
		return NOT_OURS;
	echo_back(way, packet->sender, node);
	return 0;
}

SEC("xdp")
int mg_xdp_uplink(hook_t *ctx)
{
	struct slot *slot = enter(ctx, SLOT_XDP_UPLINK, POINT_FROM_UPLINK);

	if (hook_note_none(ctx))
		return HOOK_DROP;
	/* 1. parse; whatever is wrong with a packet the program behind this one says */
	if (!slot || parse_network(ctx, &slot->packet))
		return HOOK_PASS;

	/* 2. probes */
	if (slot->packet.family == 4)
		return probed(ctx, &slot->packet, &slot->way) ? HOOK_PASS : leave(ctx, slot, 0);

	/* 3. SRv6; the note has its place before the packet is another one */
	if (!is_local_sid(&slot->packet.destination) || hook_note_open(ctx))
		return HOOK_PASS;
	int reason = sid_way(ctx, &slot->packet, &slot->way);
	if (reason == IN_VRF)
		return brought(ctx, &slot->packet);
	hook_note_close(ctx);
	return reason == NOT_SID ? HOOK_PASS : leave(ctx, slot, reason);
}
