"""Podgate itself: one worker that spins on core 0, policies as manifests."""

import os

from policy import as_manifests
from topology import DESTINATION, SOURCE, command

from .system import System, write


class Podgate(System):
    name = "podgate"
    title = "Podgate"
    cores = "own"

    def start(self, topology, tools, rules):
        manifests = write(topology, "manifests.json", as_manifests(rules))
        control = f"{topology.work}/podgate.sock"
        options = {"socket": control, "bpffs": f"{topology.work}/bpf", "ports_file": f"{topology.work}/ports.json",
                   "cores": 0, "workers": 1, "idle": "spin", "on_exit": "open"}
        for left in (control, options["ports_file"]):
            if os.path.exists(left):
                os.remove(left)
        child = topology.start("gw", tools.podgate, "run", "-f", manifests,
                               *(word for option in options.items() for word in ("--set", "%s=%s" % option)))
        topology.wait_for(child, lambda: os.path.exists(control))
        for pod, address in (("src", SOURCE), ("dst", DESTINATION)):
            command(tools.podgate, "port", "add", "--socket", control, "--interface", f"veth-{pod}",
                    "--pod", f"bench/{pod}", "--address", address)
