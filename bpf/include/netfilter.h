/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What netfilter's connection tracking knows of a packet that leaves: the addresses and ports that
 * it had before the host, or another CNI, translated it. The entry hangs on the packet itself, so
 * nothing is searched. A kernel without connection tracking translates nothing.
 */
#pragma once
#include <bpf/bpf_core_read.h>
#include "parse.h"

#define OF_THE_KERNEL __attribute__((preserve_access_index))

/* The kernel's own view, as far as it is read here. */
struct sk_buff {
	unsigned long _nfct; /* of struct nf_conn, and below it what the packet is in there */
} OF_THE_KERNEL;

struct nf_conntrack_tuple {
	__u8 content;
} OF_THE_KERNEL;

struct nf_conntrack_tuple_hash {
	struct nf_conntrack_tuple tuple;
} OF_THE_KERNEL;

struct nf_conn {
	struct nf_conntrack_tuple_hash tuplehash[2];
} OF_THE_KERNEL;

enum {
	NF_INFO = 7,	 /* of _nfct: enum ip_conntrack_info */
	NF_IS_REPLY = 3, /* IP_CT_IS_REPLY: from here on the packet goes in the second direction */
};

/* struct nf_conntrack_tuple as it stands in memory, since Linux 2.6 */
struct nf_tuple {
	__be32 source[4]; /* IPv4 in the first word */
	__be16 source_port;
	__u16 family;
	__be32 destination[4];
	union {
		__be16 destination_port;
		struct {
			__u8 type;
			__u8 code;
		} icmp;
	};
	__u8 protocol;
	__u8 direction;
};

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

static __always_inline void nf_address(struct addr *to, const __be32 *from, bool v4)
{
	if (v4)
		addr_from_v4(to, from[0]);
	else
		__builtin_memcpy(to, from, sizeof(*to));
}

/* look up: the entry's tuple of the packet's direction. Returns 0 when there is one. */
static __always_inline long nf_tuple_read(hook_t *ctx, struct nf_tuple *tuple)
{
	if (!bpf_core_field_exists(struct sk_buff, _nfct) ||
	    !bpf_core_field_exists(struct nf_conn, tuplehash))
		return -1;
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);
	unsigned long entry = skb->_nfct;
	unsigned long at = entry & ~(unsigned long)NF_INFO;
	if (!at)
		return -1;
	if ((entry & NF_INFO) >= NF_IS_REPLY)
		at += bpf_core_type_size(struct nf_conntrack_tuple_hash);
	at += bpf_core_field_offset(struct nf_conn, tuplehash) +
	      bpf_core_field_offset(struct nf_conntrack_tuple_hash, tuple);
	return bpf_probe_read_kernel(tuple, sizeof(*tuple), (const void *)at);
}

/* look up: the packet as its sender sent it, and what it is in ICMP; false: netfilter has no entry
 */
static __framed bool netfilter_sent(hook_t *ctx, struct tuple *sent, __u8 *icmp)
{
	struct nf_tuple tuple;

	if (nf_tuple_read(ctx, &tuple))
		return false;
	*sent = (struct tuple){.source_port = tuple.source_port,
			       .destination_port = tuple.destination_port,
			       .protocol = tuple.protocol};
	nf_address(&sent->source, tuple.source, tuple.family == AF_INET);
	nf_address(&sent->destination, tuple.destination, tuple.family == AF_INET);
	if (!is_icmp(tuple.protocol))
		return true;
	*icmp = icmp_kind(tuple.protocol, tuple.icmp.type);
	bool answers = *icmp == ICMP_ECHO_ANSWER;
	sent->source_port = answers ? 0 : tuple.source_port;
	sent->destination_port = answers ? tuple.source_port : 0;
	return true;
}
