/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Expiry of connections and their mappings. The agent runs mg_sweep every few seconds, and
 * mg_forget when an address changes hands; BPF does it and not Python, because only a
 * compare-and-swap on `mapping.closed` keeps an entry that comes back to life, or whose port
 * changes hands, while it is being deleted.
 */
#include "hook_tc.h"
#include "bfd_session.h"
#include "handover.h"
#include "binding.h"
#include "egress.h"
#include "timers.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The argument of mg_sweep. Limits are seconds without a packet; what is not translated holds no
 * port, so it may go earlier than the RFCs on translation say. Of the limits for one-shots 0 stands
 * for that of all datagrams. A policy's own timers (timers.h) come before them.
 */
struct sweep {
	__u32 opening;	      /* TCP before its opener has answered, RFC 5382: 240 */
	__u32 established;    /* TCP, RFC 5382: 7440 or more */
	__u32 closed;	      /* TCP by FIN both ways or RST */
	__u32 datagram;	      /* UDP and others, RFC 4787: 300 */
	__u32 echo;	      /* ICMP, RFC 5508: 60 */
	__u32 plain_closed;   /* as closed, not translated */
	__u32 plain_datagram; /* as datagram, not translated */
	__u32 kept;	      /* result: entries left */
	__u32 expired;	      /* result: entries deleted */
	__u32 now;	      /* result: in the unit of `seen` */
	__u32 one_shot;	      /* a datagram or few, RFC 4787: 120 or more */
	__u32 known_answered; /* likewise, to ports up to 1023, for which RFC 4787 has no minimum */
	__u32 known_unanswered;
	__u32 plain_answered; /* one-shots that are not translated, ICMP too */
	__u32 plain_unanswered;
	__u32 plain_opening; /* as opening, not translated */
	__u32 run;	     /* a run of ports without a mapping */
	__u32 pressed;	     /* the limits are those of a table that is more than half full */
};

enum {
	KNOWN_PORTS = 1024,
	ONE_SHOT_UNITS = 1, /* of `seen`, from the first packet to the last one, at most */
	CUT_UNITS = 1,	    /* of `seen`, without a packet, on an address that was cut */
};

static __always_inline __u32 limit_of_one_shot(const struct sweep *sweep,
					       const struct tuple *original,
					       const struct connection *connection)
{
	bool answered = connection->flags & CONNECTION_REPLIED;
	bool known = bpf_ntohs(original->destination_port) < KNOWN_PORTS;
	bool echo = original->protocol != IPPROTO_UDP;

	if (!is_translated(connection))
		return answered ? sweep->plain_answered : sweep->plain_unanswered;
	if (echo)
		return 0;
	if (known)
		return answered ? sweep->known_answered : sweep->known_unanswered;
	return sweep->one_shot;
}

static __always_inline __u32 limit_of_datagrams(const struct sweep *sweep,
						const struct tuple *original,
						const struct connection *connection)
{
	bool stream = is_translated(connection)
			  ? connection->flags & CONNECTION_STREAM
			  : connection->seen - connection->opened > ONE_SHOT_UNITS;
	__u32 limit = stream ? 0 : limit_of_one_shot(sweep, original, connection);

	if (limit)
		return limit;
	if (original->protocol == IPPROTO_ICMP || original->protocol == IPPROTO_ICMPV6)
		return sweep->echo;
	return is_translated(connection) ? sweep->datagram : sweep->plain_datagram;
}

/* What a policy says of a connection; 0: nothing. When a table is more than half full, what may be
 * taken at any time keeps its entry no longer than others do.
 */
static __always_inline __u32 limit_of_policy(const struct sweep *sweep,
					     const struct tuple *original,
					     const struct connection *connection,
					     struct timers *timers)
{
	if (timers->used != sweep->now)
		timers->used = sweep->now;
	if (original->protocol == IPPROTO_TCP) {
		if (is_closed(connection))
			return sweep->pressed ? 0 : timers->transitory;
		return connection->flags & CONNECTION_REPLIED && !is_half_open(connection)
			   ? timers->established
			   : timers->transitory;
	}
	if (original->protocol != IPPROTO_UDP)
		return timers->echo;
	return sweep->pressed && !(connection->flags & CONNECTION_STREAM) ? 0 : timers->datagram;
}

/* decide: its address was evicted or denied, and neither end waits for a reset: the next datagram
 * takes another address, and TCP has ended. Open TCP stays: its next packet is answered by RST.
 */
