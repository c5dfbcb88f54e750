// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Service translation of socket calls, for every process in the host's cgroup.
 *
 *   connect, sendmsg      service address -> backend; refused when the service has none, or not
 *                         this port
 *   recvmsg, getpeername  backend -> the service address that this socket had asked for
 *   iterators             sockets whose backend is gone end with ECONNABORTED
 *
 * An IPv6 socket that asks for ::ffff:a.b.c.d comes by the 6-programs on connect and recvmsg, and
 * by the 4-programs on sendmsg: both families share one key form, so that both meet the same rows.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "ends.h"
#include "service.h"

#define ECONNREFUSED 111 /* asm-generic/errno.h */
#define REFUSE	     0
#define GO_ON	     1

static __always_inline struct service_key key4(const struct bpf_sock_addr *ctx)
{
	struct service_key key = {
	    .address.w = {0, 0, bpf_htonl(0xffff), ctx->user_ip4},
	    .port = (__be16)ctx->user_port,
	    .protocol = ctx->protocol,
	};

	return key;
}

static __always_inline struct service_key key6(const struct bpf_sock_addr *ctx)
{
	struct service_key key = {
	    .address.w = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
	    .port = (__be16)ctx->user_port,
	    .protocol = ctx->protocol,
	};

	return key;
}

static __always_inline void set4(struct bpf_sock_addr *ctx, const struct service_key *key)
{
	ctx->user_ip4 = key->address.w[3];
	ctx->user_port = key->port;
}

static __always_inline void set6(struct bpf_sock_addr *ctx, const struct service_key *key)
{
	ctx->user_ip6[0] = key->address.w[0];
	ctx->user_ip6[1] = key->address.w[1];
	ctx->user_ip6[2] = key->address.w[2];
	ctx->user_ip6[3] = key->address.w[3];
	ctx->user_port = key->port;
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED); /* without it the caller would see EPERM */
	return REFUSE;
}

static __always_inline int to_backend4(struct bpf_sock_addr *ctx)
{
	struct service_key key = key4(ctx);
	enum lb_result result = lb_to_backend(bpf_get_socket_cookie(ctx), &key);

	if (result == LB_NO_BACKEND || result == LB_NO_PORT)
		return refuse();
	if (result == LB_TRANSLATED)
		set4(ctx, &key);
	return GO_ON;
}

static __always_inline int to_backend6(struct bpf_sock_addr *ctx)
{
	struct service_key key = key6(ctx);
	enum lb_result result = lb_to_backend(bpf_get_socket_cookie(ctx), &key);

	if (result == LB_NO_BACKEND || result == LB_NO_PORT)
		return refuse();
	if (result == LB_TRANSLATED)
		set6(ctx, &key);
	return GO_ON;
}

static __always_inline int to_service4(struct bpf_sock_addr *ctx)
{
	struct service_key key = key4(ctx);

	if (lb_to_service(bpf_get_socket_cookie(ctx), &key) == LB_TRANSLATED)
		set4(ctx, &key);
	return GO_ON;
}

static __always_inline int to_service6(struct bpf_sock_addr *ctx)
{
	struct service_key key = key6(ctx);

	if (lb_to_service(bpf_get_socket_cookie(ctx), &key) == LB_TRANSLATED)
		set6(ctx, &key);
	return GO_ON;
}

SEC("cgroup/connect4")
int mg_connect4(struct bpf_sock_addr *ctx)
{
	return to_backend4(ctx);
}

SEC("cgroup/connect6")
int mg_connect6(struct bpf_sock_addr *ctx)
{
	return to_backend6(ctx);
}

SEC("cgroup/sendmsg4")
int mg_sendmsg4(struct bpf_sock_addr *ctx)
{
	return to_backend4(ctx);
}

SEC("cgroup/sendmsg6")
int mg_sendmsg6(struct bpf_sock_addr *ctx)
{
	return to_backend6(ctx);
}

SEC("cgroup/recvmsg4")
int mg_recvmsg4(struct bpf_sock_addr *ctx)
{
	return to_service4(ctx);
}

SEC("cgroup/recvmsg6")
int mg_recvmsg6(struct bpf_sock_addr *ctx)
{
	return to_service6(ctx);
}

SEC("cgroup/getpeername4")
int mg_getpeername4(struct bpf_sock_addr *ctx)
{
	return to_service4(ctx);
}

SEC("cgroup/getpeername6")
int mg_getpeername6(struct bpf_sock_addr *ctx)
{
	return to_service6(ctx);
}

SEC("iter/udp")
int mg_end_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *socket = (struct sock_common *)ctx->udp_sk;

	if (socket && has_gone(socket, IPPROTO_UDP))
		bpf_sock_destroy(socket);
	return 0;
}

SEC("iter/tcp")
int mg_end_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *socket = ctx->sk_common;

	if (socket && has_gone(socket, IPPROTO_TCP))
		bpf_sock_destroy(socket);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
