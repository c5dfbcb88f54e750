/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The tc hook: what features need of it, under names that hook_xdp.h gives them, too. A program
 * file includes one of the two before any other header.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "note.h"

typedef struct __sk_buff hook_t;

/* Newer than Debian's headers; kernels before 6.7 refuse it. */
#define FIB_LOOKUP_SRC (1U << 4)

enum {
	HOOK_PASS = TC_ACT_OK,
	HOOK_DROP = TC_ACT_SHOT,
	HOOK_NEXT = TC_ACT_UNSPEC, /* programs of others behind this one see the packet, too */
	HOOK_HAS_DEVICE = 1, /* the kernel's VXLAN device can be given packets (hook_to_device) */
	HOOK_HAS_COPY = 1,   /* one packet can become two (hook_copy) */
	HOOK_HAS_NEIGHBOUR = 1, /* the kernel finds the neighbour of a hop (hook_to_hop) */
	HOOK_ENOTSUPP = 524,	/* linux/errno.h, which programs do not get */
	HOOK_EPROTO = 71,
	HOOK_HOST = 0, /* linux/if_packet.h */
	HOOK_OTHERHOST = 3,
	HOOK_VOUCHED = 0x6d67, /* of skb->tc_index */
	HOOK_MOVED = 0x6d68,   /* likewise, and its port is to become that of its node */
	HOOK_VIRTUAL = 0x6d69, /* it leaves with a virtual MAC address, vouched for or not */
	HOOK_VOUCHED_VIRTUAL = 0x6d6a,
};

/* Bytes and lengths */

static __always_inline __u32 hook_length(hook_t *ctx) /* with the Ethernet header */
{
	return ctx->len;
}

static __always_inline __u32 hook_segment(hook_t *ctx) /* payload bytes of a GSO segment; 0: none */
{
	return ctx->gso_size;
}

static __always_inline __u32 hook_packets(hook_t *ctx) /* that a GSO packet will be */
{
	return ctx->gso_segs ? ctx->gso_segs : 1;
}

static __always_inline __be16 hook_protocol(hook_t *ctx)
{
	return ctx->protocol;
}

static __always_inline bool hook_tagged(hook_t *ctx) /* a VLAN tag beside the packet's bytes */
{
	return ctx->vlan_present;
}

static __always_inline __u32 hook_device(hook_t *ctx)
{
	return ctx->ifindex;
}

static __always_inline __u64 hook_socket(hook_t *ctx) /* cookie of the sender's socket; 0: none */
{
	return bpf_get_socket_cookie(ctx);
}

static __always_inline long hook_load(hook_t *ctx, __u32 offset, void *to, __u32 size)
{
	return bpf_skb_load_bytes(ctx, offset, to, size);
}

static __always_inline long hook_store(hook_t *ctx, __u32 offset, const void *from, __u32 size,
				       __u64 flags)
{
	return bpf_skb_store_bytes(ctx, offset, from, size, flags);
}

static __always_inline long hook_pull(hook_t *ctx, __u32 size) /* make so many bytes linear */
{
	return bpf_skb_pull_data(ctx, size);
}

/* Room: after the Ethernet header, and at the end */

static __always_inline long hook_room(hook_t *ctx, __s32 size, __u64 flags)
{
	return bpf_skb_adjust_room(ctx, size, BPF_ADJ_ROOM_MAC, flags);
}

static __always_inline long hook_cut(hook_t *ctx, __u32 length)
{
	return bpf_skb_change_tail(ctx, length, 0);
}

/* A veth hands a packet over with what its sender's BPF encapsulation has noted of it. BPF can
 * neither take that away, nor cut or encapsulate such a packet. The kernel's device can.
 */
static __always_inline bool hook_is_noted(hook_t *ctx)
{
	return bpf_skb_change_tail(ctx, ctx->len, 0) == -HOOK_ENOTSUPP;
}

