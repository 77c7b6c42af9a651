"""What was measured, as a Markdown table and as JSON. Pure: nothing here looks at the machine."""

import statistics

from traffic import NEW, Workload


class Results:
    def __init__(self, machine, load, seconds):
        self.machines = [machine]
        self.load = load
        self.seconds = seconds
        self.systems = []
        self.workloads = []
        self.figures = {}
        self.reasons = {}

    def machine_again(self, line):
        """The machine's line once more, as its core-to-core latency may have changed."""
        self.machines.append(line)

    def _know(self, system, workload):
        if system.name not in [each["name"] for each in self.systems]:
            self.systems.append({"name": system.name, "title": system.title, "cores": system.cores, "judges": system.judges})
        if workload not in self.workloads:
            self.workloads.append(workload)

    def add(self, system, workload, figures):
        self._know(system, workload)
        self.figures.setdefault((system.name, workload), []).append(figures)

    def fail(self, system, workload, reason):
        self._know(system, workload)
        self.reasons.setdefault((system.name, workload), []).append(reason)

    def rates(self, name, workload):
        """Packets a second of each round; those of a system without policies hold for any number of them."""
        found = self.figures.get((name, workload))
        if not found and workload.flows == 1000 and not self._judges(name):
            found = self.figures.get((name, Workload(0, 1000)))
        return [figures["arrived"] for figures in found or []]

    def _judges(self, name):
        return all(each["judges"] for each in self.systems if each["name"] == name)

    def median(self, name, workload):
        """None if it was not measured, or was wrong in any round."""
        rates = self.rates(name, workload)
        return statistics.median(rates) if rates and (name, workload) not in self.reasons else None

    def head(self):
        return head(self.machines, self.load)

    def cell(self, name, workload):
        if (name, workload) in self.reasons:
            return "no"
        rates = self.rates(name, workload)
        if not rates:
            return ""
        spread = f" ({min(rates) / 1e6:.2f} to {max(rates) / 1e6:.2f})" if len(rates) > 1 else ""
        return f"{statistics.median(rates) / 1e6:.3f}{spread}"

    def ratios(self, other, workload):
        """Podgate's rate by another's, in each round that has both."""
        pairs = zip(self.rates("podgate", workload), self.rates(other, workload))
        return [ours / theirs for ours, theirs in pairs if theirs]

    def markdown(self):
        columns = [describe(workload) for workload in self.workloads]
        lines = [self.head(), "",
                 f"Mpps that arrive, 60-byte UDP, medians of rounds of {self.seconds:g} s (lowest to highest).", ""]
        lines += row(["", "gateway's core", *columns], heading=True)
        for system in self.systems:
            cells = [self.cell(system["name"], workload) for workload in self.workloads]
            lines += row([system["title"], system["cores"], *cells])
        peers = [system for system in self.systems if system["name"] != "podgate"]
        if peers and len(peers) < len(self.systems):
            lines += ["", "Podgate by each, median of the rounds' ratios.", ""] + row(["", *columns], heading=True)
            for system in peers:
                cells = []
                for workload in self.workloads:
                    bad = any((name, workload) in self.reasons for name in ("podgate", system["name"]))
                    ratios = [] if bad else self.ratios(system["name"], workload)
                    cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
                lines += row([system["title"], *cells])
        if self.reasons:
            lines += ["", "Could not run, or not in every round:", ""]
            for (name, workload), reasons in self.reasons.items():
                lines.append(f"- {name}, {describe(workload)}: {'; '.join(sorted(set(reasons)))}")
        return "\n".join(lines) + "\n"

    def as_json(self):
        measured = [{"system": name, "policies": workload.policies, "flows": workload.flows,
                     "packets_per_second": [round(one["arrived"]) for one in figures],
                     "sent_per_second": [round(one["sent"]) for one in figures]}
                    for (name, workload), figures in self.figures.items()]
        failed = [{"system": name, "policies": workload.policies, "flows": workload.flows, "reasons": reasons}
                  for (name, workload), reasons in self.reasons.items()]
        return {"machine": self.machines, "load": self.load, "seconds": self.seconds, "systems": self.systems,
                "measured": measured, "failed": failed}


def head(machines, load):
    """What it was measured on; lines that say the same are said once."""
    text = "\n".join(dict.fromkeys(machines)) + f"\nload average at the start {load:.2f}"
    if load > 0.5:
        text += ": WARNING, something else was running, expected at most 0.5"
    return text


def describe(workload):
    flows = "every packet a new flow" if workload.flows == NEW else f"{workload.flows:,} flows"
    return f"{workload.policies:,} policies, {flows}"


def row(cells, heading=False):
    lines = ["| " + " | ".join(cells) + " |"]
    if heading:
        lines.append("|" + "---|" * len(cells))
    return lines
