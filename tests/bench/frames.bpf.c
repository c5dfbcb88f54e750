/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Both ends of a measurement: `generate` fills live frames of BPF_PROG_RUN, `sink` counts what
 * arrives and drops it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HEAD 80 /* Ethernet, IP, UDP or TCP, and some payload: as much as a packet has of it */
#define UDP  17

struct frame {
	__u64 head[HEAD / 8];
	__u32 l4;  /* offset of the UDP or TCP header */
	__u32 sum; /* of everything that its checksum covers, ports zero */
	__u32 source_port;
	__u32 destination_port;
	__u32 source_ports; /* a power of two; flows beyond go to the next destination port */
	__u32 flows;	    /* a power of two */
	__u32 act;	    /* XDP_PASS */
	__u32 check;	    /* place of the checksum in the header, in 16 bits */
};

struct wanted { /* what counts as arrived: UDP from this source */
	__u8 source[16];
	__u32 source_bytes;
	__u32 source_at; /* offset of the source address */
	__u32 protocol_at;
};

const volatile struct frame frame = {};
const volatile struct wanted wanted = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} mgb_sent SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} mgb_arrived SEC(".maps");

/* Pages of live frames come back as earlier programs left them: every byte is written. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *head = data;
	__u32 zero = 0;

	__u64 *sent = bpf_map_lookup_elem(&mgb_sent, &zero);
	if (!sent)
		return XDP_ABORTED;
	for (__u32 i = 0; i < HEAD / 8 && (void *)(head + i + 1) <= end; i++)
		head[i] = frame.head[i];
	__u32 flow = (*sent)++ & (frame.flows - 1);
	__u32 source = frame.source_port + (flow & (frame.source_ports - 1));
	__u32 destination = frame.destination_port + flow / frame.source_ports;
	__u32 sum = frame.sum + source + destination;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	__be16 *l4 = data + (frame.l4 & 63);
	__u32 check = frame.check;
	if (check > 8 || (void *)(l4 + 9) > end)
		return XDP_ABORTED;
	l4[0] = bpf_htons(source);
	l4[1] = bpf_htons(destination);
	l4[check] = bpf_htons(~sum & 0xffff ?: 0xffff);
	return frame.act;
}

SEC("tc")
int sink(struct __sk_buff *ctx)
{
	__u8 source[16] = {}, protocol = 0;
	__u32 zero = 0;
	int differ = 0;

	__u64 *arrived = bpf_map_lookup_elem(&mgb_arrived, &zero);
	if (!arrived || bpf_skb_load_bytes(ctx, wanted.protocol_at, &protocol, 1))
		return TC_ACT_OK;
	if (wanted.source_bytes == 4)
		bpf_skb_load_bytes(ctx, wanted.source_at, source, 4);
	else
		bpf_skb_load_bytes(ctx, wanted.source_at, source, 16);
	for (__u32 i = 0; i < 16; i++)
		differ |= source[i] ^ wanted.source[i];
	if (protocol != UDP || differ)
		return TC_ACT_OK;
	(*arrived)++;
	return TC_ACT_SHOT;
}

SEC("tc")
int empty(struct __sk_buff *ctx __attribute__((unused)))
{
	return TC_ACT_OK;
}
