/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* TCP connections that a change of egress policy has ended. Rows say so, and only rows that are
 * there: a policy covers the connection now, its address belongs to no policy any more, its block
 * is another node's. A row that is missing says nothing. Both ends are told by RST at the next
 * packet of either, instead of sending into the void for a quarter of an hour.
 *
 *   towards the packet's sender   SEQ = the packet's ACK
 *   onwards                       SEQ = the packet's SEQ
 *
 * An end that expects another SEQ sends a challenge ACK (RFC 5961 3.2), which is answered alike.
 */
#pragma once
#include "egress.h"
#include "icmp.h"
#include "rewrite.h"
#include "scratch.h"

enum reset_count {
	RESET_POD,  /* to a pod of this node */
	RESET_FAR,  /* to the other end, with the egress address */
	RESET_BARE, /* to the other end, with the pod's own address */
	RESET_COUNTS,
};
SCHEMA(enum reset_count, reset_count);

/* enum reset_count -> packets. Written by BPF. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RESET_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} mg_reset SEC(".maps");

enum packet_mark {
	/* Of a copy on its way into a pod, a reset or an ICMP error of the agent's: mg_to_pod lets
	 * it pass as it is. Another network namespace does not see marks.
	 */
	RESET_MARK = 0x6d677273,
};
SCHEMA(enum packet_mark, packet_mark);

enum {
	RESET_TTL = 64,
};

struct tcp_header {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__u8 length;
	__u8 flags;
	__be16 window;
	__be16 check;
	__be16 urgent;
};

/* decide: the address of a translation was cut, or its port is another node's by now */
static __framed bool translation_is_over(const struct connection *connection)
{
	struct addr address = connection->translated;

	if (address_has_ended(&address))
		return true;
	struct block *block = block_find(&address, connection->translated_port);
	return block && block->node != cfg.node;
}

/* decide: a policy covers by now what the pod had opened to the world before. What it opened to the
 * mesh is not the policy's affair: a row of the mesh may be missing.
 */
static __always_inline bool connection_is_covered(const struct packet *packet,
						  const struct connection *connection,
						  const struct pod *pod,
						  const struct zoned_addr *far)
{
	const struct addr *address = (const struct addr *)far;

	if (connection->destination_identity != IDENTITY_WORLD || is_proxied(far))
		return false;
	const struct egress *egress =
	    egress_find(pod->egress_class, address, packet->family, learned_identity(far));
	return egress && egress->action != EGRESS_NO_ROOM;
}

static __always_inline bool reset_may_tell(const struct packet *packet,
					   const struct connection *connection)
{
	return connection && packet->protocol == IPPROTO_TCP && packet->fragment == FRAGMENT_NONE &&
	       !is_syn(packet);
}

/* decide: whether both ends of the connection hear that a pod's packet is refused */
__global int reset_from_pod(const struct packet *packet, struct way *way,
			    const struct connection *connection, enum direction direction,
			    const struct pod *pod)
{
	if (!packet || !way || !connection || !pod || direction != DIRECTION_ORIGINAL ||
	    !reset_may_tell(packet, connection))
		return 0;
	way->kind.reset = is_egress(connection) ? translation_is_over(connection)
						: connection_is_covered(packet, connection, pod,
									destination_key(packet));
	return 0;
}

/* decide: a packet of the world to a pod that had opened the connection, which may have ended.
 * Returns 0 or a drop reason.
 */
static __framed int reset_to_pod(const struct packet *packet, struct way *way,
				 const struct connection *connection, enum direction direction,
				 const struct pod *pod)
{
	if (direction != DIRECTION_REPLY || !pod->egress_class || packet->tcp_flags & TCP_RST ||
	    !reset_may_tell(packet, connection) || is_egress(connection) ||
	    !connection_is_covered(packet, connection, pod, source_key(packet)))
		return 0;
	way->kind.reset = 1;
	return DROP_CONNECTION_ENDED;
}

/* decide: likewise a packet to the egress address. Returns 0 or a drop reason. */
static __always_inline int reset_of_reply(const struct packet *packet, struct way *way,
					  const struct connection *connection)
{
	if (!reset_may_tell(packet, connection) || !address_has_ended(&packet->destination))
		return 0;
	way->kind.reset = 1;
	return DROP_CONNECTION_ENDED;
}

static __always_inline void reset_counted(__u32 which)
{
	__u64 *count = bpf_map_lookup_elem(&mg_reset, &which);

	if (count)
		(*count)++;
}

/* act: `packet` becomes the opener's, a pod's of this node, with nothing but a TCP header. Returns
 * whether it had been the opener's packet.
 */
