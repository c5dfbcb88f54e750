/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The XDP hook, under the names of hook_tc.h. There is no GSO, no tag beside the bytes, and nothing
 * but this program has summed a checksum. What XDP cannot do is left to the tc program behind it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "note.h"
#include "verdict.h"

typedef struct xdp_md hook_t;

/* Newer than Debian's headers; kernels before 6.7 refuse it. */
#define FIB_LOOKUP_SRC (1U << 4)

enum {
	HOOK_PASS = XDP_PASS,
	HOOK_DROP = XDP_DROP,
	HOOK_NEXT = XDP_PASS,
	HOOK_HAS_DEVICE = 0,
	HOOK_HAS_COPY = 0,
	HOOK_HAS_NEIGHBOUR = 0,
};

/* Bytes and lengths */

static __always_inline __u32 hook_length(hook_t *ctx)
{
	return bpf_xdp_get_buff_len(ctx);
}

static __always_inline __u32 hook_segment(hook_t *ctx __attribute__((unused)))
{
	return 0;
}

static __always_inline struct ethhdr *hook_ethernet(hook_t *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	return (void *)(eth + 1) > (void *)(long)ctx->data_end ? NULL : eth;
}

static __always_inline __be16 hook_protocol(hook_t *ctx)
{
	struct ethhdr *eth = hook_ethernet(ctx);

	return eth ? eth->h_proto : 0;
}

static __always_inline bool hook_tagged(hook_t *ctx __attribute__((unused)))
{
	return false;
}

static __always_inline __u64 hook_socket(hook_t *ctx __attribute__((unused)))
{
	return 0;
}

static __always_inline __u32 hook_device(hook_t *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline long hook_load(hook_t *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_xdp_load_bytes(ctx, offset, to, size);
}

static __always_inline long hook_store(hook_t *ctx, __u32 offset, const void *from, __u32 size,
				       __u64 flags __attribute__((unused)))
{
	return bpf_xdp_store_bytes(ctx, offset, (void *)from, size);
}

static __always_inline long hook_pull(hook_t *ctx __attribute__((unused)),
				      __u32 size __attribute__((unused)))
{
	return -1;
}

/* Room */

static __always_inline long hook_room(hook_t *ctx, __s32 size, __u64 flags __attribute__((unused)))
{
	struct ethhdr eth;

	if (bpf_xdp_load_bytes(ctx, 0, &eth, sizeof(eth)) || bpf_xdp_adjust_head(ctx, -size))
		return -1;
	return bpf_xdp_store_bytes(ctx, 0, &eth, sizeof(eth));
}

static __always_inline long hook_cut(hook_t *ctx, __u32 length)
{
	return bpf_xdp_adjust_tail(ctx, (int)length - (int)bpf_xdp_get_buff_len(ctx));
}

static __always_inline bool hook_is_noted(hook_t *ctx __attribute__((unused)))
{
	return false;
}

/* What stands beside a packet on its way to the tc program, and goes with it. Others may have
 * written there before: a veth hands over what its other end has. A device that has no place for it
 * says so by a start behind the packet's, and refuses to open a note.
 */
static __always_inline long hook_note_none(hook_t *ctx)
{
	int size = (int)(ctx->data - ctx->data_meta);

	return size > 0 ? bpf_xdp_adjust_meta(ctx, size) : 0;
}

static __always_inline long hook_note_open(hook_t *ctx)
{
	return bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct note));
}

static __always_inline void hook_note_close(hook_t *ctx)
{
	bpf_xdp_adjust_meta(ctx, sizeof(struct note));
}

static __always_inline long hook_note(hook_t *ctx, const struct note *from)
{
	struct note *note = (void *)(long)ctx->data_meta;

	if ((void *)(note + 1) > (void *)(long)ctx->data)
		return -1;
	*note = *from;
	return 0;
}

/* Checksums; Source: RFC 1624 3 */

/* The checksum at `offset` after a change of what it covers by `diff`. Of UDP, 0 stays: it says
 * that there is none, and a sum of 0 is written as 0xffff (BPF_F_MARK_MANGLED_0).
 */
static __always_inline long hook_check(hook_t *ctx, __u32 offset, __u64 diff, bool may_be_none)
{
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, offset, &check, sizeof(check)))
		return -1;
	if (may_be_none && !check)
		return 0;
	__u64 sum = (__u16)~check + (diff & 0xffffffff) + (diff >> 32);
	for (int i = 0; i < 3; i++)
		sum = (sum & 0xffff) + (sum >> 16);
	check = ~sum;
	if (may_be_none && !check)
		check = 0xffff;
	return bpf_xdp_store_bytes(ctx, offset, &check, sizeof(check));
}

static __always_inline long hook_check_l3(hook_t *ctx, __u32 offset, __be32 from, __be32 to)
{
	return hook_check(ctx, offset, (__u64)(__u32)~from + to, false);
}

