/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Fences: networks that the pods inside reach no more. */
#pragma once
#include "addresses.h"

struct fence_key { /* LPM; bits = 32 + bits of addr */
	__u32 bits;
	__u32 fence; /* claimed number */
	struct addr addr;
};

struct fence {
	__u32 closed;
};

/* (fence, destination) -> closed. Agent, from table fence. */
MAP_LPM(mg_fence, struct fence_key, struct fence, 1024);

/* decide: whether the pod's fence keeps the packet inside */
static __framed bool is_fenced(const struct pod *pod, const struct packet *packet)
{
	struct fence_key key = {.bits = 32 + 128, .fence = pod->fence, .addr = packet->destination};

	return pod->fence && bpf_map_lookup_elem(&mg_fence, &key);
}
