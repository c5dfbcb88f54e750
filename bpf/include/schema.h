/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Types that Python reads from the object's BTF although no map and no function names them: clang
 * leaves out what nothing refers to.
 */
#pragma once
#include "types.h"
#include "verdict.h"

struct schema {
	struct event event; /* whole: of a struct behind a pointer only the name would remain */
	struct icmp_late icmp_late;
	enum drop_reason *drop_reason;
	enum event_verdict *event_verdict;
	enum event_point *event_point;
	enum address_kind *address_kind;
	enum egress_action *egress_action;
};

const volatile struct schema schema = {};
