/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The next version of door.bpf.c, with layouts of equal size that libbpf would accept. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include "types.h"

struct door_key {
	struct addr address;
	__u16 zone;
	__be16 port;
};

struct door_prefix { /* LPM; bits of the 128-bit form */
	__u32 prefix;
	struct addr addr;
};

struct door_route {
	__be32 node;
	__u32 cluster;
};

struct door_value {
	__u64 packets;
	__be32 node;
	__u32 mark;
	__s32 delta;
	char name[12];
};

MAP_HASH(mg_door_hash, struct door_key, struct door_value, 131072, BPF_F_NO_PREALLOC);
MAP_HASH(mg_door_small, __u32, __u32, 8, BPF_F_NO_PREALLOC);
MAP_LPM(mg_door_lpm, struct door_prefix, struct door_route, 4096);

SEC("tc")
int mg_door_touch(struct __sk_buff *ctx __attribute__((unused)))
{
	struct door_key key = {};
	struct door_prefix cidr = {};
	__u32 slot = 0;

	return !!bpf_map_lookup_elem(&mg_door_hash, &key) +
	       !!bpf_map_lookup_elem(&mg_door_small, &slot) +
	       !!bpf_map_lookup_elem(&mg_door_lpm, &cidr);
}

char _license[] SEC("license") = "Dual BSD/GPL";
