"""Reference lines without any policy: the bare AF_XDP forwarder, and the kernel's own routing."""

from .system import System


class Forwarder(System):
    name = "forwarder"
    title = "bare AF_XDP forwarder (no policy)"
    cores = "own"
    routes = False
    judges = False

    def start(self, topology, tools, rules):
        child = topology.start("gw", tools.forwarder, "anchor0", "veth-src", "veth-dst", core=0)
        topology.wait_for(child, lambda: topology.log().count("queue(s)") == 2)


def spread_to_core_0(topology):
    """Receive packet steering: what comes from the sender is handled on the other core."""
    topology.run("gw", "sh", "-c", "echo 1 >/sys/class/net/veth-src/queues/rx-0/rps_cpus")


class Kernel(System):
    judges = False

    def __init__(self, spread):
        self.spread = spread
        self.name = "kernel-rps" if spread else "kernel"
        self.title = "kernel routing (no policy)" + (", RPS" if spread else "")
        self.cores = "both" if spread else "sender's"

    def start(self, topology, tools, rules):
        topology.kernel_routes()
        if self.spread:
            spread_to_core_0(topology)
