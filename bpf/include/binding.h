/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Bindings: a policy may want that a port of a pod shows one port of the egress address to every
 * remote (RFC 4787 REQ-1). The port comes out of a run that the pod has for bindings alone, so no
 * mapping of another kind is in its way. A binding lives as long as a connection that uses it: the
 * sweep touches those of the connections that it keeps, and whoever swaps `used` decides.
 *
 * From outside a binding opens a connection of its own (bind_answer) for a remote address to which
 * the pod has sent by it, a contact; or for everybody, where the policy says so.
 */
#pragma once
#include "nat.h"
#include "run.h"
#include "scratch.h"

enum binding_kind { /* of a policy */
		    BINDING_NONE,
		    BINDING_FILTERED, /* remotes to which the pod has sent may send to it */
		    BINDING_OPEN,     /* every remote may */
};
SCHEMA(enum binding_kind, binding_kind);

enum binding_limit {
	BINDINGS = 262144,   /* and contacts: rows of mg_bind */
	BINDING_REST_S = 10, /* a binding without a connection goes, that long after its last one */
};

#define NO_BINDING (-2) /* no drop reason: the pod's port is not bound yet */

enum bind_kind {	       /* of a row of mg_bind; what else its key has */
		 BIND_POD,     /* a pod's port -> its port of the address */
		 BIND_PORT,    /* no pod, a port of the address -> whose it is */
		 BIND_CONTACT, /* a remote, a port of the address -> nothing: the pod has sent there
				*/
};

SCHEMA(enum bind_kind, bind_kind);

struct bind_key {
	struct addr end;     /* pod, or remote */
	struct addr address; /* egress address */
	__be16 port;	     /* or ICMP id */
	__u16 zone;	     /* of the pod */
	__u8 protocol;
	__u8 kind; /* enum bind_kind */
	__u8 pad[2];
};

struct binding {
	/* CLOCK_MONOTONIC in ns: last opened by, or met by the sweep; DYING: it goes. Of a port 0.
	 */
	__u64 used;
	struct addr pod; /* BIND_PORT */
	__be16 port;	 /* of the egress address; BIND_PORT: of the pod */
	__u16 zone;	 /* BIND_PORT: of the pod */
	__u32 kind;	 /* BIND_PORT: enum binding_kind */
};

/* Bindings, from both sides, and contacts: the insert of a BIND_PORT is the lock on the port. BPF
 * only.
 */
MAP_HASH(mg_bind, struct bind_key, struct binding, BINDINGS, BPF_F_NO_PREALLOC);

/* The binding in hand. */
struct bind_slot {
	struct bind_key key;
	struct tuple reply;
	struct tuple original;
	struct bind_key contact;
	struct bind_key bound;
	struct mapping mapping;
	struct connection connection;
	struct binding binding;
};

static __always_inline struct bind_slot *bind_slot(void)
{
	return SCRATCH(struct bind_slot, SCRATCH_BINDING);
}

static __always_inline void bind_key_of(struct bind_key *key, const struct tuple *flow,
					const struct addr *address)
{
	*key = (struct bind_key){.end = flow->source,
				 .address = *address,
				 .port = flow->source_port,
				 .zone = flow->zone,
				 .protocol = flow->protocol,
				 .kind = BIND_POD};
}

static __always_inline void bound_key(struct bind_key *key, const struct addr *address, __be16 port,
				      __u8 protocol)
{
	*key = (struct bind_key){
	    .address = *address, .port = port, .protocol = protocol, .kind = BIND_PORT};
}

/* look up: whose port of an egress address slot->reply is for */
static __always_inline struct binding *bound_find(struct bind_slot *slot)
{
	bound_key(&slot->bound, &slot->reply.destination, slot->reply.destination_port,
		  slot->reply.protocol);
	return bpf_map_lookup_elem(&mg_bind, &slot->bound);
}

/* act: lock the port of a reply's tuple for a pod's port. Returns 0, -EEXIST or the map's error. */
static __always_inline int bound_lock(const struct tuple *reply, const struct mapping *mapping,
				      enum binding_kind kind)
{
	struct bind_slot *slot = bind_slot();

	if (!slot)
		return -1;
	bound_key(&slot->key, &reply->destination, reply->destination_port, reply->protocol);
	slot->binding = (struct binding){
	    .pod = mapping->pod, .port = mapping->pod_port, .zone = mapping->zone, .kind = kind};
	return bpf_map_update_elem(&mg_bind, &slot->key, &slot->binding, BPF_NOEXIST);
}

/* act: in use from now on; false when it goes */
static __always_inline bool used_touch(__u64 *used)
{
	__u64 before = *used;

	if (before == DYING)
		return false;
	return swap(used, before, bpf_ktime_get_ns()) || *used != DYING;
}

/* look up: the contact of slot->reply; its key stays in the slot */
static __always_inline struct binding *contact_find(struct bind_slot *slot)
{
	bound_key(&slot->contact, &slot->reply.destination, slot->reply.destination_port,
		  slot->reply.protocol);
	slot->contact.end = slot->reply.source;
	slot->contact.kind = BIND_CONTACT;
	return bpf_map_lookup_elem(&mg_bind, &slot->contact);
}