static __always_inline bool is_cut(const struct tuple *original,
				   const struct connection *connection)
{
	if (!is_translated(connection) ||
	    (original->protocol == IPPROTO_TCP && !is_closed(connection)))
		return false;
	return address_has_ended(&connection->translated);
}

static __always_inline __u32 sweep_limit(const struct sweep *sweep, const struct tuple *original,
					 const struct connection *connection)
{
	if (is_cut(original, connection))
		return CUT_UNITS;

	struct timers *timers = timers_of(connection);
	__u32 limit = timers ? limit_of_policy(sweep, original, connection, timers) : 0;

	if (limit)
		return limit;
	if (original->protocol != IPPROTO_TCP)
		return limit_of_datagrams(sweep, original, connection);
	if (is_closed(connection))
		return is_translated(connection) ? sweep->closed : sweep->plain_closed;
	if (connection->flags & CONNECTION_REPLIED && !is_half_open(connection))
		return sweep->established;
	return is_translated(connection) ? sweep->opening : sweep->plain_opening;
}

/* act: false when its mapping is on its way to another connection */
static __framed bool sweep_delete(const struct tuple *original, const struct connection *connection)
{
	struct tuple reply;

	reply_tuple(&reply, original, &connection->translated, connection->translated_port);
	struct mapping *mapping = is_translated(connection) ? mapping_get(&reply) : NULL;
	if (!mapping || !mapping_is_of(mapping, original))
		return !connection_delete(original);
	__u64 closed = mapping->closed;
	if (closed == DYING || !mapping_swap(mapping, closed, DYING))
		return false;
	connection_delete(original);
	mapping_delete(&reply);
	return true;
}

static __framed void used_count(const struct tuple *original)
{
	__u32 table = connection_table(original);
	struct used *all = table_used(table), *others = table_used(USED_ASKED + table);
	bool asked;

	struct used *pod = used_by(original, &asked);
	if (!all || !others)
		return;
	all->counted++;
	if (!pod)
		return;
	pod->counted++;
	others->counted += asked;
}

/* act: the binding of a connection is in use */
static __framed void sweep_bound(const struct tuple *original, const struct connection *connection)
{
	struct bind_slot *slot = bind_slot();

	if (!slot)
		return;
	bind_key_of(&slot->key, original, &connection->translated);
	bind_touch(slot);
	connection_reply(&slot->reply, original, connection);
	struct binding *bound = bound_find(slot);
	if (bound && bound->kind == BINDING_FILTERED)
		contact_note(slot);
}

static __framed long sweep_one(const struct tuple *original, const struct connection *connection,
			       struct sweep *sweep)
{
	__u32 idle = sweep->now - connection->seen;

	/* Another CPU may have noted a packet after we read the clock. */
	if ((__s32)idle > (__s32)sweep_limit(sweep, original, connection) &&
	    sweep_delete(original, connection)) {
		sweep->expired++;
		return 0;
	}
	sweep->kept++;
	used_count(original);
	if (connection->flags & CONNECTION_BOUND)
		sweep_bound(original, connection);
	return 0;
}

/* act: the run of a live mapping is in use */
static __framed void sweep_run(const struct tuple *reply, const struct mapping *mapping)
{
	struct run_key key = {.address = reply->destination,
			      .number = run_of(reply->destination_port)};
	struct pod_runs_key pod = {.pod = mapping->pod,
				   .address = reply->destination,
				   .zone = mapping->zone,
				   .bound = mapping->bound};

	if (bpf_ntohs(reply->destination_port) >= 1024)
		run_see(&key, &pod);
}

/* act: a mapping whose connection is gone: the pod went (mg_forget), or two CPUs raced. One without
 * a connection may also be about to get it, so it has to be met twice. A closed one rests.
 */
static __framed long sweep_mapping(const struct tuple *reply, struct mapping *mapping,
				   const struct sweep *sweep)
{
	__u64 closed = mapping->closed;
	struct tuple original;

	original_tuple(&original, reply, mapping);
	struct connection *connection = connection_get(&original);
	if (closed == DYING || (connection && connection_holds(connection, reply))) {
		if (mapping->orphan)
			mapping->orphan = 0;
		sweep_run(reply, mapping);
		return 0;
	}
	if (!mapping->orphan)
		mapping->orphan = 1;
	else if (!closed)
		mapping_swap(mapping, 0, bpf_ktime_get_ns());
	else if ((__s32)(sweep->now - (__u32)(closed >> 30)) > (__s32)sweep->closed &&
		 mapping_swap(mapping, closed, DYING))
		mapping_delete(reply);
	return 0;
}

