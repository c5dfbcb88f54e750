/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the tests of the door load: every kind of map, layout and program that it knows. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include "types.h"

enum colour {
	COLOUR_RED = 1,
	COLOUR_BLUE = 200,
};

struct door_key {
	struct addr address;
	__be16 port;
	__u16 zone;
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
	union {
		__u32 mark;
		__u8 bytes[4];
	};
	__s32 delta;
	char name[12];
};

struct door_event {
	__u64 number;
	__be32 node;
	__u32 colour;
};
const struct door_event *door_event_btf __attribute__((unused)); /* keeps the type in BTF */
const enum colour *colour_btf __attribute__((unused));

struct door_config {
	__be32 node;
	__u32 verdict;
	struct addr address;
};
const volatile struct door_config cfg = {.verdict = 7};

MAP_HASH(mg_door_hash, struct door_key, struct door_value, 131072, BPF_F_NO_PREALLOC);
MAP_HASH(mg_door_small, __u32, __u32, 4, 0);
MAP_LPM(mg_door_lpm, struct door_prefix, struct door_route, 4096);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __be32);
} mg_door_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} mg_door_percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} mg_door_ring SEC(".maps");

__u64 number;

/* Emits one record per packet; mark 1 discards each tenth, mark 2 puts a foreign one before it. */
SEC("tc")
int mg_door_emit(struct __sk_buff *ctx)
{
	__u64 now = number++;

	if (ctx->mark == 2) {
		__u64 *foreign = bpf_ringbuf_reserve(&mg_door_ring, sizeof(*foreign), 0);

		if (foreign)
			bpf_ringbuf_submit(foreign, 0);
	}
	struct door_event *event = bpf_ringbuf_reserve(&mg_door_ring, sizeof(*event), 0);

	if (!event)
		return TC_ACT_SHOT;
	event->number = now;
	event->node = cfg.node;
	event->colour = COLOUR_BLUE;
	if (ctx->mark == 1 && now % 10 == 3) {
		bpf_ringbuf_discard(event, 0);
		return TC_ACT_OK;
	}
	bpf_ringbuf_submit(event, 0);
	return TC_ACT_OK;
}

SEC("tc")
int mg_door_config(struct __sk_buff *ctx)
{
	ctx->mark += cfg.verdict;
	return cfg.address.w[3] == bpf_htonl(0x0a010203) ? (int)cfg.verdict : -1;
}

/* Counts packets per CPU in slot cfg.verdict, so that tests see which object ran. */
SEC("tc")
int mg_door_count(struct __sk_buff *ctx __attribute__((unused)))
{
	__u32 slot = cfg.verdict & 15;
	__u32 *count = bpf_map_lookup_elem(&mg_door_percpu, &slot);

	if (count)
		*count += 1;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int mg_door_grow(struct __sk_buff *ctx)
{
	if (bpf_skb_change_tail(ctx, ctx->len + 100, 0))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

/* Names every map, so that each has a user in this object. */
SEC("tc")
int mg_door_touch(struct __sk_buff *ctx __attribute__((unused)))
{
	struct door_key key = {};
	struct door_prefix cidr = {};
	__u32 slot = 0;

	return !!bpf_map_lookup_elem(&mg_door_hash, &key) +
	       !!bpf_map_lookup_elem(&mg_door_small, &slot) +
	       !!bpf_map_lookup_elem(&mg_door_lpm, &cidr) +
	       !!bpf_map_lookup_elem(&mg_door_array, &slot);
}

SEC("cgroup/connect4")
int mg_door_refuse(struct bpf_sock_addr *ctx __attribute__((unused)))
{
	return cfg.verdict == 7;
}

char _license[] SEC("license") = "Dual BSD/GPL";
