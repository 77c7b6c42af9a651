"""One measurement: is it right what the gateway does, and how many packets a second come out?"""

import json
import os
import subprocess
import time
from collections import namedtuple

from policy import DENIED_PORT, PORTS
from topology import DESTINATION, GATEWAY_MAC, POD_MAC, SOURCE, Failed, checksum, command, die_with_parent

NEW = "new"
"""Instead of a number of flows: every packet is of another flow, 3.2 million of them in turn."""

Workload = namedtuple("Workload", "policies flows")


def settle(longest=3.0):
    """Waits until the machine is idle: the kernel goes on to clear what the measurement before left."""
    end = time.monotonic() + longest
    calm = 0
    while calm < 2 and time.monotonic() < end:
        before = _idle()
        time.sleep(0.1)
        after = _idle()
        ticks = after[1] - before[1]
        calm = calm + 1 if ticks and (after[0] - before[0]) / ticks > 0.9 else 0


def _idle():
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def check(topology, system, policies):
    """What is allowed passes, with TTL and addresses rewritten, and so does its answer; what is denied does not."""
    arrived = topology.passes(PORTS[0], seconds=3)
    if arrived is None:
        raise Failed("wrong: allowed traffic did not pass")
    if system.routes:
        if arrived[:6] != bytes.fromhex(POD_MAC["dst"].replace(":", "")):
            raise Failed("wrong: not sent to the pod's MAC address")
        if arrived[22] != 63 or checksum(arrived[14:34]):
            raise Failed("wrong: TTL not decremented, or its checksum is wrong")
    if topology.passes(PORTS[0], reverse=True, seconds=1) is None:
        raise Failed("wrong: the answer to an allowed packet did not pass")
    if system.judges and policies and topology.passes(DENIED_PORT, seconds=0.3) is not None:
        raise Failed("wrong: denied traffic passed")


def flow_ports(flows):
    """Source and destination ports that make up so many flows; more than 50,000 must be a multiple of it."""
    low, high = PORTS
    if flows == NEW:
        return (10_000, 59_999), (low, high)
    return (10_000, 9_999 + min(flows, 50_000)), (low, low + (flows - 1) // 50_000)


def sending(topology, pktgen, pod, flows):
    """The generator's command line; from the pod dst, the answers."""
    source, destination = ("%d-%d" % ports for ports in flow_ports(flows))
    addresses = [SOURCE, DESTINATION]
    if pod == "dst":
        source, destination = destination, source
        addresses.reverse()
    return ["ip", "netns", "exec", topology.names[pod], pktgen, "send", "--interface", "eth0", "--source", addresses[0],
            "--destination", addresses[1], "--destination-mac", GATEWAY_MAC[pod], "--source-port", source,
            "--port", destination, "--flows", "every-packet" if flows == NEW else flows, "--core", "1", "--no-stamp",
            "-o", "json"]


def measure(topology, pktgen, workload, seconds):
    """Packets a second that arrive: frames of 60 bytes, the sender on core 1."""
    flows = workload.flows
    if flows != NEW:
        # Each flow is known before the clock starts, and answered once: until then connection tracking takes it for new.
        for pod in ("src", "dst"):
            command(*sending(topology, pktgen, pod, flows), "--rate", "400kpps", "--count", max(flows * 3 // 2, 10_000))
    sink = subprocess.Popen(
        ["ip", "netns", "exec", topology.names["dst"], pktgen, "sink", "--count-only", "-o", "json", "--interface", "eth0",
         "--seconds", str(seconds + 30)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=die_with_parent)
    topology.children.append(sink)
    time.sleep(0.2)
    settle()
    before = _received(topology)
    sent = json.loads(command(*sending(topology, pktgen, "src", flows), "--seconds", seconds))
    time.sleep(0.05)
    arrived = _received(topology) - before
    failed = sink.poll() is not None
    sink.terminate()
    _, error = sink.communicate()
    topology.children.remove(sink)
    if failed:
        raise Failed("sink: " + (error.strip().splitlines() or ["ended early"])[-1])
    return {"arrived": arrived / sent["seconds"], "sent": sent["sent"] / sent["seconds"]}


def _received(topology):
    """Packets that the pod dst's device has counted, dropped by the sink's program or not."""
    out = topology.ip("dst", "-json -statistics link show eth0")
    return json.loads(out)[0]["stats64"]["rx"]["packets"]


def pktgen_machine(pktgen):
    """Processor, kernel, cores and core-to-core latency of this moment, in a line."""
    return command(pktgen, "machine").strip()


def load():
    return os.getloadavg()[0]