static __always_inline struct tuple tuple_wide(const struct tuple_v4 *key)
{
	struct tuple tuple = {.source_port = key->source_port,
			      .destination_port = key->destination_port,
			      .protocol = key->protocol,
			      .zone = key->zone};

	addr_from_v4(&tuple.source, key->source);
	addr_from_v4(&tuple.destination, key->destination);
	return tuple;
}

static long sweep_v4(void *map, const struct tuple_v4 *key, const struct connection *connection,
		     struct sweep *sweep)
{
	struct tuple original = tuple_wide(key);

	(void)map;
	return sweep_one(&original, connection, sweep);
}

static long sweep_v6(void *map, const struct tuple *key, const struct connection *connection,
		     struct sweep *sweep)
{
	struct tuple original = *key;

	(void)map;
	return sweep_one(&original, connection, sweep);
}

static long sweep_nat_v4(void *map, const struct tuple_v4 *key, struct mapping *mapping,
			 struct sweep *sweep)
{
	struct tuple reply = tuple_wide(key);

	(void)map;
	return sweep_mapping(&reply, mapping, sweep);
}

static long sweep_nat_v6(void *map, const struct tuple *key, struct mapping *mapping,
			 struct sweep *sweep)
{
	struct tuple reply = *key;

	(void)map;
	return sweep_mapping(&reply, mapping, sweep);
}

/* act: a run that no mapping uses any more goes back, and after its rest to whoever wants it */
static long sweep_lent(void *map, const struct run_key *key, struct run *run, struct sweep *sweep)
{
	__u32 idle = run_now() - run->used;
	struct run_key copy = *key;

	(void)map;
	if (run->returned) {
		if (bpf_ktime_get_ns() - run->returned > RUN_REST_S * NSEC_PER_SEC)
			run_free(&copy);
	} else if ((__s32)idle > (__s32)sweep->run) {
		run_return(&copy, run);
	}
	return 0;
}

/* act: what is known of a pod's runs goes with the pod */
static long sweep_pod_runs(void *map, const struct pod_runs_key *key, const struct pod_runs *runs,
			   void *context)
{
	struct zoned_addr pod = {.zone = key->zone};
	struct pod_runs_key copy = *key;

	(void)context;
	__builtin_memcpy(pod.w, &copy.pod, sizeof(pod.w));
	if (!runs->used && !pod_find(&pod))
		bpf_map_delete_elem(map, &copy);
	return 0;
}

static __always_inline bool is_unused(__u64 *used)
{
	__u64 before = *used;
	__s64 since = bpf_ktime_get_ns() - before;

	return before == DYING ||
	       (since > (__s64)(BINDING_REST_S * NSEC_PER_SEC) && swap(used, before, DYING));
}

/* act: its port goes last, so nobody has it before */
static __framed void bind_end(const struct bind_key *key, __be16 port)
{
	struct bind_key bound;

	bound_key(&bound, &key->address, port, key->protocol);
	bpf_map_delete_elem(&mg_bind, key);
	bpf_map_delete_elem(&mg_bind, &bound);
}

/* act: a binding that no connection has used for a while goes, and so does a contact */
static long sweep_bind(void *map, const struct bind_key *key, struct binding *binding,
		       void *context)
{
	struct bind_key copy = *key;

	(void)context;
	if (copy.kind == BIND_PORT || !is_unused(&binding->used))
		return 0;
	if (copy.kind == BIND_POD)
		bind_end(&copy, binding->port);
	else
		bpf_map_delete_elem(map, &copy);
	return 0;
}

struct forget { /* the argument of mg_forget */
	struct addr address;
	__u32 forgotten; /* result: entries deleted */
	__u16 zone;
	__u16 pad;
};

/* act: both directions, since an answer to what others opened leaves untranslated. The port rests
 * with its mapping: what still arrives for it is for nobody.
 */
static __framed long forget_one(const struct tuple *original, struct connection *connection,
				struct forget *forget)
{
	if (original->zone != forget->zone ||
	    (!addr_equal(&original->source, &forget->address) &&
	     !addr_equal(&original->destination, &forget->address)))
		return 0;
	__sync_fetch_and_or(&connection->flags, CONNECTION_RST);
	if (is_translated(connection))
		mapping_close(original, connection, 0);
	connection_delete(original);
	forget->forgotten++;
	return 0;
}

