"""Open vSwitch: userspace data path with connection tracking, AF_XDP ports, its thread on core 0; database and sockets of its
own in the measurement's folder."""

import os

from policy import NUMBER
from topology import GATEWAY_MAC, POD_MAC

from .system import System, write


class AfXdp(System):
    name = "ovs"
    title = "Open vSwitch, AF_XDP ports, conntrack"
    cores = "own"

    def start(self, topology, tools, rules):
        folder = f"{topology.work}/ovs"
        os.makedirs(folder, exist_ok=True)
        for left in os.listdir(folder):
            os.remove(f"{folder}/{left}")
        environment = dict(os.environ, OVS_RUNDIR=folder, OVS_LOGDIR=folder, OVS_DBDIR=folder, OVS_SYSCONFDIR=folder)
        database = f"unix:{folder}/db.sock"

        def run(*words):
            return topology.run("gw", *words, env=environment)

        run("ovsdb-tool", "create", f"{folder}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        server = topology.start("gw", "ovsdb-server", f"{folder}/conf.db", f"--remote=p{database}",
                                log="ovsdb.log", env=environment)
        topology.wait_for(server, lambda: os.path.exists(f"{folder}/db.sock"), log="ovsdb.log")
        run("ovs-vsctl", f"--db={database}", "--no-wait", "set", "Open_vSwitch", ".", "other_config:pmd-cpu-mask=1")
        switch = topology.start("gw", "/usr/lib/openvswitch-switch/ovs-vswitchd", database, log="ovs.log", env=environment)
        ports = [word for pod in ("src", "dst") for word in
                 ("--", "add-port", "br0", f"veth-{pod}", "--", "set", "Interface", f"veth-{pod}", "type=afxdp",
                  "options:xdp-mode=native", f"ofport_request={1 if pod == 'src' else 2}")]
        run("ovs-vsctl", f"--db={database}", "--timeout=20", "add-br", "br0", "--", "set", "Bridge", "br0",
            "datapath_type=netdev", "fail_mode=secure", *ports)
        topology.wait_for(switch, lambda: os.path.exists(f"{folder}/br0.mgmt"), log="ovs.log")
        flows = write(topology, "flows", self._flows(rules))
        run("ovs-ofctl", "--bundle", "add-flows", f"unix:{folder}/br0.mgmt", flows)

    @staticmethod
    def _flows(rules):
        def out(pod):
            return (f"dec_ttl,mod_dl_src:{GATEWAY_MAC[pod]},mod_dl_dst:{POD_MAC[pod]},"
                    f"output:{1 if pod == 'src' else 2}")

        lines = ["table=0,priority=10,ip,actions=ct(table=1)",
                 f"table=1,priority=20,ip,ct_state=+trk+est,in_port=1,actions={out('dst')}",
                 f"table=1,priority=20,ip,ct_state=+trk+est,in_port=2,actions={out('src')}"]
        allow = f"actions=ct(commit),{out('dst')}"
        if not rules:
            lines.append(f"table=1,priority=10,ip,ct_state=+trk+new,in_port=1,{allow}")
        for rule in rules:
            # The range is one of a power of two, at a multiple of it.
            mask = 0xffff & ~(rule.high - rule.low)
            lines.append(f"table=1,priority=10,ct_state=+trk+new,in_port=1,ip,nw_proto={NUMBER[rule.protocol]},"
                         f"nw_src={rule.source},nw_dst={rule.destination},tp_dst={rule.low:#x}/{mask:#x},{allow}")
        return "\n".join(lines) + "\n"
