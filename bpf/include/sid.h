/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* SIDs of this node, and who may send to them. What becomes of a packet there is in endpoint.h.
 * Source: RFC 8986 3 and 4, RFC 9800 (NEXT-C-SID).
 */
#pragma once
#include "guard.h"
#include "vrf.h"

enum sid_behaviour {
	SID_END = 1,
	SID_END_X,
	SID_END_DT4,
	SID_END_DT6,
	SID_END_DT46,
	SID_END_DX4,
	SID_END_DX6,
};
SCHEMA(enum sid_behaviour, sid_behaviour);

enum sid_flavour {
	SID_PSP = 1,
	SID_USD = 2,
	SID_NEXT_CSID = 4,
	SID_IDENTITY = 8, /* its argument says an identity, when a node of the mesh has sent it */
};
SCHEMA(enum sid_flavour, sid_flavour);

enum sid_limit {
	SID_LOCATORS = 64,
	SIDS = 4096,
	SRV6_SOURCES = 16384,
};
SCHEMA(enum sid_limit, sid_limit);

struct sid_key { /* LPM; bits of the prefix */
	__u32 bits;
	struct addr addr;
};

struct locator { /* lengths in bits; all SIDs of a locator share them */
	__u8 block;
	__u8 node;
	__u8 function;
	__u8 argument;
};

struct sid {		      /* of this node */
	struct addr next_hop; /* End.X, End.DX4, End.DX6: where the packet goes; IPv4 mapped */
	__u32 ifindex;	      /* of next_hop */
	__u32 vrf;	      /* End.DT4, End.DT6, End.DT46 */
	__u8 behaviour;	      /* enum sid_behaviour */
	__u8 flavours;	      /* enum sid_flavour */
	__u8 block;	      /* lengths in bits; of the node's own NEXT-C-SID the function has 0 */
	__u8 node;
	__u8 function;
	__u8 argument;
	__u8 pad[2];
};

enum srv6_source_flag {
	SRV6_NODE = 1, /* a node's own address: its SIDs' arguments say identities of its cluster */
};
SCHEMA(enum srv6_source_flag, srv6_source_flag);

struct srv6_source {   /* outer sources inside the SR domain */
	__u32 flags;   /* enum srv6_source_flag */
	__u32 cluster; /* SRV6_NODE */
	__u32 ifindex; /* uplink by which it comes; 0: any */
};

/* locator of this node -> lengths. Agent. */
MAP_LPM(mg_sid_locator, struct sid_key, struct locator, SID_LOCATORS);
/* SID of this node, with everything behind its function zero -> what it does. Agent; a released SID
 * stays through its quarantine.
 */
MAP_HASH(mg_sid, struct addr, struct sid, SIDS, BPF_F_NO_PREALLOC);
/* prefix of outer sources inside the SR domain (RFC 8754 5.1), none of this node's own. Agent. */
MAP_LPM(mg_srv6_domain, struct sid_key, struct srv6_source, SRV6_SOURCES);

/* look up: the SID of a destination, by locator and function; of a NEXT-C-SID by its first part */
static __framed const struct sid *sid_find(const struct addr *to, __u8 *local)
{
	struct sid_key key = {.bits = 128, .addr = *to};
	struct locator *locator = bpf_map_lookup_elem(&mg_sid_locator, &key);

	*local = !!locator;
	if (!locator)
		return NULL;
	__u32 bits = locator->block + locator->node;
	addr_cut(&key.addr, bits + locator->function);
	const struct sid *sid = bpf_map_lookup_elem(&mg_sid, &key.addr);
	APART(sid);
	if (sid)
		return sid;
	addr_cut(&key.addr, bits);
	sid = bpf_map_lookup_elem(&mg_sid, &key.addr);
	APART(sid);
	return sid && sid->flavours & SID_NEXT_CSID ? sid : NULL;
}

/* look up: worth more than this look; nearly no packet is */
static __always_inline bool is_local_sid(const struct addr *to)
{
	struct sid_key key = {.bits = 128, .addr = *to};

	return bpf_map_lookup_elem(&mg_sid_locator, &key);
}

/* look up: what RFC 8754 5.1 lets send to our SIDs; NULL: an outer source outside the SR domain */
static __framed const struct srv6_source *srv6_source_find(hook_t *ctx, const struct addr *from)
{
	struct sid_key key = {.bits = 128, .addr = *from};
	const struct srv6_source *source = bpf_map_lookup_elem(&mg_srv6_domain, &key);

	return source && (!source->ifindex || source->ifindex == hook_device(ctx)) ? source : NULL;
}

/* decide: a pod's packet to a SID of the SR domain. A NAT of the host would give it the node's
 * address, which those behind SIDs believe; RFC 8754 5.1. Of a VRF its addresses are its own.
 * Before the ports are read what has extension headers may be one.
 */
static __framed bool is_to_domain(const struct packet *packet)
{
	struct sid_key key = {.bits = 128, .addr = packet->destination};

	if (packet->zone || packet->family == 4)
		return false;
	if (packet->protocol != IPPROTO_IPIP && packet->protocol != IPPROTO_IPV6 &&
	    !is_extension(packet->protocol))
		return false;
	struct srv6_source *domain = bpf_map_lookup_elem(&mg_srv6_domain, &key);
	return domain && !(domain->flags & SRV6_NODE);
}

/* Bits of a SID before its argument. */
static __always_inline __u32 before_argument(const struct sid *sid)
{
	return sid->block + sid->node + sid->function;
}

/* The bits of an address behind a SID's function. */
static __always_inline struct bits argument_of(const struct addr *addr, const struct sid *sid)
{
	__u32 before = before_argument(sid);

	return before < 128 ? bits_left(bits_of(addr), before) : (struct bits){};
}

/* decide: the identity that the argument says of the sender's pod; 0: it says none */
static __always_inline __u32 argument_identity(const struct packet *packet, const struct sid *sid,
					       const struct srv6_source *source)
{
	__u32 identity = argument_of(&packet->destination, sid).high >> (64 - SRV6_IDENTITY);
	bool says = sid->flavours & SID_IDENTITY && !(sid->flavours & SID_NEXT_CSID);

	if (!says || !(source->flags & SRV6_NODE) || identity < IDENTITY_RESERVED_END)
		return 0;
	return identity >> cfg.cluster_shift == source->cluster ? identity : 0;
}
