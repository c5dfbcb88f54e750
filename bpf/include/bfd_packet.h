/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* BFD with routers: each control packet of a router that has a row in mg_bfd becomes ours and goes
 * back. So the router's own transmission drives ours, and no process of ours is needed, nor for a
 * session to come up. Our interval is the router's, which our Desired Min TX says.
 *
 * No packet is answered twice as fast as the router should send, so two that answer each other
 * cannot run away. Echo and demand mode are not offered. The packet goes back to the neighbour and
 * the device that it came from, multihop too.
 *
 * Source: RFC 5880, whose sections the comments name; 5881 for one hop, 5883 for several.
 */
#pragma once
#include "bfd_session.h"
#include "parse.h"
#include "way.h"

/* For a decision: the packet is no session's. No drop reason. */
#define NO_BFD (-3)

enum {
	BFD_PORT = 3784,	  /* RFC 5881 4 */
	BFD_MULTIHOP_PORT = 4784, /* RFC 5883 5 */
	BFD_TTL = 255,
	BFD_VERSION = 1,
	BFD_POLL = 0x20, /* of bfd_packet.state_flags */
	BFD_FINAL = 0x10,
	BFD_INDEPENDENT = 0x08, /* of the control plane */
	BFD_AUTHENTICATED = 0x04,
	BFD_DEMAND = 0x02,
	BFD_MULTIPOINT = 0x01,
	BFD_STATE_SHIFT = 6,
	BFD_VERSION_SHIFT = 5,
	BFD_DIAGNOSTIC_MASK = 0x1f,
};

struct bfd_datagram {
	__be16 source;
	__be16 destination;
	__be16 length;
	__be16 check;
	struct bfd_packet packet;
};

/* decide: a UDP packet to a port of BFD */
static __always_inline bool may_be_bfd(hook_t *ctx, const struct packet *packet)
{
	__be16 port;

	if (packet->protocol != IPPROTO_UDP || packet->fragment ||
	    packet_load(ctx, packet->l4 + sizeof(port), &port, sizeof(port)))
		return false;
	return port == bpf_htons(BFD_PORT) || port == bpf_htons(BFD_MULTIHOP_PORT);
}

/* look up: whether the section of authentication is the one that is configured; 6.7.2 */
static __framed bool bfd_authentic(hook_t *ctx, const struct packet *packet, const struct bfd *bfd)
{
	__u32 at = packet->l4 + sizeof(struct bfd_datagram), size = bfd->authentication_length;
	__u32 section[BFD_AUTHENTICATION / 4] = {}, differs = 0;

	if (!size)
		return false;
	APART(size); /* the verifier wants both bounds, one by one */
	if (size > sizeof(section) || hook_load(ctx, at, section, size))
		return false;
	for (int i = 0; i < BFD_AUTHENTICATION / 4; i++)
		differs |= section[i] ^ bfd->authentication[i];
	return !differs;
}

/* decide: the checks of 6.8.6 in their order */
static __always_inline enum bfd_refusal bfd_refuses(hook_t *ctx, const struct packet *packet,
						    const struct bfd *bfd,
						    const struct bfd_datagram *got)
{
	const struct bfd_packet *bytes = &got->packet;
	bool multihop = bfd->flags & BFD_MULTIHOP,
	     authenticated = bytes->state_flags & BFD_AUTHENTICATED;
	__u32 least = sizeof(*bytes) + (authenticated ? 2 : 0);
	__u32 room = bpf_ntohs(got->length), there = packet->end - packet->l4;

	if (got->destination != bpf_htons(multihop ? BFD_MULTIHOP_PORT : BFD_PORT))
		return BFD_REFUSED_PORT;
	if (!multihop && packet->ttl != BFD_TTL)
		return BFD_REFUSED_TTL;
	if (bytes->version_diagnostic >> BFD_VERSION_SHIFT != BFD_VERSION)
		return BFD_REFUSED_VERSION;
	if (bytes->length < least || bytes->length + 8U > room || room > there)
		return BFD_REFUSED_LENGTH;
	if (!bytes->multiplier)
		return BFD_REFUSED_MULTIPLIER;
	if (bytes->state_flags & BFD_MULTIPOINT)
		return BFD_REFUSED_MULTIPOINT;
	if (!bytes->mine)
		return BFD_REFUSED_MINE;
	if (bytes->yours && bytes->yours != bfd->discriminator)
		return BFD_REFUSED_YOURS;
	if (!bytes->yours && bytes->state_flags >> BFD_STATE_SHIFT > BFD_STATE_DOWN)
		return BFD_REFUSED_STATE;
	if (authenticated != !!bfd->authentication_length)
		return BFD_REFUSED_AUTHENTICATION;
	if (authenticated && (bytes->length != sizeof(*bytes) + bfd->authentication_length ||
			      !bfd_authentic(ctx, packet, bfd)))
		return BFD_REFUSED_AUTHENTICATION;
	return BFD_TAKEN;
}

/* A row that another router had before: nothing of that session is left but its timer. */
static __always_inline void bfd_begin(struct bfd_session *session, const struct bfd *bfd)
{
	if (session->mine == bfd->discriminator)
		return;
	__builtin_memset((void *)session + sizeof(session->timer), 0,
			 sizeof(*session) - sizeof(session->timer));
	session->mine = bfd->discriminator;
	session->state = BFD_STATE_DOWN;
	session->since = bpf_ktime_get_ns();
	bfd_show(bfd->number, BFD_UNKNOWN);
}

