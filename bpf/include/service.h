/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services at connect time: a socket that asks for a service address gets a backend's, and sees the
 * service address wherever it asks who its peer is. Packets carry backend addresses only.
 */
#pragma once
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

enum service_limit { /* entries, unless the configuration says otherwise */
		     SERVICES = 65536,
		     BACKENDS = 1048576,
};
SCHEMA(enum service_limit, service_limit);

struct service_key {
	struct addr address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
	__u16 zone; /* of the socket: 0 */
	__u16 pad2;
};

struct service { /* backends are mg_backend_addr[first .. first + count) */
	__u32 first;
	__u32 count;
};

struct backend {
	struct addr address;
	__be16 port;
	__u16 pad;
};

/* (service address, port, protocol) -> slice of mg_backend_addr. Agent, from table service. */
MAP_HASH(mg_service_addr, struct service_key, struct service, SERVICES, BPF_F_NO_PREALLOC);
/* slot -> backend. Agent, from table service: written before the service that points to it, and
 * removed only after no service does.
 */
MAP_HASH(mg_backend_addr, __u32, struct backend, BACKENDS, BPF_F_NO_PREALLOC);

struct asked_key { /* a socket and the backend that it got */
	__u64 cookie;
	struct addr address;
	__be16 port;
	__u8 pad[6];
};

struct asked { /* the service address that it had asked for */
	struct addr address;
	__be16 port;
	__u16 pad;
};

enum service_owner {		       /* who translates what is for the address of a service */
		     SERVICE_OURS = 1, /* sockets get backends, so no packet goes to it */
		     SERVICE_PROXIED,  /* a kube-proxy of this node, in the stack */
};
SCHEMA(enum service_owner, service_owner);

/* addresses of services of this cluster, whatever the port -> enum service_owner. Agent, from table
 * service.
 */
MAP_HASH(mg_service_ip, struct zoned_addr, __u32, SERVICES, BPF_F_NO_PREALLOC);

/* Written by BPF. A cache: a socket whose entry went sees its backend's address. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct asked_key);
	__type(value, struct asked);
} mg_service_nat SEC(".maps");

/* look up */

static __always_inline __u32 service_owner(const struct zoned_addr *addr)
{
	__u32 *owner = bpf_map_lookup_elem(&mg_service_ip, addr);

	return owner ? *owner : 0;
}

/* decide: nobody answers for the address itself */
static __always_inline bool is_service_address(const struct zoned_addr *addr)
{
	return service_owner(addr) == SERVICE_OURS;
}

/* decide: the address is the cluster's own, though no row of the mesh has it */
static __always_inline bool is_proxied(const struct zoned_addr *addr)
{
	return service_owner(addr) == SERVICE_PROXIED;
}

/* what a socket had asked for, when that was a service; NULL: no service, or an unknown socket */
static __always_inline const struct asked *asked_of(const struct asked_key *got)
{
	return got->cookie ? bpf_map_lookup_elem(&mg_service_nat, got) : NULL;
}

static __always_inline const struct backend *lb_backend(const struct service *service)
{
	__u32 slot;

	if (!service->count)
		return NULL;
	slot = service->first + bpf_get_prandom_u32() % service->count;
	return bpf_map_lookup_elem(&mg_backend_addr, &slot);
}

/* decide and act */

enum lb_result {
	LB_NO_SERVICE,
	LB_TRANSLATED, /* key now holds the backend */
	LB_NO_BACKEND,
	LB_NO_PORT, /* the address is a service's, which does not have this port */
};

/* key: where the socket wants to go. */
static __always_inline enum lb_result lb_to_backend(__u64 cookie, struct service_key *key)
{
	const struct service *service = bpf_map_lookup_elem(&mg_service_addr, key);
	struct asked_key got = {.cookie = cookie};
	struct asked asked = {};
	const struct backend *backend;

	if (!service) {
		struct zoned_addr address = {.zone = key->zone};

		__builtin_memcpy(address.w, &key->address, sizeof(key->address));
		return is_service_address(&address) ? LB_NO_PORT : LB_NO_SERVICE;
	}
	backend = lb_backend(service);
	if (!backend)
		return LB_NO_BACKEND;
	asked.address = key->address;
	asked.port = key->port;
	got.address = key->address = backend->address;
	got.port = key->port = backend->port;
	bpf_map_update_elem(&mg_service_nat, &got, &asked, BPF_ANY);
	return LB_TRANSLATED;
}

/* key: whom the socket talks to. */
static __always_inline enum lb_result lb_to_service(__u64 cookie, struct service_key *key)
{
	struct asked_key got = {
	    .cookie = cookie,
	    .address = key->address,
	    .port = key->port,
	};
	const struct asked *asked = bpf_map_lookup_elem(&mg_service_nat, &got);

	if (!asked)
		return LB_NO_SERVICE;
	key->address = asked->address;
	key->port = asked->port;
	return LB_TRANSLATED;
}
