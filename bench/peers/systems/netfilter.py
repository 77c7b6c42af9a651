"""The kernel's packet filters: connection tracking first, then the policies as such rule sets keep them, then drop."""

from .kernel import spread_to_core_0
from .system import System, write


class Nftables(System):
    def __init__(self, kind, spread=False):
        self.kind = kind
        self.spread = spread
        self.name = f"nft-{kind}" + ("-rps" if spread else "")
        kinds = {"map": "verdict map", "interval": "interval set", "linear": "rule after rule"}
        self.title = f"nftables, {kinds[kind]}" + (", RPS" if spread else "")
        self.cores = "both" if spread else "sender's"

    def start(self, topology, tools, rules):
        text = self._ruleset(rules)
        topology.run("gw", "nft", "-f", write(topology, "ruleset.nft", text))
        topology.kernel_routes()
        if self.spread:
            spread_to_core_0(topology)

    def _ruleset(self, rules):
        key = "type ipv4_addr . ipv4_addr . inet_proto . inet_service"
        asked = "ip saddr . ip daddr . meta l4proto . th dport"
        kept, body = "", []
        if rules and self.kind == "map":
            elements = [f"{rule.source} . {rule.destination} . {rule.protocol} . {port} : accept"
                        for rule in rules for port in range(rule.low, rule.high + 1)]
            kept = f"map allowed {{ {key} : verdict; elements = {{ {', '.join(elements)} }}; }}"
            body = [f"{asked} vmap @allowed"]
        elif rules and self.kind == "interval":
            elements = [f"{rule.source} . {rule.destination} . {rule.protocol} . {ports(rule)}" for rule in rules]
            kept = f"set allowed {{ {key}; flags interval; elements = {{ {', '.join(elements)} }}; }}"
            body = [f"{asked} @allowed accept"]
        elif rules:
            body = [f"ip saddr {rule.source} ip daddr {rule.destination} {rule.protocol} dport {ports(rule)} accept"
                    for rule in rules]
        otherwise = "drop" if rules else "accept"
        lines = "\n".join(body)
        return f"""table ip podgate_peers {{
{kept}
chain forward {{
type filter hook forward priority 0; policy {otherwise};
ct state established,related accept
{lines}
}}
}}
"""


def ports(rule):
    return f"{rule.low}-{rule.high}" if rule.high != rule.low else f"{rule.low}"


class Ipset(System):
    name = "ipset"
    title = "iptables + ipset"

    def start(self, topology, tools, rules):
        lines = ["*filter", f":FORWARD {'DROP' if rules else 'ACCEPT'} [0:0]",
                 "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
        if rules:
            members = [f"add allowed {rule.destination},{rule.protocol}:{ports(rule)},{rule.source}" for rule in rules]
            text = "create allowed hash:ip,port,ip maxelem 1048576\n" + "\n".join(members) + "\n"
            topology.run("gw", "ipset", "restore", "-file", write(topology, "ipset", text))
            lines.append("-A FORWARD -m set --match-set allowed dst,dst,src -j ACCEPT")
        text = "\n".join(lines) + "\nCOMMIT\n"
        topology.run("gw", "iptables-restore", write(topology, "iptables", text))
        topology.kernel_routes()
