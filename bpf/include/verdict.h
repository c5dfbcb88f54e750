/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* One list of drop reasons. Numbers follow Hubble's where one exists, our own start at 220. Python
 * reads names and numbers from BTF, so this enum is the only list.
 */
#pragma once

enum {
	DROP_FIRST = 128, /* every reason is greater than every verdict, so one number tells both */
};

enum drop_reason {
	DROP_INVALID_SOURCE_IP = 132,
	DROP_INVALID_PACKET = 134,
	DROP_CT_TRUNCATED = 135,
	DROP_FRAGMENTATION_NEEDED = 136,
	DROP_UNSUPPORTED_L3_PROTOCOL = 139,
	DROP_MISSED_TAIL_CALL = 140,
	DROP_WRITE_ERROR = 141,
	DROP_UNKNOWN_L4_PROTOCOL = 142,
	DROP_UNKNOWN_L3_TARGET = 150,
	DROP_CT_MAP_INSERTION_FAILED = 155,
	DROP_INVALID_IPV6_EXTENSION = 156,
	DROP_NO_SERVICE = 158,
	DROP_NO_TUNNEL_ENDPOINT = 160,
	DROP_NO_NAT_MAPPING = 167,
	DROP_NAT_UNSUPPORTED_PROTOCOL = 168,
	DROP_FIB_LOOKUP_FAILED = 169,
	DROP_INVALID_IDENTITY = 171,
	DROP_UNKNOWN_SENDER = 172,
	DROP_FRAGMENT_NOT_FOUND = 175,
	DROP_INVALID_CLUSTER_ID = 192,
	DROP_NO_EGRESS_GATEWAY = 194,
	DROP_TTL_EXCEEDED = 196,
	DROP_RATE_LIMITED = 198, /* a pod's new mappings in a second are at their quota */
	DROP_ENDPOINT_NOT_READY = 203,
	DROP_NO_EGRESS_IP = 204,
	DROP_BLOCK_NOT_OWNED = 220, /* tunnel sender does not own the block of this source port */
	DROP_BLOCK_NO_OWNER = 221,  /* a port of an egress address that belongs to no node */
	DROP_NO_BLOCK = 222,	    /* this node holds no block of the egress address yet */
	DROP_MID_STREAM = 223,	    /* covered TCP packet without a mapping and without SYN */
	DROP_NOT_FROM_GATEWAY =
	    224, /* return packet from a host that is no gateway of the address */
	DROP_IP_OPTIONS =
	    225, /* a pod's IPv4 source route; any IPv4 options on the overlay's packet */
	DROP_EGRESS_NO_ROOM = 226,   /* mg_egress has no room for the rows of the pod's class */
	DROP_CONNECTION_ENDED = 229, /* TCP that a change of egress policy ended: both are reset */
	DROP_OVERLAY_PORT = 230,     /* for or from the overlay's port, and not of the overlay */
	DROP_NEIGHBOUR_CLAIM = 231,  /* a pod's ARP or NDP about an address that is not its own */
	DROP_ROUTER_TALK = 232,	     /* of a pod: router advertisement, redirect, MLD query */
	DROP_OWN_SENDER = 233, /* out of the fabric, and says that this very node has sent it */
	DROP_MASQUERADE_FULL = 236, /* no port of this node's address is free for the remote */
	DROP_BFD_REFUSED = 237,	    /* of a router's BFD session, and RFC 5880 6.8.6 discards it */
	DROP_NO_VRF_ROUTE = 238,    /* the pod's VRF has no usable path to the destination */
	DROP_VRF_SOURCE = 239, /* to a VRF's destination, from the cluster address of a pod that has
				  tenant addresses */
	DROP_SRV6_DOMAIN = 240, /* for a SID, from outside the SR domain; or from a pod */
	DROP_NO_SID = 241,	/* for a locator of this node, but for none of its SIDs */
	DROP_SEGMENTS = 242,  /* its SRH is broken, has an HMAC, flags or too many segments left */
	DROP_SID_INNER = 243, /* what the SID does not take: another family, or no IP packet */
	DROP_NOT_ACKNOWLEDGED = 246, /* firewalls have not loaded an egress address of the policy */
	DROP_PORT_QUOTA = 247,	     /* the pod's ports of the egress address are at their quota */
	DROP_NO_RUN = 248,	     /* no run of ports in this node's blocks is free for the pod */
	DROP_COVERED_IN_VRF =
	    249, /* an egress policy covers it, and it would leave by a route of a VRF */
	DROP_ICMP_CHECKSUM = 250, /* an ICMP error of a translated connection, or the IPv4 header in
				     it, has a wrong checksum (RFC 5508 REQ-3) */
};
