"""What is compared, by name, in the order of the report."""

from . import dpdk, ebpf, kernel, netfilter, ovs, podgate

ALL = [
    podgate.Podgate(),
    kernel.Forwarder(),
    kernel.Kernel(spread=False),
    kernel.Kernel(spread=True),
    dpdk.Gateway(),
    ovs.AfXdp(),
    ebpf.Ebpf("tc"),
    ebpf.Ebpf("xdp"),
    netfilter.Nftables("map"),
    netfilter.Nftables("map", spread=True),
    netfilter.Nftables("interval"),
    netfilter.Nftables("linear"),
    netfilter.Ipset(),
]
