/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports of later fragments: a first fragment leaves them here for those that follow it. */
#pragma once
#include "packet.h"

struct fragment_key {
	struct addr source;
	struct addr destination;
	__u32 id;
	__u8 protocol;
	__u8 pad;
	__u16 zone;
};

struct fragment_ports {
	__be16 source;
	__be16 destination;
	__u8 icmp;  /* enum icmp_kind */
	__u8 order; /* no ports: a later one came first, and the kernel gathers the datagram */
	__u8 pad[2];
};

/* datagram -> ports. Bounded: an old datagram that never ends gives way to new ones. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment_ports);
} mg_frag SEC(".maps");

static __always_inline struct fragment_key fragment_key(const struct packet *packet)
{
	return (struct fragment_key){.source = packet->source,
				     .destination = packet->destination,
				     .id = packet->fragment_id,
				     .protocol = packet->protocol,
				     .zone = packet->zone};
}

/* act: leave the ports to the fragments that follow, unless one of them has come before */
static __framed void fragment_put(struct packet *packet)
{
	struct fragment_key key = fragment_key(packet);
	struct fragment_ports *before = bpf_map_lookup_elem(&mg_frag, &key),
			      ports = {.source = packet->flow.source_port,
				       .destination = packet->flow.destination_port,
				       .icmp = packet->icmp};

	packet->order = before && before->order && !packet->ordered;
	if (!is_icmp_error(packet) && !packet->order)
		bpf_map_update_elem(&mg_frag, &key, &ports, BPF_ANY);
}

/* act: once its source is known to be its sender's */
static __always_inline void fragment_record(struct packet *packet)
{
	if (packet->fragment == FRAGMENT_FIRST)
		fragment_put(packet);
}

/* look up: the ports of a later fragment. Returns 0 or a drop reason. */
static __framed int fragment_ports(struct packet *packet)
{
	struct fragment_key key = fragment_key(packet);
	struct fragment_ports *ports = bpf_map_lookup_elem(&mg_frag, &key);

	packet->order = (!ports || ports->order) && !packet->ordered;
	if (!ports || ports->order)
		return DROP_FRAGMENT_NOT_FOUND;
	packet->flow.source_port = ports->source;
	packet->flow.destination_port = ports->destination;
	packet->icmp = ports->icmp;
	return 0;
}