static long forget_v4(void *map, const struct tuple_v4 *key, struct connection *connection,
		      struct forget *forget)
{
	struct tuple original = tuple_wide(key);

	(void)map;
	return forget_one(&original, connection, forget);
}

static long forget_v6(void *map, const struct tuple *key, struct connection *connection,
		      struct forget *forget)
{
	struct tuple original = *key;

	(void)map;
	return forget_one(&original, connection, forget);
}

/* act: the runs of the pod go back at once: the next pod there has none of its predecessor's */
static long forget_run(void *map, const struct run_key *key, struct run *run,
		       const struct forget *forget)
{
	struct run_key copy = *key;

	(void)map;
	if (!run->returned && run->zone == forget->zone && addr_equal(&run->pod, &forget->address))
		run_return(&copy, run);
	return 0;
}

/* act: likewise its bindings */
static long forget_bind(void *map, const struct bind_key *key, struct binding *binding,
			const struct forget *forget)
{
	struct bind_key copy = *key;

	(void)map;
	if (copy.kind == BIND_POD && copy.zone == forget->zone &&
	    addr_equal(&copy.end, &forget->address))
		bind_end(&copy, binding->port);
	return 0;
}

static __always_inline void used_begin(struct used *used)
{
	used->counted = 0;
	used->begun = used->opened;
}

static __always_inline void used_end(struct used *used)
{
	used->held = used->counted;
	used->mark = used->begun;
}

static long pod_begin(void *map, const struct zoned_addr *pod, struct pod_used *used, void *context)
{
	(void)map;
	(void)pod;
	(void)context;
	used_begin(&used->opens);
	used_begin(&used->asked);
	return 0;
}

/* act: the count of a pod that has gone goes with its last entry */
static long pod_end(void *map, const struct zoned_addr *pod, struct pod_used *used, void *context)
{
	struct zoned_addr key = *pod;

	(void)context;
	used_end(&used->opens);
	used_end(&used->asked);
	if (!used_now(&used->opens) && !used_now(&used->asked) && !pod_find(&key))
		bpf_map_delete_elem(map, &key);
	return 0;
}

struct pods { /* of this node, by enum used_table */
	__u32 count[USED_TABLES];
};

static long pod_count(void *map, const struct zoned_addr *key, const struct pod *pod,
		      struct pods *pods)
{
	(void)map;
	(void)pod;
	bool v4 = !key->w[0] && !key->w[1] && key->w[2] == bpf_htonl(0xffff);
	pods->count[v4 ? USED_V4 : USED_V6]++;
	return 0;
}

static __framed void used_begin_all(void)
{
	for (int table = 0; table < USED_COUNTS; table++) {
		struct used *used = table_used(table);
		if (used)
			used_begin(used);
	}
	bpf_for_each_map_elem(&mg_pod_used, pod_begin, NULL, 0);
}

static __framed void used_end_all(void)
{
	struct pods pods = {};

	bpf_for_each_map_elem(&mg_pod_addr, pod_count, &pods, 0);
	for (int table = 0; table < USED_COUNTS; table++) {
		struct used *used = table_used(table);
		if (!used)
			continue;
		used_end(used);
		if (table < USED_TABLES)
			used->pods = pods.count[table];
	}
	bpf_for_each_map_elem(&mg_pod_used, pod_end, NULL, 0);
}

SEC("syscall")
int mg_sweep(struct sweep *ctx)
{
	struct sweep sweep = *ctx;

	sweep.kept = 0;
	sweep.expired = 0;
	sweep.now = bpf_ktime_get_ns() >> 30;
	used_begin_all();
	bpf_for_each_map_elem(&mg_ct_v4, sweep_v4, &sweep, 0);
	bpf_for_each_map_elem(&mg_ct_v6, sweep_v6, &sweep, 0);
	used_end_all();
	bpf_for_each_map_elem(&mg_nat_v4, sweep_nat_v4, &sweep, 0);
	bpf_for_each_map_elem(&mg_nat_v6, sweep_nat_v6, &sweep, 0);
	bpf_for_each_map_elem(&mg_bind, sweep_bind, NULL, 0);
	bpf_for_each_map_elem(&mg_run, sweep_lent, &sweep, 0);
	bpf_for_each_map_elem(&mg_pod_runs, sweep_pod_runs, NULL, 0);
	*ctx = sweep;
	return 0;
}

