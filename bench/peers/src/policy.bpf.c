/* Programs of Cilium's shape: the source address becomes an identity by a longest-prefix match, established connections are in an
 * LRU hash, new ones ask a policy map by (identity, protocol, port), and what may pass is rewritten and redirected to the other
 * interface. One program for tc (clsact ingress), one for XDP. IPv4, UDP and TCP, no aging, no TCP state. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct prefix {
    __u32 bits, address;
};

struct connection {
    __u32 source, destination;
    __u16 source_port, destination_port;
    __u32 protocol;
};

/* As Cilium's policy map: what comes before the port must be equal, the port may be a prefix. */
struct policy {
    __u32 bits, identity;
    __u32 endpoint; /* the address that it protects */
    __u8 protocol, unused;
    __u16 port;
};

struct way {
    __u32 interface;
    __u8 source[6], destination[6];
};

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 131072);
    __type(key, struct prefix);
    __type(value, __u32);
} identities SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 262144);
    __type(key, struct connection);
    __type(value, __u64);
} connections SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __uint(max_entries, 131072);
    __type(key, struct policy);
    __type(value, __u8);
} policies SEC(".maps");

/* Where what comes in at an interface goes. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, struct way);
} ways SEC(".maps");

/* 0: no policy, everything may pass. */
volatile const __u32 enforced = 1;

/* The interface to leave by, or 0. */
static __always_inline __u32 judge(void *data, void *end, __u32 interface)
{
    struct ethhdr *ether = data;
    struct iphdr *ip = (void *)(ether + 1);
    __u16 *ports = (void *)(ip + 1);

    if ((void *)(ports + 2) > end || ether->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->ttl < 2 ||
        (ip->frag_off & bpf_htons(0x3fff)) || (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP))
        return 0;
    struct connection connection = {ip->saddr, ip->daddr, ports[0], ports[1], ip->protocol};
    struct connection reverse = {ip->daddr, ip->saddr, ports[1], ports[0], ip->protocol};
    __u64 now = bpf_ktime_get_ns();
    __u64 *seen = bpf_map_lookup_elem(&connections, &connection);
    if (!seen)
        seen = bpf_map_lookup_elem(&connections, &reverse);
    if (seen) {
        *seen = now;
    } else {
        if (enforced) {
            struct prefix from = {32, ip->saddr};
            __u32 *identity = bpf_map_lookup_elem(&identities, &from);
            struct policy wanted = {96, identity ? *identity : 0, ip->daddr, ip->protocol, 0, ports[1]};
            if (!bpf_map_lookup_elem(&policies, &wanted))
                return 0;
        }
        bpf_map_update_elem(&connections, &connection, &now, BPF_ANY);
    }
    struct way *way = bpf_map_lookup_elem(&ways, &interface);
    if (!way)
        return 0;
    __builtin_memcpy(ether->h_source, way->source, 6);
    __builtin_memcpy(ether->h_dest, way->destination, 6);
    __u32 sum = ip->check + bpf_htons(0x0100);
    ip->ttl--;
    ip->check = (__u16)(sum + (sum >> 16));
    return way->interface;
}

SEC("tc")
int judge_tc(struct __sk_buff *skb)
{
    __u32 to = judge((void *)(long)skb->data, (void *)(long)skb->data_end, skb->ifindex);
    return to ? bpf_redirect(to, 0) : TC_ACT_SHOT;
}

SEC("xdp")
int judge_xdp(struct xdp_md *xdp)
{
    __u32 to = judge((void *)(long)xdp->data, (void *)(long)xdp->data_end, xdp->ingress_ifindex);
    return to ? bpf_redirect(to, 0) : XDP_DROP;
}

char program_license[] SEC("license") = "GPL";