static __framed bool reset_turn(struct packet *packet)
{
	bool forth = packet->point == POINT_FROM_POD;

	packet->length = packet->l4 - L3_OFFSET + sizeof(struct tcp_header);
	packet->end = L3_OFFSET + packet->length;
	packet->dont_fragment = 1;
	packet->ttl = RESET_TTL;
	packet->sender = 0;
	if (forth)
		return true;
	struct tuple original;
	struct mapping *mapping = mapping_get(&packet->flow);
	if (mapping)
		original_tuple(&original, &packet->flow, mapping);
	else
		tuple_reverse(&original, &packet->flow);
	packet->flow = original;
	packet->source = original.source;
	packet->destination = original.destination;
	packet_in_zone(packet, original.zone);
	return false;
}

struct reset { /* one RST */
	struct addr source;
	struct addr destination;
	__be32 sequence;
	__be16 source_port;
	__be16 destination_port;
};

/* The sums that are there stay true: what is cut is taken off by the hook, and a header of IPv4
 * sums up to the same as before.
 */
static __framed long reset_write_v4(hook_t *ctx, const struct packet *packet,
				    const struct reset *reset)
{
	struct ipv4_header *ip = ip_header(ctx, sizeof(*ip));

	if (!ip)
		return -1;
	__be16 length = bpf_htons(packet->length);
	replace_ipv4(ip, ip->length, length);
	replace_ipv4(ip, bpf_htons(ip->ttl << 8), bpf_htons(RESET_TTL << 8));
	replace_ipv4(ip, ip->source, reset->source.w[3]);
	replace_ipv4(ip, ip->destination, reset->destination.w[3]);
	ip->length = length;
	ip->ttl = RESET_TTL;
	ip->source = reset->source.w[3];
	ip->destination = reset->destination.w[3];
	return 0;
}

static __framed long reset_write_v6(hook_t *ctx, const struct packet *packet,
				    const struct reset *reset)
{
	__be16 payload = bpf_htons(packet->length - sizeof(struct ipv6_header));
	__u32 at = L3_OFFSET + offsetof(struct ipv6_header, payload);
	__u8 hops = RESET_TTL;

	long failed = hook_store(ctx, at, &payload, sizeof(payload), BPF_F_RECOMPUTE_CSUM);
	at = L3_OFFSET + offsetof(struct ipv6_header, hop_limit);
	failed |= hook_store(ctx, at, &hops, sizeof(hops), BPF_F_RECOMPUTE_CSUM);
	at = L3_OFFSET + offsetof(struct ipv6_header, source);
	return failed |
	       hook_store(ctx, at, &reset->source, 2 * sizeof(struct addr), BPF_F_RECOMPUTE_CSUM);
}

/* act: the packet, cut already, becomes this RST. Returns 0 when it has. */
static __framed long reset_write(hook_t *ctx, const struct packet *packet,
				 const struct reset *reset, bool half)
{
	struct tcp_header tcp = {
	    .source = reset->source_port,
	    .destination = reset->destination_port,
	    .sequence = reset->sequence,
	    .length = sizeof(tcp) / 4 << 4,
	    .flags = TCP_RST,
	};
	/* Mapped to IPv6, an IPv4 address has the sum that it has alone. */
	__u64 sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(tcp));

	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&reset->source, 32, 0);
	if (!half)
		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&tcp, sizeof(tcp), 0);
	tcp.check = half ? ~fold(sum) : fold(sum);
	long failed = packet->family == 4 ? reset_write_v4(ctx, packet, reset)
					  : reset_write_v6(ctx, packet, reset);
	return failed | hook_store(ctx, packet->l4, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
}

/* act: an RST out of these, in that room; NULL when there is none */
static __framed struct reset *reset_of(const struct packet *packet, bool to_pod, __be32 sequence)
{
	struct reset *reset = SCRATCH(struct reset, SCRATCH_RESET);

	if (!reset)
		return NULL;
	reset->source = to_pod ? packet->destination : packet->source;
	reset->destination = to_pod ? packet->source : packet->destination;
	reset->sequence = sequence;
	reset->source_port = to_pod ? packet->flow.destination_port : packet->flow.source_port;
	reset->destination_port = to_pod ? packet->flow.source_port : packet->flow.destination_port;
	return reset;
}

struct reset_numbers { /* what each end expects next, as far as the packet says */
	__be32 pod;
	__be32 far;
	__u32 half; /* is_half_summed */
};

/* act: tell the pod, by a copy */
static __framed void reset_pod(hook_t *ctx, const struct packet *packet, const struct pod *pod,
			       const struct reset_numbers *numbers)
{
	struct reset *reset = reset_of(packet, true, numbers->pod);
	struct ethhdr eth = {.h_proto = hook_protocol(ctx)}, before;
	__u32 ifindex = pod->ifindex;

	if (!reset || hook_load(ctx, 0, &before, sizeof(before)))
		return;
	__builtin_memcpy(eth.h_dest, pod->mac, ETH_ALEN);
	__builtin_memcpy(eth.h_source, pod->host_mac, ETH_ALEN);
	if (reset_write(ctx, packet, reset, numbers->half) ||
	    hook_store(ctx, 0, &eth, sizeof(eth), 0))
		return;
	if (cfg.beside)
		hook_vouch(ctx); /* no mark goes to where mg_to_pod is */
	if (!hook_copy(ctx, ifindex, RESET_MARK))
		reset_counted(RESET_POD);
	if (!cfg.beside)
		return;
	hook_disown(ctx);
	hook_store(ctx, 0, &before, sizeof(before), 0); /* the other CNI's bridge goes by it */
}

