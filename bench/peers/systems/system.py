"""What every system has."""


class System:
    name = ""
    """On the command line."""
    title = ""
    """In the report."""
    routes = True
    """Decrements TTL and rewrites MAC addresses."""
    judges = True
    """Has policies and connections; without, a reference line that is measured once for each number of flows."""
    cores = "sender's"
    """Whose core does the gateway's work."""

    def start(self, topology, tools, rules):
        """Forwards by these rules (policy.py) when it returns."""
        raise NotImplementedError


def write(topology, name, text):
    path = f"{topology.work}/{name}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path
