/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Zones: networks that may use the same addresses. A packet's zone comes from the device that it
 * entered by, an overlay packet's from the identity in its VNI; all others are in zone 0, and so
 * are nodes, gateways and the world. It stands in the keys of whatever is found by an address.
 */
#pragma once
#include "config.h"

enum zone_of {
	ZONE_OF_DEVICE = 1, /* number: ifindex */
	ZONE_OF_IDENTITY,   /* number: identity, as in a VNI */
};
SCHEMA(enum zone_of, zone_of);

struct zone_key {
	__u32 kind; /* enum zone_of */
	__u32 number;
};

struct zone {
	__u16 zone;
	__u16 pad;
};

/* device or identity -> zone; absent: 0. Agent; empty in the product today. */
MAP_HASH(mg_zone, struct zone_key, struct zone, 65536, BPF_F_NO_PREALLOC);

/* look up; without zones in the configuration the verifier leaves it out */
static __always_inline __u16 zone_find(enum zone_of kind, __u32 number)
{
	struct zone_key key = {.kind = kind, .number = number};

	if (!cfg.zones)
		return 0;
	struct zone *zone = bpf_map_lookup_elem(&mg_zone, &key);
	return zone ? zone->zone : 0;
}