/* act: the pod has sent to the address of slot->reply by the binding */
static __framed void contact_note(struct bind_slot *slot)
{
	struct binding *contact = contact_find(slot);

	if (contact && used_touch(&contact->used))
		return;
	slot->binding = (struct binding){.used = bpf_ktime_get_ns()};
	bpf_map_update_elem(&mg_bind, &slot->contact, &slot->binding, BPF_ANY);
}

/* act: the mapping of one connection of a binding, by the tuples of the slot; one of before that
 * has ended is taken back. Returns 0 or a drop reason.
 */
static __always_inline int bind_map(struct bind_slot *slot)
{
	slot->mapping = (struct mapping){.pod = slot->original.source,
					 .pod_port = slot->original.source_port,
					 .zone = slot->original.zone,
					 .bound = 1,
					 .first = bpf_ktime_get_ns()};
	if (mapping_write(&slot->reply, &slot->mapping, BPF_NOEXIST) &&
	    !mapping_revive(&slot->reply, &slot->original))
		return DROP_NO_NAT_MAPPING;
	return 0;
}

/* look up: the binding of slot->key, in use from now on; NULL: there is none, or it goes */
static __always_inline struct binding *bind_touch(struct bind_slot *slot)
{
	struct binding *binding = bpf_map_lookup_elem(&mg_bind, &slot->key);

	return binding && used_touch(&binding->used) ? binding : NULL;
}

/* act: the pod's connection by its binding. Returns 0, NO_BINDING or a drop reason. */
static __framed int bind_use(const struct tuple *flow, struct translation *translation)
{
	struct bind_slot *slot = bind_slot();

	if (!slot)
		return DROP_NO_NAT_MAPPING;
	slot->original = *flow;
	bind_key_of(&slot->key, flow, &translation->address);
	struct binding *binding = bind_touch(slot);
	if (!binding)
		return NO_BINDING;
	translation->port = binding->port;
	reply_tuple(&slot->reply, flow, &translation->address, translation->port);
	struct binding *bound = bound_find(slot);
	if (!bound)
		return DROP_NO_NAT_MAPPING;
	if (bound->kind != translation->binding)
		bound->kind = translation->binding;
	int reason = bind_map(slot);
	if (!reason && translation->binding == BINDING_FILTERED)
		contact_note(slot);
	return reason;
}

/* act: the port that has been locked is that of the pod's port from now on; when another CPU was
 * faster its port counts
 */
static __framed void bind_new(const struct tuple *flow, const struct tuple *reply)
{
	struct bind_slot *slot = bind_slot();

	if (!slot)
		return;
	bind_key_of(&slot->key, flow, &reply->destination);
	slot->binding =
	    (struct binding){.used = bpf_ktime_get_ns(), .port = reply->destination_port};
	if (!bpf_map_update_elem(&mg_bind, &slot->key, &slot->binding, BPF_NOEXIST))
		return;
	bound_key(&slot->key, &reply->destination, reply->destination_port, reply->protocol);
	bpf_map_delete_elem(&mg_bind, &slot->key);
}

/* decide: what a binding lets in: no ICMP, and of TCP a SYN only */
static __always_inline bool is_for_binding(const struct packet *packet)
{
	return packet->icmp ? false : packet->protocol == IPPROTO_UDP || is_syn(packet);
}

/* look up: the pod's side of a packet from outside, into the slot; false: nobody has the port, or
 * it does not take packets of this remote
 */
static __always_inline bool bind_admits(struct bind_slot *slot, const struct packet *packet)
{
	slot->reply = packet->flow;
	struct binding *bound = bound_find(slot);
	if (!bound || (bound->kind != BINDING_OPEN && !contact_find(slot)))
		return false;
	tuple_reverse(&slot->original, &slot->reply);
	slot->original.source = bound->pod;
	slot->original.source_port = bound->port;
	slot->original.zone = bound->zone;
	bind_key_of(&slot->key, &slot->original, &slot->reply.destination);
	return bind_touch(slot);
}

/* act: a remote opens a connection to a binding: its mapping, with the tuples in the slot. False:
 * it may not.
 */
__global int bind_answer(struct packet *packet)
{
	struct bind_slot *slot = bind_slot();

	if (!slot || !packet || !is_for_binding(packet) || !bind_admits(slot, packet))
		return false;
	return !bind_map(slot);
}

/* act: its connection, as if the pod had opened it. False: it has another one there, or
 * there is no room.
 */
__global int bind_connect(struct packet *packet)
{
	struct bind_slot *slot = bind_slot();

	if (!slot || !packet)
		return false;
	connection_new(packet, IDENTITY_WORLD, &slot->connection);
	slot->connection.source_identity = IDENTITY_UNKNOWN;
	slot->connection.translated = slot->reply.destination;
	slot->connection.translated_port = slot->reply.destination_port;
	slot->connection.flags |= CONNECTION_BOUND | CONNECTION_STREAM;
	if (connection_fits(&slot->original) &&
	    !connection_put(&slot->original, &slot->connection, BPF_NOEXIST))
		return true;
	struct connection *there = connection_get(&slot->original);
	if (there && connection_holds(there, &slot->reply))
		return true;
	mapping_delete(&slot->reply);
	return false;
}