/* What the XDP program of this device has noted beside the packet; NULL: nothing. */
static __always_inline const struct note *hook_noted(hook_t *ctx)
{
	struct note *note = (void *)(long)ctx->data_meta;

	if ((void *)(note + 1) > (void *)(long)ctx->data || note->magic != NOTE_MAGIC)
		return NULL;
	return note;
}

/* Checksums; right for CHECKSUM_PARTIAL, COMPLETE and GSO */

static __always_inline long hook_check_l3(hook_t *ctx, __u32 offset, __be32 from, __be32 to)
{
	return bpf_l3_csum_replace(ctx, offset, from, to, sizeof(to));
}

static __always_inline long hook_check_l4(hook_t *ctx, __u32 offset, __u64 from, __u64 to,
					  __u64 flags)
{
	return bpf_l4_csum_replace(ctx, offset, from, to, flags);
}

/* Routes and redirects */

/* The kernel finds the neighbour later: the MAC addresses stay as they are. `flags` say which table
 * is asked: none, those that the policy rules name.
 */
static __always_inline long hook_route(hook_t *ctx, struct bpf_fib_lookup *fib, __u32 flags,
				       __u8 *mac __attribute__((unused)),
				       __u8 *host_mac __attribute__((unused)))
{
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), BPF_FIB_LOOKUP_SKIP_NEIGH | flags);
}

/* The address that this host has towards a destination. Returns 0 when there is one. */
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

static __always_inline int hook_to_hop(hook_t *ctx __attribute__((unused)), __u32 ifindex,
				       struct bpf_redir_neigh *next,
				       const __u8 *mac __attribute__((unused)),
				       const __u8 *host_mac __attribute__((unused)))
{
	return bpf_redirect_neigh(ifindex, next, sizeof(*next), 0);
}

/* By a next hop on this device. Returns a verdict or, in other hooks, a drop reason. */
static __always_inline int hook_to_neighbour(hook_t *ctx __attribute__((unused)), __u32 ifindex,
					     __be32 next_hop)
{
	struct bpf_redir_neigh next = {.nh_family = 2 /* AF_INET */, .ipv4_nh = next_hop};

	return bpf_redirect_neigh(ifindex, &next, sizeof(next), 0);
}

/* Out of the device that it came by. */
static __always_inline int hook_back(hook_t *ctx)
{
	return bpf_redirect(ctx->ifindex, 0);
}

/* Into the pod behind the host side of a veth. */
static __always_inline int hook_to_pod(__u32 ifindex)
{
	return bpf_redirect_peer(ifindex, 0);
}

