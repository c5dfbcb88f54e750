/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Ports on which pods take datagrams, as their objects declare. A pod that a policy covers answers
 * from them with its own address; from all other ports it asks, and asks with the egress address.
 */
#pragma once
#include "event.h"
#include "packet.h"

enum declared_limit {
	/* What a translated connection has used as its own port is no server's for so long after
	 * its last packet (now_s): the connection itself lives that long (RFC 4787 REQ-5).
	 */
	DECLARED_REST_S = 300,
};

struct declared_key {
	struct addr pod;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct declared {
	__u32 translated; /* last packet of a translated connection, now_s. BPF only; 0: none */
};

/* (pod of this node, port, protocol) -> a declared port. Agent, from table declared port. */
MAP_HASH(mg_declared, struct declared_key, struct declared, 16384, BPF_F_NO_PREALLOC);

/* look up: the port that a datagram of a pod leaves from, if its object declares it */
static __framed struct declared *declared_find(const struct packet *packet)
{
	struct declared_key key = {
	    .pod = packet->source, .port = packet->flow.source_port, .protocol = packet->protocol};

	if (packet->zone || packet->protocol != IPPROTO_UDP)
		return NULL;
	return bpf_map_lookup_elem(&mg_declared, &key);
}

/* decide: nobody outside has been asked from this port lately */
static __always_inline bool is_servers(const struct declared *port)
{
	return !port->translated || now_s() - port->translated > DECLARED_REST_S;
}

/* act: a translated connection uses the port */
static __always_inline void declared_use(const struct packet *packet)
{
	struct declared *port = declared_find(packet);

	if (port)
		port->translated = now_s();
}
