/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What BGP has taught this node. Its unicast routes stand in a kernel table of their own, which is
 * asked before the host's. Networks whose communities have become labels have an identity. The
 * speaker writes both, and both outlive it.
 */
#pragma once
#include "addresses.h"
#include "config.h"
#include "packet.h"

/* learned prefix -> identity of its labels. Speaker. */
MAP_LPM(mg_learned, struct cidr_key, __u32, 131072);

/* look up: a learned route. BPF_FIB_LKUP_RET_NOT_FWDED: there is none, and `fib` is as it was. */
static __always_inline long learned_route(hook_t *ctx, struct bpf_fib_lookup *fib, __u8 *mac,
					  __u8 *host_mac)
{
	if (!cfg.learned_table)
		return BPF_FIB_LKUP_RET_NOT_FWDED;
	fib->tbid = cfg.learned_table;
	long result =
	    hook_route(ctx, fib, BPF_FIB_LOOKUP_DIRECT | BPF_FIB_LOOKUP_TBID, mac, host_mac);
	fib->tbid = 0;
	return result;
}

/* look up: the identity of an address of the world; 0: it has none of its own */
static __framed __u32 learned_identity(const struct zoned_addr *addr)
{
	struct cidr_key key = {.bits = 32 + 128, .zone = addr->zone};

	if (!cfg.learned_table)
		return 0;
	__builtin_memcpy(&key.addr, addr->w, sizeof(key.addr));
	__u32 *identity = bpf_map_lookup_elem(&mg_learned, &key);
	return identity ? *identity : 0;
}