/* What the packet says of the router */
static __always_inline void bfd_note(struct bfd_session *session, const struct bfd_packet *got)
{
	session->theirs = got->mine;
	session->desired = bpf_ntohl(got->desired_tx);
	session->required = bpf_ntohl(got->required_rx);
	session->their_state = got->state_flags >> BFD_STATE_SHIFT;
	session->their_diagnostic = got->version_diagnostic & BFD_DIAGNOSTIC_MASK;
	session->their_multiplier = got->multiplier;
	session->seen = bpf_ktime_get_ns();
}

/* The interval at which the router sends, microseconds: until it has answered a Poll, by what it
 * knew of us before; 6.8.3 and 6.8.4
 */
static __always_inline __u64 bfd_their_interval(const struct bfd_session *session,
						const struct bfd *bfd)
{
	__u64 known = session->confirmed > bfd->interval ? session->confirmed : bfd->interval;

	return session->desired > known ? session->desired : known;
}

/* Our own: the router's, or the least multiple of it that the router takes; 6.8.3, 6.8.7 */
static __always_inline __u64 bfd_our_interval(const struct bfd_session *session, __u64 theirs)
{
	__u64 least = session->required;

	if (session->state != BFD_STATE_UP && least < BFD_SLOW_US)
		least = BFD_SLOW_US;
	if (!theirs || theirs >= least)
		return theirs;
	__u64 ours = (least + theirs - 1) / theirs * theirs;
	return ours > 0xffffffff ? 0xffffffff : ours;
}

/* decide: is it time for a packet? Of the packets of one interval the jitter of the router (75 to
 * 100 %) and our own delay make it early or late by half of the router's interval.
 */
static __always_inline bool bfd_is_due(const struct bfd_session *session, __u64 theirs, __u64 ours)
{
	return session->seen - session->sent >= (3 * ours - theirs) / 4 * 1000;
}

/* decide: our packet; 6.8.7 */
static __always_inline void bfd_fill(struct bfd_packet *packet, const struct bfd *bfd,
				     const struct bfd_session *session, __u64 interval, bool polled)
{
	bool polls = session->state == BFD_STATE_UP && session->confirmed != bfd->interval;

	packet->version_diagnostic = BFD_VERSION << BFD_VERSION_SHIFT | session->diagnostic;
	packet->state_flags = session->state << BFD_STATE_SHIFT | BFD_INDEPENDENT;
	if (polled)
		packet->state_flags |= BFD_FINAL;
	else if (polls)
		packet->state_flags |= BFD_POLL;
	if (bfd->authentication_length)
		packet->state_flags |= BFD_AUTHENTICATED;
	packet->multiplier = bfd->multiplier;
	packet->length = sizeof(*packet) + bfd->authentication_length;
	packet->mine = bfd->discriminator;
	packet->yours = session->theirs;
	packet->desired_tx = bpf_htonl(interval);
	packet->required_rx = bpf_htonl(bfd->interval);
	packet->required_echo = 0;
}

/* decide: what becomes of the session, and whether the packet goes back. A packet with F answers
 * ours: an answer to it would be answered again. Returns 0: the packet ends here, or goes by `way`.
 */
static __framed int bfd_take(hook_t *ctx, struct way *way, const struct bfd *bfd,
			     struct bfd_session *session, const struct bfd_packet *got)
{
	__u8 flags = got->state_flags;

	bfd_note(session, got);
	bool changed = bfd_step(session, bfd->number, bfd->flags & BFD_ENDING);
	if (flags & BFD_FINAL && session->state == BFD_STATE_UP && !changed)
		session->confirmed = bfd->interval;
	__u64 theirs = bfd_their_interval(session, bfd), ours = bfd_our_interval(session, theirs);
	session->detection = theirs * session->their_multiplier * 1000;
	if (session->state > BFD_STATE_DOWN)
		bfd_watch(session, session->detection);
	bool polled = flags & BFD_POLL && !(flags & BFD_FINAL);
	/* 6.6: demand mode is active only while both are up */
	bool demand = flags & BFD_DEMAND && session->state == BFD_STATE_UP &&
		      session->their_state == BFD_STATE_UP;
	bool wanted = session->required && !demand && !(flags & BFD_FINAL) &&
		      bfd_is_due(session, theirs, ours);
	/* a router that knows of the end is left alone: it forgets our discriminator */
	bool over = bfd->flags & BFD_ENDING && session->their_state <= BFD_STATE_DOWN;
	if (over || (!polled && !changed && !wanted)) {
		hook_to_nobody(ctx);
		return 0;
	}
	session->sent = session->seen;
	bfd_fill(&way->bfd, bfd, session, ours, polled);
	way->kind.act = ACT_BFD;
	way->kind.ttl = BFD_TTL;
	way->port = bfd->port;
	return 0;
}

/* decide: a packet to a port of BFD. Returns 0, NO_BFD or a drop reason. */
__global int bfd_way(hook_t *ctx, const struct packet *packet, struct way *way)
{
	struct bfd_datagram got;
	struct bfd_key key;

	if (!packet || !way)
		return NO_BFD;
	key.peer = packet->source;
	key.local = packet->destination;
	struct bfd *bfd = bpf_map_lookup_elem(&mg_bfd, &key);
	if (!bfd)
		return NO_BFD;
	__u32 number = bfd->number;
	struct bfd_session *session = bpf_map_lookup_elem(&mg_bfd_session, &number);
	if (!session)
		return NO_BFD;
	bfd_begin(session, bfd);
	enum bfd_refusal refusal = packet_load(ctx, packet->l4, &got, sizeof(got))
				       ? BFD_REFUSED_LENGTH
				       : bfd_refuses(ctx, packet, bfd, &got);
	if (refusal) {
		session->refused++;
		session->refusal = refusal;
		return DROP_BFD_REFUSED;
	}
	return bfd_take(ctx, way, bfd, session, &got.packet);
}
