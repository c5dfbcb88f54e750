/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Answers that a pod gives with its own address, wherever a policy or a VRF leads what it asks
 * itself (S10). What others have sent opens no way out: the pod has to accept it.
 */
#pragma once
#include "conntrack.h"
#include "declared.h"

/* decide: a datagram of a pod, on a tuple on which others have sent first, is an answer if it
 * leaves from a declared port that no translated connection uses. What has begun so goes on.
 */
static __always_inline bool is_served(const struct packet *packet, struct connection *connection)
{
	if (connection->flags & CONNECTION_SERVED)
		return true;
	struct declared *port = declared_find(packet);
	if (!port || !is_servers(port))
		return false;
	__sync_fetch_and_or(&connection->flags, CONNECTION_SERVED);
	return true;
}

/* decide: a packet of a pod in the other direction of what others have opened keeps the pod's
 * address if the pod has accepted it; all else is translated. Whoever forges the other end's
 * address opens no way out: TCP is accepted by the pod's SYN-ACK, datagrams by its object
 * (is_served), and of ICMP only echo replies leave. Fragments behind the first go as the first one.
 */
static __framed bool egress_exempt(const struct packet *packet, struct connection *connection)
{
	if (!(connection->flags & CONNECTION_OPENED) || is_icmp_error(packet))
		return false;
	if (packet->protocol == IPPROTO_TCP)
		return !(connection->flags & CONNECTION_UNACCEPTED) || is_acceptance(packet);
	if (packet->protocol == IPPROTO_UDP)
		return is_served(packet, connection);
	return packet->icmp == ICMP_ECHO_ANSWER ||
	       (packet->fragment == FRAGMENT_LATER && packet->flow.destination_port);
}
