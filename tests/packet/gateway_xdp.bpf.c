/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The gateway's part of mg_from_uplink as an XDP program, out of the same headers: a proof that
 * features serve both hooks. The product attaches no XDP program yet.
 */
#include "hook_xdp.h"
#include "parse.h"
#include "tunnel.h"
#include "deliver.h"
#include "leave.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* decide: a decapsulated packet of a known sender, outward. Returns 0 or a drop reason. */
static __framed int tunnel_outward(hook_t *ctx, struct packet *packet, struct way *way)
{
	int reason = parse(ctx, packet);

	return reason ? reason : tunnel_egress(ctx, packet, way, DROP_INVALID_SOURCE_IP);
}

/* Returns 0 or a drop reason. */
static __always_inline int gateway(hook_t *ctx, struct packet *packet, struct way *way)
{
	enum tunnel tunnel;
	__be16 inner = 0;

	/* 1. parse what says whose packet it is */
	int reason = parse_network(ctx, packet);
	if (reason == DROP_UNSUPPORTED_L3_PROTOCOL)
		return 0;
	if (reason)
		return reason;

	/* 2. outward: out of the overlay */
	reason = tunnel_find(ctx, packet, &inner, &tunnel);
	if (tunnel == TUNNEL_KERNEL)
		return 0;
	if (!reason && tunnel == TUNNEL_OURS)
		reason = tunnel_open(ctx, packet, inner);
	if (reason)
		return reason;
	if (tunnel == TUNNEL_OURS)
		return tunnel_outward(ctx, packet, way);

	/* 3. inward: to an egress address that is ours */
	if (!is_gateway(packet))
		return 0;
	reason = parse_transport(ctx, packet);
	return reason ? reason : gateway_return(ctx, packet, way);
}

SEC("xdp")
int mg_gateway_xdp(struct xdp_md *ctx)
{
	struct slot *slot = enter(ctx, SLOT_FROM_UPLINK, POINT_FROM_UPLINK);

	return slot ? leave(ctx, slot, gateway(ctx, &slot->packet, &slot->way)) : HOOK_DROP;
}
