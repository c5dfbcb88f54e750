/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every struct that BPF programs share with each other or with Python, which reads the layouts
 * from the object's BTF. No bitfields, no implicit padding; __be types are network order.
 */
#pragma once
#include <linux/types.h>

/* IPv6, or IPv4 mapped (::ffff:a.b.c.d): one key type for addresses of both families. */
struct addr {
	__be32 w[4];
};

struct tuple { /* a flow, in one direction; ICMP echo: the asker's port is the id, the other's 0 */
	struct addr source;
	struct addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

struct cidr_key { /* LPM; prefix counts bits of the 128-bit form */
	__u32 prefix;
	struct addr addr;
};

enum address_kind {
	ADDRESS_POD = 1,  /* reached through the tunnel to .node */
	ADDRESS_NODE = 2, /* reached natively, or this host itself when .node is our own */
};

struct address { /* who an address is */
	__u32 identity;
	__be32 node; /* tunnel endpoint */
	__u8 kind;   /* enum address_kind */
	__u8 cluster;
	__u16 pad;
};

struct cidr { /* pod CIDR of a node, for addresses that are not known yet */
	__be32 node;
	__u32 cluster;
};

struct node {		 /* another node, by its tunnel endpoint */
	__be32 next_hop; /* IPv4 next hop of the outer packet */
	__u32 cluster;
};

struct pod {	       /* a pod of this node */
	__u32 ifindex; /* host side of its veth */
	__u32 identity;
	__u32 egress; /* egress class, 0: no policy covers it */
	__u8 mac[6];
	__u8 host_mac[6];
};

struct egress_key { /* LPM; prefix = 32 + bits of addr */
	__u32 prefix;
	__u32 egress; /* class */
	struct addr addr;
};

enum egress_action {
	EGRESS_TRANSLATE = 1,
	EGRESS_EXCLUDED = 2,   /* falls through to plain forwarding */
	EGRESS_NO_GATEWAY = 3, /* drop 194 */
	EGRESS_NO_ADDRESS = 4, /* drop 204 */
};

struct egress { /* what happens to a covered pod's packet to a covered destination */
	struct addr address;
	__u32 action; /* enum egress_action */
	__u32 family; /* 4 or 6: of the row's CIDR, so that ::/0 catches no IPv4; 0: any */
};

struct egress_addr {	/* an egress address of our cluster, by address */
	__be32 gateway; /* tunnel endpoint of its gateway; our own: this node is the gateway */
};

struct block_key {
	struct addr address;
	__u32 number;
};

struct block { /* who may translate into a port block */
	__be32 node;
	__u32 epoch;
};

#define OWN_BLOCKS 16
struct own_blocks { /* blocks of this node, by egress address */
	__u32 count;
	__u32 number[OWN_BLOCKS];
};

struct service_key {
	struct addr address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct service { /* backends are mg_backend[first .. first + count) */
	__u32 first;
	__u32 count;
};

struct backend {
	struct addr address;
	__be16 port;
	__u16 pad;
};

enum event_verdict {
	EVENT_FORWARDED = 1, /* Hubble's numbers */
	EVENT_DROPPED = 2,
};

enum event_point { /* where it was seen; Hubble's TraceObservationPoint numbers */
		   POINT_FROM_POD = 5,
		   POINT_TO_POD = 101,
		   POINT_FROM_OVERLAY = 9,
		   POINT_FROM_UPLINK = 10,
		   POINT_TO_UPLINK = 11,
};

struct event {	    /* one new connection, or one drop */
	__u64 time; /* CLOCK_MONOTONIC, ns */
	struct addr source;
	struct addr destination;
	struct addr translated; /* source after egress translation; zero: none */
	__be16 source_port;
	__be16 destination_port; /* ICMP: source_port = type and code, destination_port = id */
	__be16 translated_port;
	__u8 protocol;
	__u8 verdict; /* enum event_verdict */
	__u8 reason;  /* enum drop_reason, 0 when forwarded */
	__u8 point;   /* enum event_point */
	__u8 tcp_flags;
	__u8 pad;
	__u32 source_identity;
	__u32 destination_identity;
	__u32 ifindex;
	__u32 length;
	__u32 lost; /* drop events suppressed by the rate limit since the last one of this reason */
};

enum {
	ICMP_FRAME_MAX = 192, /* Ethernet, IPv6 and ICMPv6 headers, 128 bytes of the packet */
};

struct icmp_late { /* an error to be sent once more, later, out of a device */
	__u32 ifindex;
	__u32 length;
	__u8 frame[ICMP_FRAME_MAX];
};

struct drop { /* mg_drop, per CPU, index = enum drop_reason */
	__u64 packets;
	__u64 bytes;
};