/* `flags` as bpf_l4_csum_replace takes them: size of the field, 0: `to` is a difference already. */
static __always_inline long hook_check_l4(hook_t *ctx, __u32 offset, __u64 from, __u64 to,
					  __u64 flags)
{
	__u64 diff = flags & BPF_F_HDR_FIELD_MASK ? (__u64)(__u32)~from + (__u32)to : (__u32)to;

	return hook_check(ctx, offset, diff, flags & BPF_F_MARK_MANGLED_0);
}

/* Routes and redirects */

/* With the neighbour, whose MAC address must be known by now. */
static __always_inline long hook_route(hook_t *ctx, struct bpf_fib_lookup *fib, __u32 flags,
				       __u8 *mac, __u8 *host_mac)
{
	long result = bpf_fib_lookup(ctx, fib, sizeof(*fib), flags);

	__builtin_memcpy(mac, fib->dmac, ETH_ALEN);
	__builtin_memcpy(host_mac, fib->smac, ETH_ALEN);
	return result;
}

static __always_inline long hook_source(hook_t *ctx, struct bpf_fib_lookup *fib)
{
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), BPF_FIB_LOOKUP_SKIP_NEIGH | FIB_LOOKUP_SRC);
}

/* Out of the device `fib` names, without the neighbour. */
static __always_inline long hook_path(hook_t *ctx, struct bpf_fib_lookup *fib)
{
	return bpf_fib_lookup(ctx, fib, sizeof(*fib),
			      BPF_FIB_LOOKUP_OUTPUT | BPF_FIB_LOOKUP_SKIP_NEIGH);
}

static __always_inline int hook_to_hop(hook_t *ctx, __u32 ifindex,
				       struct bpf_redir_neigh *next __attribute__((unused)),
				       const __u8 *mac, const __u8 *host_mac)
{
	struct ethhdr *eth = hook_ethernet(ctx);

	if (!eth)
		return HOOK_DROP;
	__builtin_memcpy(eth->h_dest, mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, host_mac, ETH_ALEN);
	return bpf_redirect(ifindex, 0);
}

static __always_inline int hook_to_neighbour(hook_t *ctx, __u32 ifindex, __be32 next_hop)
{
	struct bpf_fib_lookup fib = {
	    .family = 2 /* AF_INET */, .ifindex = ifindex, .ipv4_dst = next_hop};

	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), BPF_FIB_LOOKUP_OUTPUT))
		return DROP_FIB_LOOKUP_FAILED;
	return hook_to_hop(ctx, fib.ifindex, NULL, fib.dmac, fib.smac);
}

static __always_inline int hook_back(hook_t *ctx __attribute__((unused)))
{
	return XDP_TX;
}

static __always_inline int hook_to_pod(__u32 ifindex)
{
	return bpf_redirect(ifindex, 0);
}

/* A frame has no mark: the tc program behind this one marks the packet. */
static __always_inline void hook_set_mark(hook_t *ctx __attribute__((unused)),
					  __u32 mark __attribute__((unused)))
{
}

static __always_inline bool hook_take_mark(hook_t *ctx __attribute__((unused)),
					   __u32 mark __attribute__((unused)))
{
	return false;
}

/* By the device that it came by: here it has no other way up. */
static __always_inline int hook_to_host(__u32 ifindex __attribute__((unused)))
{
	return HOOK_PASS;
}

/* What XDP sends passes no tc program, what it passes on is asked again. */
static __always_inline void hook_vouch(hook_t *ctx __attribute__((unused)))
{
}

static __always_inline void hook_virtual(hook_t *ctx __attribute__((unused)),
					 bool vouched __attribute__((unused)))
{
}

static __always_inline bool hook_is_others(hook_t *ctx __attribute__((unused)))
{
	return false;
}

static __always_inline void hook_to_us(hook_t *ctx __attribute__((unused)))
{
}

static __always_inline void hook_to_nobody(hook_t *ctx __attribute__((unused)))
{
}

static __always_inline void hook_disown(hook_t *ctx __attribute__((unused)))
{
}

static __always_inline long hook_copy(hook_t *ctx __attribute__((unused)),
				      __u32 ifindex __attribute__((unused)),
				      __u32 mark __attribute__((unused)))
{
	return -1;
}

static __always_inline long hook_copy_with(hook_t *ctx __attribute__((unused)),
					   __u32 ifindex __attribute__((unused)),
					   __u32 mark __attribute__((unused)),
					   __u32 word __attribute__((unused)))
{
	return -1;
}

static __always_inline void hook_from_device(hook_t *ctx __attribute__((unused)),
					     struct bpf_tunnel_key *key __attribute__((unused)))
{
}

/* Connections are with the tc program behind this one. */
static __always_inline void hook_hand_over(hook_t *ctx __attribute__((unused)),
					   void *programs __attribute__((unused)),
					   __u32 number __attribute__((unused)))
{
}

/* The tc program behind this one sees the packet as it came. */
static __always_inline int hook_to_device(hook_t *ctx __attribute__((unused)),
					  __u32 ifindex __attribute__((unused)),
					  struct bpf_tunnel_key *key __attribute__((unused)))
{
	return HOOK_PASS;
}
