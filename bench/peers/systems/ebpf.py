"""Own eBPF programs of Cilium's shape (src/policy.bpf.c), at tc or at XDP."""

from policy import as_lines
from topology import POD_MAC

from .system import System, write


class Ebpf(System):
    def __init__(self, where):
        self.where = where
        self.name = f"ebpf-{where}"
        self.title = f"eBPF as Cilium has it, {where}"

    def start(self, topology, tools, rules):
        listed = write(topology, "rules", as_lines(rules))
        child = topology.start("gw", tools.attach, self.where, tools.program, listed,
                               "veth-src", POD_MAC["src"], "veth-dst", POD_MAC["dst"])
        topology.wait_for(child, lambda: "ready" in topology.log())
