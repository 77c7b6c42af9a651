"""A gateway of DPDK's parts (src/gateway.c) over its AF_XDP driver, spinning on core 0."""

import os

from policy import as_lines
from topology import POD_MAC

from .system import System, write


class Gateway(System):
    name = "dpdk"
    title = "DPDK gateway (rte_hash, rte_acl) on net_af_xdp"
    cores = "own"

    def start(self, topology, tools, rules):
        listed = write(topology, "rules", as_lines(rules))
        child = topology.start(
            "gw", tools.gateway, "--no-huge", "-m", "512", "--no-shconf", "--no-pci", "--no-telemetry", "-l", "0",
            "--vdev", "net_af_xdp0,iface=veth-src", "--vdev", "net_af_xdp1,iface=veth-dst",
            "--", listed, POD_MAC["src"], POD_MAC["dst"], env=dict(os.environ, RUNTIME_DIRECTORY=topology.work))
        topology.wait_for(child, lambda: "ready" in topology.log())