/* The connections of an address that changes hands: the next pod there must not go on with them. */
SEC("syscall")
int mg_forget(struct forget *ctx)
{
	struct forget forget = {.address = ctx->address, .zone = ctx->zone};

	if (addr_is_v4(&forget.address))
		bpf_for_each_map_elem(&mg_ct_v4, forget_v4, &forget, 0);
	else
		bpf_for_each_map_elem(&mg_ct_v6, forget_v6, &forget, 0);
	bpf_for_each_map_elem(&mg_run, forget_run, &forget, 0);
	bpf_for_each_map_elem(&mg_bind, forget_bind, &forget, 0);
	ctx->forgotten = forget.forgotten;
	return 0;
}

enum merge_action {
	MERGE_TAKE = 1, /* a marked connection: the other generation's entry takes its place */
	MERGE_GIVE_UP,	/* a marked connection that the other generation does not have */
	MERGE_FLAGS,	/* the other generation has these flags of an unmarked one */
	MERGE_MARK,	/* it is the other generation's; what is known of it here is out of date */
	MERGE_GIVE,	/* likewise, and what is known of it here is true */
};

struct merge { /* the argument of mg_merge */
	struct tuple original;
	struct connection connection; /* as the other generation has it */
	__u32 action;		      /* enum merge_action */
	__u32 merged;		      /* result: whether the entry was one for this action */
};

const volatile struct {
	enum merge_action *action;
} merge_schema = {};

static __framed void merge_flags(const struct tuple *original, struct connection *connection,
				 __u32 flags)
{
	bool was_closed = is_closed(connection);

	__sync_fetch_and_or(&connection->flags, flags);
	if (!(flags & CONNECTION_HALF_OPEN))
		__sync_fetch_and_and(&connection->flags, ~CONNECTION_HALF_OPEN);
	if (!was_closed && is_closed(connection) && is_translated(connection))
		mapping_close(original, connection, 0);
}

/* act: a translated one only with its mapping, which lives as long as the connection does */
static __framed bool merge_take(const struct tuple *original, const struct connection *fresh)
{
	struct tuple reply;

	if (!is_translated(fresh))
		return !connection_put(original, fresh, BPF_EXIST);
	connection_reply(&reply, original, fresh);
	if (is_closed(fresh))
		mapping_close(original, fresh, 0);
	else if (!mapping_revive(&reply, original))
		return false;
	return !connection_put(original, fresh, BPF_EXIST);
}

/* A connection goes from one generation to the other (handover.h). BPF does it and not Python: an
 * entry that a packet changes meanwhile must not be written over.
 */
SEC("syscall")
int mg_merge(struct merge *ctx)
{
	struct tuple original = ctx->original;
	struct connection fresh = ctx->connection;
	struct connection *connection = connection_get(&original);
	__u32 action = ctx->action;

	ctx->merged = 0;
	if (!connection)
		return 0;
	bool marked = connection->flags & CONNECTION_HANDED;
	ctx->merged = marked == (action == MERGE_TAKE || action == MERGE_GIVE_UP);
	if (!ctx->merged)
		return 0;
	if (action == MERGE_TAKE)
		ctx->merged = merge_take(&original, &fresh);
	else if (action == MERGE_GIVE_UP)
		connection_delete(&original);
	else if (action == MERGE_FLAGS)
		merge_flags(&original, connection, fresh.flags);
	else if (action == MERGE_MARK)
		connection->flags = CONNECTION_HANDED;
	else
		__sync_fetch_and_or(&connection->flags, CONNECTION_HANDED);
	return 0;
}

/* BFD: sessions whose timers a change of layouts has left behind, or former programs hold, run the
 * programs of now. What is armed begins anew, to the same end. The agent runs it when it starts.
 */
static long bfd_arm_one(__u32 index, void *argument __attribute__((unused)))
{
	struct bfd_session *session = bpf_map_lookup_elem(&mg_bfd_session, &index);
	__u64 now = bpf_ktime_get_ns();

	if (!session || session->state <= BFD_STATE_DOWN)
		return 0;
	__u64 end = session->seen + session->detection;
	bfd_watch(session, end > now ? end - now : 0);
	return 0;
}

SEC("syscall")
int mg_bfd_arm(void *argument __attribute__((unused)))
{
	bpf_loop(BFD_SESSIONS, bfd_arm_one, NULL, 0);
	return 0;
}
