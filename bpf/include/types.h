/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What every feature shares: addresses, flows, and how a map is written down. A feature's own types
 * and maps stand in its header. No bitfields, no implicit padding; __be types are network order.
 * Python reads all layouts from the object's BTF, maps are pinned by name.
 */
#pragma once
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define EEXIST 17

/* IPv6, or IPv4 mapped (::ffff:a.b.c.d): one key type for addresses of both families. */
struct addr {
	__be32 w[4];
};

struct zoned_addr { /* an address in its zone (zone.h): a key of what may overlap */
	__be32 w[4];
	__u16 zone;
	__u16 pad;
};

struct tuple { /* a flow, in one direction; ICMP echo: the asker's port is the id, the other's 0 */
	struct addr source;
	struct addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad;
	__u16 zone;
};

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

/* Keeps a type in BTF that Python reads although no map has it; of a struct behind a pointer only
 * the name would remain.
 */
#define SCHEMA(type, name)                                                                         \
	const volatile struct {                                                                    \
		type it;                                                                           \
	} schema_##name = {}