/* To the host, as if it had come by this device. */
static __always_inline int hook_to_host(__u32 ifindex)
{
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

/* Say to our next program that the outer packet is the overlay's. No socket, route or rule of a
 * firewall can write tc_index, and it goes with the packet through the kernel's tunnel device, into
 * its fragments and out of them. HOOK_PASS makes it what tc_classid is (tcx_action_code of
 * include/net/tcx.h).
 */
static __always_inline void hook_vouch(hook_t *ctx)
{
	ctx->tc_index = HOOK_VOUCHED;
	ctx->tc_classid = HOOK_VOUCHED;
}

/* Say it of what the kernel's tunnel device sends to a port that is not its own (overlay_move). */
static __always_inline void hook_vouch_moved(hook_t *ctx)
{
	ctx->tc_index = HOOK_MOVED;
	ctx->tc_classid = HOOK_MOVED;
}

/* Whether that was said; the word ends here. */
static __always_inline bool hook_is_moved(hook_t *ctx)
{
	if (ctx->tc_index != HOOK_MOVED)
		return false;
	ctx->tc_index = 0;
	return true;
}

/* Say to mg_to_uplink that the packet is to leave with a virtual MAC address, whether the stack or
 * we send it.
 */
static __always_inline void hook_virtual(hook_t *ctx, bool vouched)
{
	ctx->tc_index = vouched ? HOOK_VOUCHED_VIRTUAL : HOOK_VIRTUAL;
	ctx->tc_classid = vouched ? HOOK_VOUCHED_VIRTUAL : HOOK_VIRTUAL;
}

/* Whether that was said; the word is what it would be without it. */
static __always_inline bool hook_is_virtual(hook_t *ctx)
{
	if (ctx->tc_index != HOOK_VIRTUAL && ctx->tc_index != HOOK_VOUCHED_VIRTUAL)
		return false;
	ctx->tc_index = ctx->tc_index == HOOK_VIRTUAL ? 0 : HOOK_VOUCHED;
	return true;
}

/* Nobody has vouched for a packet from elsewhere, whatever was written there. */
static __always_inline void hook_disown(hook_t *ctx)
{
	ctx->tc_index = 0;
	ctx->tc_classid = 0;
}

/* Whether somebody has vouched for the packet; the word ends here, or a veth would carry it on. */
static __always_inline bool hook_is_vouched(hook_t *ctx)
{
	if (ctx->tc_index != HOOK_VOUCHED)
		return false;
	ctx->tc_index = 0;
	return true;
}

/* Up to the stack, which leaves it alone. */
static __always_inline void hook_to_nobody(hook_t *ctx)
{
	bpf_skb_change_type(ctx, HOOK_OTHERHOST);
}

/* Whether the frame is for another MAC address than the device's. */
static __always_inline bool hook_is_others(hook_t *ctx)
{
	return ctx->pkt_type == HOOK_OTHERHOST;
}

/* It is for this host all the same. */
static __always_inline void hook_to_us(hook_t *ctx)
{
	bpf_skb_change_type(ctx, HOOK_HOST);
}

static __always_inline __u32 hook_mark(hook_t *ctx)
{
	return ctx->mark;
}

static __always_inline void hook_set_mark(hook_t *ctx, __u32 mark)
{
	ctx->mark = mark;
}

/* Whether we have marked the packet so, which is for this host by now; the mark ends here. */
static __always_inline bool hook_take_mark(hook_t *ctx, __u32 mark)
{
	if (ctx->mark != mark)
		return false;
	ctx->mark = 0;
	bpf_skb_change_type(ctx, HOOK_HOST);
	return true;
}

/* Send a copy out of a device, marked. Returns 0 when it has gone. */
static __always_inline long hook_copy(hook_t *ctx, __u32 ifindex, __u32 mark)
{
	__u32 before = ctx->mark;

	ctx->mark = mark;
	long failed = bpf_clone_redirect(ctx, ifindex, 0);
	ctx->mark = before;
	return failed;
}

/* Likewise, with a word for the program that sees the copy leave (hook_word). */
static __always_inline long hook_copy_with(hook_t *ctx, __u32 ifindex, __u32 mark, __u32 word)
{
	ctx->cb[0] = word;
	return hook_copy(ctx, ifindex, mark);
}

static __always_inline __u32 hook_word(hook_t *ctx)
{
	return ctx->cb[0];
}

/* As if it came from a collect_md tunnel device, which says who sent it. */
static __always_inline void hook_from_device(hook_t *ctx, struct bpf_tunnel_key *key)
{
	bpf_skb_set_tunnel_key(ctx, key, sizeof(*key), 0);
}

/* To another program of the same kind; returns when there is none. */
static __always_inline void hook_hand_over(hook_t *ctx, void *programs, __u32 number)
{
	bpf_tail_call(ctx, programs, number);
}

/* Through a collect_md tunnel device; 0 or a verdict of its own kind: HOOK_DROP when it fails. */
static __always_inline int hook_to_device(hook_t *ctx, __u32 ifindex, struct bpf_tunnel_key *key)
{
	if (bpf_skb_set_tunnel_key(ctx, key, sizeof(*key), BPF_F_ZERO_CSUM_TX))
		return HOOK_DROP;
	return bpf_redirect(ifindex, 0);
}
