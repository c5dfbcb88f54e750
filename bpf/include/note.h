/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A word from the XDP program of an uplink to its tc program, beside a packet of a VRF whose outer
 * headers are off. Only XDP writes there.
 */
#pragma once
#include <linux/types.h>

enum {
	NOTE_MAGIC = 0x6d672e31,
};

struct note {
	__u32 magic;
	__u32 vrf;
	__u32 identity; /* that the SID's argument has said; 0: none */
};
