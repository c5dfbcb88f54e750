/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Read-only configuration, patched by Python before load (`Object.set_config`). */
#pragma once
#include "types.h"

struct config {
	__be32 node;	       /* our tunnel endpoint */
	__u32 uplink;	       /* ifindex of the uplink */
	__u32 vxlan;	       /* ifindex of the kernel VXLAN device mg_vxlan */
	__u32 cluster;	       /* our cluster id */
	__u32 cluster_shift;   /* identity >> cluster_shift = cluster id: 16, or 15 in 511 mode */
	__u32 uplink_mtu;      /* L3 MTU of the uplink */
	__u16 block_size;      /* ports in a block */
	__u16 blocks_per_node; /* blocks of one address that a node has at most; 0: OWN_BLOCKS */
	__u32 drop_events;   /* drop events per second, reason and CPU; the rest is only counted */
	__u32 event_share;   /* events per 8.6 s and sender; the rest is only counted */
	__u32 drop_share;    /* of these, drops */
	__u32 icmp_errors;   /* ICMP errors that we originate per second and CPU */
	__u32 zones;	     /* whether zone.h looks anything up; 0: all is in zone 0 */
	__u32 masquerade;    /* whether masquerade.h looks anything up; 0: nothing is masqueraded */
	__u32 overlay_port;  /* UDP port on which this node takes the overlay; 0: VXLAN_PORT */
	__u32 beside;	     /* another CNI has the pods: ours.h; 0: we have them */
	__u32 learned_table; /* kernel table with the routes that BGP has taught; 0: none */
	__u32 xdp;	     /* whether mg_xdp_uplink stands before mg_from_uplink */
	__u32 gathers;	     /* whether the kernel gathers fragments out of order (order.h) */
	__u64 permutation_key; /* orders the ports of a block; unpredictable from outside */
};

const volatile struct config cfg = {};
