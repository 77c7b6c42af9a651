/* The steering programs, for reading: steering.rs assembles the same instructions by hand, so that no compiler, ELF file or
 * build step is needed. Kept in step by hand; the tests in tests/steering.rs hold what is said here.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);			/* queue */
	__type(value, __u32);			/* socket */
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u8[16]);			/* IPv6 address; IPv4 as ::ffff:a.b.c.d */
	__type(value, __u32);			/* 1 */
} addresses SEC(".maps");

/* A pod's device: everything goes to the socket of the queue. No socket there, for instance because the process was killed:
 * drop. Never XDP_PASS: the host's kernel must not see a packet that no policy has judged.
 */
SEC("xdp.frags")
int pod(struct xdp_md *ctx)
{
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

/* A NIC of the host: only packets to this node's pods go to the socket, with the same fallback. Everything else passes to
 * the kernel, ARP and neighbour discovery included: a dead gateway must not cut off the node.
 */
SEC("xdp.frags")
int uplink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u32 key[4];

	if (data + 14 > end)
		return XDP_PASS;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + 14;

		if (data + 34 > end)
			return XDP_PASS;
		key[0] = 0;
		key[1] = 0;
		key[2] = bpf_htonl(0xffff);
		key[3] = ip->daddr;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + 14;

		if (data + 54 > end)
			return XDP_PASS;
		__builtin_memcpy(key, &ip->daddr, 16);
	} else {
		return XDP_PASS;
	}
	if (!bpf_map_lookup_elem(&addresses, key))
		return XDP_PASS;
	return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
}

/* Behind each of them, at the device's tcx hook, its barrier: what comes here was passed by the program above, or never seen by
 * it. veth runs XDP on the queues that were active when the program was attached; those that are activated later pass everything.
 */
SEC("tcx/ingress")
int pod_barrier(struct __sk_buff *skb)
{
	return TCX_DROP;
}

SEC("tcx/ingress")
int uplink_barrier(struct __sk_buff *skb)
{
	/* As `uplink`, with skb->data and skb->data_end, TCX_NEXT for XDP_PASS and TCX_DROP for the redirect; and a packet whose
	 * VLAN tag is in skb->vlan_present is none of ours, as it is none while the tag is in the packet.
	 */
}
