/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Fragments that come out of order: a program cannot hold a packet, so the kernel gathers the
 * datagram (RFC 4787 REQ-14). Fragments in order never go this way: whoever fills the kernel's
 * memory with pieces of nothing stops those out of order alone (REQ-14a).
 *
 *   a later fragment comes first: it and all others of its datagram go up to the stack, marked;
 *   the kernel puts them together (bpf/gather.py), and cuts them again as they were;
 *   a rule of the host leads what is marked to mg_vxlan; mg_to_vxlan gives it back to the program
 *   that has met it first, as a fragment in order. Without the rule it leaves the host by no
 * uplink.
 */
#pragma once
#include "fragment.h"
#include "addresses.h"
#include "parse.h"
#include "way.h"

/* decide: up to the stack, with all that follows. Returns 0 or a drop reason. */
static __framed int order_way(hook_t *ctx, const struct packet *packet, struct way *way)
{
	struct fragment_key key = fragment_key(packet);
	struct fragment_ports none = {.order = 1};

	if (packet->zone || !cfg.gathers)
		return DROP_FRAGMENT_NOT_FOUND;
	bpf_map_update_elem(&mg_frag, &key, &none, BPF_ANY);
	hook_set_mark(ctx, MARK_GATHER);
	way->kind = (struct way_kind){.act = ACT_STACK};
	return 0;
}

/* decide: back to the program that has met it first: that of a pod of this node, or the uplink's */
static __always_inline int ordered_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	int reason = parse_network(ctx, packet);

	if (reason)
		return reason;
	struct pod *pod = pod_find(source_key(packet));
	hook_set_mark(ctx, MARK_ORDERED);
	way->kind.act = ACT_AGAIN;
	way->ifindex = pod ? pod->ifindex : cfg.uplink;
	return 0;
}
