/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Refused by the verifier. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tc")
int mg_door_bad(struct __sk_buff *ctx)
{
	return *(int *)(long)ctx->data;
}

char _license[] SEC("license") = "Dual BSD/GPL";
