/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connected sockets whose backend is gone: no answer can come any more. An ICMP error about a host
 * does not reach a UDP socket (Linux: icmp_err_convert), and TCP takes it for a passing one: it
 * retransmits for a quarter of an hour. The agent runs the iterators once in each network namespace
 * (mesh/services/ends.py). A socket that asked for the backend's own address stays, and a UDP
 * socket that is not connected: its next sendmsg gets another backend.
 */
#pragma once
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include "service.h"

#define AF_INET	      2
#define AF_INET6      10
#define OF_THE_KERNEL __attribute__((preserve_access_index))

enum { /* linux/tcp_states.h; the first one is that of a connected UDP socket, too */
       ESTABLISHED = 1,
       SYN_SENT = 2,
       FIN_WAIT1 = 4,
       FIN_WAIT2 = 5,
       CLOSE_WAIT = 8,
       LAST_ACK = 9,
       CLOSING = 11,
};
/* Has a peer and is a whole socket: the iterator also visits those that listen, and what stands for
 * a socket before it is accepted (12) and after its end (6).
 */
#define TALKS                                                                                      \
	(1 << ESTABLISHED | 1 << SYN_SENT | 1 << FIN_WAIT1 | 1 << FIN_WAIT2 | 1 << CLOSE_WAIT |    \
	 1 << LAST_ACK | 1 << CLOSING)

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

struct bpf_iter__tcp {
	struct sock_common *sk_common;
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
	if (socket->skc_state > CLOSING || !(1 << socket->skc_state & TALKS))
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
static __always_inline bool has_gone(struct sock_common *socket, __u8 protocol)
{
	struct asked_key peer = {};

	if (!peer_of(socket, &peer))
		return false;
	struct gone_key backend = {
	    .address = peer.address, .port = peer.port, .protocol = protocol};
	if (!bpf_map_lookup_elem(&mg_gone, &backend))
		return false;
	peer.cookie = bpf_get_socket_cookie(socket);
	return bpf_map_lookup_elem(&mg_service_nat, &peer);
}
