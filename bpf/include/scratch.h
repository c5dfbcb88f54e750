/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Memory of one packet's run, for what the stack has no room for. One map for all features: a
 * program may use 64 maps (kernel/bpf/verifier.c, MAX_USED_MAPS). Of the object alone, as mg_slot:
 * written whole before it is read, and nothing in it outlives a packet.
 */
#pragma once
#include "types.h"

enum scratch_of {
	SCRATCH_SEARCH,	 /* struct search (port.h) */
	SCRATCH_BINDING, /* struct bind_slot (binding.h) */
	SCRATCH_RESET,	 /* struct reset (reset.h) */
	SCRATCHES,
};

struct scratch {
	__u64 w[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__uint(pinning, LIBBPF_PIN_NONE);
	__type(key, __u32);
	__type(value, struct scratch);
} mg_scratch SEC(".maps");

static __always_inline struct scratch *scratch_find(__u32 key)
{
	return bpf_map_lookup_elem(&mg_scratch, &key);
}

/* The memory of one use as its type; NULL never, but the verifier asks. */
#define SCRATCH(type, of)                                                                          \
	({                                                                                         \
		_Static_assert(sizeof(type) <= sizeof(struct scratch), "it does not fit");         \
		(type *)scratch_find(of);                                                          \
	})
