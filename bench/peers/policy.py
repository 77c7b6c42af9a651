"""The same policies for every system: who may reach the pod dst; everything else to it is denied.

Rule i of N allows one address of its own to one TCP port. The one in the middle allows what is measured instead: UDP from the
pod src to 64 ports. So a list that is searched from its beginning is searched to the half.
"""

import json
from collections import namedtuple

from topology import DESTINATION, SOURCE

Rule = namedtuple("Rule", "protocol low high source destination")

PORTS = (4096, 4159)
DENIED_PORT = 4160
NUMBER = {"udp": 17, "tcp": 6}


def rules(count):
    """With 0 there is no policy at all, and everything may pass."""
    made = []
    for number in range(count):
        if number == count // 2:
            made.append(Rule("udp", *PORTS, SOURCE, DESTINATION))
            continue
        address = f"10.{64 + number // 65536}.{number // 256 % 256}.{number % 256}"
        port = number % 60000 + 1
        made.append(Rule("tcp", port, port, address, DESTINATION))
    return made


def as_lines(listed):
    """For the programs of src/, see rules.h."""
    return "".join(f"{NUMBER[rule.protocol]} {rule.low} {rule.high} {rule.source}/32 {rule.destination}/32\n"
                   for rule in listed)


def as_manifests(listed):
    """For Podgate: a List of Kubernetes objects, as JSON."""
    def pod(name, address):
        return {"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "bench", "labels": {"app": name}},
                "spec": {"containers": [{"name": "c"}]}, "status": {"podIPs": [{"ip": address}]}}

    items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bench"}},
             pod("src", SOURCE), pod("dst", DESTINATION)]
    for number, rule in enumerate(listed):
        peer = {"podSelector": {"matchLabels": {"app": "src"}}} if rule.source == SOURCE else \
            {"ipBlock": {"cidr": f"{rule.source}/32"}}
        port = {"protocol": rule.protocol.upper(), "port": rule.low}
        if rule.high != rule.low:
            port["endPort"] = rule.high
        items.append({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                      "metadata": {"name": f"rule-{number}", "namespace": "bench"},
                      "spec": {"podSelector": {"matchLabels": {"app": "dst"}},
                               "ingress": [{"from": [peer], "ports": [port]}]}})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
