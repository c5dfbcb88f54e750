/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every map that Python writes or reads: key, value, who writes. Maps private to a feature
 * (conntrack, translations, fragments) stand in the feature's header. All are pinned by name.
 */
#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

#define MAP_HASH(name, ktype, vtype, entries, flags)                                               \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, flags);                                                          \
		__type(key, ktype);                                                                \
		__type(value, vtype);                                                              \
	} name SEC(".maps")

#define MAP_LPM(name, ktype, vtype, entries)                                                       \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                               \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                              \
		__type(key, ktype);                                                                \
		__type(value, vtype);                                                              \
	} name SEC(".maps")

/* Keeps two look-ups apart: the verifier inlines none that clang has merged for two maps. */
#define APART(value) asm volatile("" : "+r"(value))

/* address -> identity, node: pods and nodes of every cluster. Agent, from table address. */
MAP_HASH(mg_address, struct addr, struct address, 131072, BPF_F_NO_PREALLOC);
/* pod CIDR -> node, for pods whose address has not arrived yet. Agent, from table node. */
MAP_LPM(mg_addr_cidr, struct cidr_key, struct cidr, 16384);
/* tunnel endpoint -> next hop, cluster: who may send to our overlay. Agent, from table node. */
MAP_HASH(mg_node, __be32, struct node, 16384, BPF_F_NO_PREALLOC);
/* address -> pod of this node. Agent, from tables pod and egress. */
MAP_HASH(mg_pod_addr, struct addr, struct pod, 4096, BPF_F_NO_PREALLOC);
/* (egress class, destination) -> what to do. Agent, from table egress. */
MAP_LPM(mg_egress, struct egress_key, struct egress, 16384);
/* egress address -> gateway. Agent, from table egress. */
MAP_HASH(mg_egress_addr, struct addr, struct egress_addr, 4096, BPF_F_NO_PREALLOC);
/* (egress address, block number) -> owner. Agent, from table block. */
MAP_HASH(mg_block, struct block_key, struct block, 262144, BPF_F_NO_PREALLOC);
/* egress address -> our own blocks of it. Agent, from table block. */
MAP_HASH(mg_own_block, struct addr, struct own_blocks, 4096, BPF_F_NO_PREALLOC);

/* drop reason -> packets, bytes. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct drop);
} mg_drop SEC(".maps");

/* new connections and drops, one record type. Written by BPF, drained by the agent. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} mg_event SEC(".maps");