/* decide: the gateway by which an address without a policy still leaves; 0: none */
static __always_inline __be32 ended_gateway(const struct packet *packet, struct translation *as)
{
	struct egress_addr *set = bpf_map_lookup_elem(&mg_ended, &as->address);
	if (!set || !set->count)
		return gateway_pick(packet, as);
	__u32 at = gateway_hash(packet) % set->count;
	return at < GATEWAYS ? set->node[at] : 0;
}

/* act: a connection without a translation is reset with the pod's own address once, and once more
 * for a challenge ACK, which has no payload. Returns whether this packet is the one.
 */
static __framed bool reset_is_due(struct connection *connection, bool challenge)
{
	__u32 before = __sync_fetch_and_or(&connection->flags, CONNECTION_RESET);

	if (!(before & CONNECTION_RESET))
		return true;
	if (!challenge)
		return false;
	before = __sync_fetch_and_or(&connection->flags, CONNECTION_CHALLENGED);
	return !(before & CONNECTION_CHALLENGED);
}

/* act: the table's entry has ended, too; it stays a while for the packets that are on their way */
static __framed void reset_note(const struct tuple *original, struct connection *connection)
{
	bool was_closed = is_closed(connection);

	__sync_fetch_and_or(&connection->flags, CONNECTION_RST);
	connection->seen = now_s();
	if (!was_closed && is_translated(connection))
		mapping_close(original, connection, 0);
}

/* act: the packet in hand becomes the RST for the far end; whether it has */
static __framed bool reset_far(hook_t *ctx, const struct packet *packet,
			       const struct reset_numbers *numbers)
{
	struct reset *reset = reset_of(packet, false, numbers->far);

	return reset && !reset_write(ctx, packet, reset, numbers->half);
}

/* act: tell the pod; true when the packet has become the RST for the far end, as the pod's own. A
 * packet without ACK has no answer, and RST is never answered.
 */
__global int reset_answer(hook_t *ctx, struct packet *packet)
{
	struct tcp_header said;
	__be16 half;

	if (!packet || hook_load(ctx, packet->l4, &said, sizeof(said)))
		return false;
	bool answers = (said.flags & (TCP_ACK | TCP_RST)) == TCP_ACK;
	bool bare = said.flags == TCP_ACK && packet->end == packet->l4 + (said.length >> 4) * 4;
	bool forth = reset_turn(packet);
	struct reset_numbers numbers = {
	    .pod = forth ? said.acknowledged : said.sequence,
	    .far = forth ? said.sequence : said.acknowledged,
	    .half = is_half_summed(ctx, packet->l4 + offsetof(struct tcp_header, check), &half)};
	struct connection *connection = connection_get(&packet->flow);
	struct pod *pod = pod_find(source_key(packet));
	if (!connection || !pod || !icmp_token() || hook_cut(ctx, packet->end))
		return false;
	packet->identity = pod->identity;
	reset_note(&packet->flow, connection);
	if (!forth || answers)
		reset_pod(ctx, packet, pod, &numbers);
	if (!forth && !answers)
		return false;
	if (!is_egress(connection) && !reset_is_due(connection, !forth && bare))
		return false;
	return icmp_token() && reset_far(ctx, packet, &numbers);
}

/* decide: out, as the pod's own packet. Outwards goes only what has an address and a port that
 * this node still holds. Returns 0 or a drop reason.
 */
static __framed int reset_way(hook_t *ctx, struct packet *packet, struct way *way)
{
	struct connection *connection = connection_get(&packet->flow);

	way->kind = (struct way_kind){};
	if (!connection)
		return DROP_NO_NAT_MAPPING;
	if (!is_egress(connection)) {
		reset_counted(RESET_BARE);
		if (packet->point == POINT_FROM_POD)
			return 0;
		return hop_way(ctx, packet, way, &packet->source, &packet->destination);
	}
	way->as.address = connection->translated;
	way->as.port = connection->translated_port;
	struct block *block = block_find(&way->as.address, way->as.port);
	way->as.owner = block ? block->node : 0;
	way->as.via = ended_gateway(packet, &way->as);
	if (way->as.owner != cfg.node || !way->as.via)
		return DROP_NO_BLOCK;
	reset_counted(RESET_FAR);
	return egress_way(ctx, packet, way);
}
