/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connected UDP sockets whose backend is gone: nobody would ever answer them, and an ICMP error
 * about a host does not reach such a socket (Linux: icmp_err_convert). The agent runs the iterator
 * once in each network namespace (mesh/services/ends.py). A socket that asked for the backend's own
 * address stays, and one that is not connected: its next sendmsg gets another backend.
 */
#pragma once
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include "service.h"

#define AF_INET	      2
#define AF_INET6      10
#define CONNECTED     1 /* TCP_ESTABLISHED, of UDP likewise */
#define OF_THE_KERNEL __attribute__((preserve_access_index))

struct in6_addr {
	__be32 s6_addr32[4];
};

struct sock_common {
	__be32 skc_daddr;
	__be16 skc_dport;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr;
} OF_THE_KERNEL;

struct sock {
	struct sock_common __sk_common;
} OF_THE_KERNEL;

struct inet_sock {
	struct sock sk;
} OF_THE_KERNEL;

struct udp_sock {
	struct inet_sock inet;
} OF_THE_KERNEL;

struct bpf_iter__udp {
	struct udp_sock *udp_sk;
} OF_THE_KERNEL;

extern int bpf_sock_destroy(struct sock_common *sock) __attribute__((section(".ksyms")));

struct gone_key { /* a backend */
	struct addr address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* Backends whose sockets end -> 1. Agent, while it ends them. */
MAP_HASH(mg_gone, struct gone_key, __u32, 65536, BPF_F_NO_PREALLOC);

/* look up: whom the socket talks to; false: nobody in particular */
static __always_inline bool peer_of(const struct sock_common *socket, struct asked_key *peer)
{
	if (socket->skc_state != CONNECTED)
		return false;
	peer->port = socket->skc_dport;
	if (socket->skc_family == AF_INET) {
		peer->address = (struct addr){.w = {0, 0, bpf_htonl(0xffff), socket->skc_daddr}};
		return true;
	}
	for (int i = 0; i < 4; i++)
		peer->address.w[i] = socket->skc_v6_daddr.s6_addr32[i];
	return socket->skc_family == AF_INET6;
}

/* decide: whether the socket asked for a service and its backend is gone */
static __always_inline bool has_gone(struct udp_sock *udp)
{
	struct asked_key peer = {};

	if (!peer_of(&udp->inet.sk.__sk_common, &peer))
		return false;
	struct gone_key backend = {
	    .address = peer.address, .port = peer.port, .protocol = IPPROTO_UDP};
	if (!bpf_map_lookup_elem(&mg_gone, &backend))
		return false;
	peer.cookie = bpf_get_socket_cookie(udp);
	return bpf_map_lookup_elem(&mg_service_nat, &peer);
}
