//! The engine on real AF_XDP sockets between network namespaces, without the daemon: what the kernel's stacks of two pods
//! see when the workers stand between them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use af_xdp::{Attachment, FrameLedger, FramePool, Interface, Region, SocketConfig, Steering, Umem, open_all};
use podgate_config::model::*;
use podgate_control::compiler::{Limits, Scope, compile_for};
use podgate_control::netlink::{parse_mac, write_sysctl};
use podgate_dataplane::counters::Snapshot as Counts;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::engine::{Engine, EngineConfig, Idle};
use podgate_dataplane::packet::{PortId, PortKind, WorkerId};
use podgate_dataplane::policy::Delivery;
use podgate_dataplane::port::AfXdpPort;
use podgate_dataplane::snapshot::{DirectRoutes, NodeAddresses, PortEntry, Snapshot};
use podgate_dataplane::worker::WorkerSettings;
use podgate_tests::cluster::{deny_ingress, ip, pod};
use podgate_tests::netns::{Nest, eventually, mac_of, run, skipped, try_run};

/// Two pods `a` and `b`, and an engine between them. Lives on a thread inside the gateway's namespace.
struct Gateway {
    /// The namespace.
    space: String,
    engine: Engine,
    ledger: FrameLedger,
    attachments: Vec<Attachment>,
    umem: Umem,
    cluster: Cluster,
    ports: Vec<PortEntry>,
    generation: u64,
}

impl Gateway {
    fn start(space: &str, cores: &[usize], idle: Idle, pods: &[(&str, &str, &str)]) -> Self {
        let (region, mut ledger) = Region::new(32 * 1024).unwrap();
        let umem = Umem::register(&region, &Interface::by_name("anchor0").unwrap(), 0).unwrap();
        let worker = WorkerSettings { frames: 4096, ..WorkerSettings::default() };
        let config = EngineConfig { cores: cores.to_vec(), idle, worker, retired: 16 };
        let engine = Engine::start(&config, &region, &mut ledger, Snapshot::closed()).unwrap();
        let mut gateway = Self {
            space: space.to_owned(),
            engine,
            ledger,
            attachments: Vec::new(),
            umem,
            cluster: Cluster::default(),
            ports: Vec::new(),
            generation: 1,
        };
        for (number, (name, v4, v6)) in pods.iter().enumerate() {
            let worker = WorkerId((number % cores.len()) as u8);
            gateway.attach(PortId(number as u16), worker, name, &[ip(v4), ip(v6)]);
        }
        gateway.publish();
        gateway
    }

    fn attach(&mut self, id: PortId, worker: WorkerId, name: &str, addresses: &[IpAddr]) {
        let device = format!("veth-{name}");
        let interface = Interface::by_name(&device).unwrap();
        let config =
            SocketConfig { receive: 1024, transmit: 1024, fill: 1024, completion: 1024, tx_budget: 256 };
        let mut pool: FramePool = self.ledger.pool(2048);
        let sockets = open_all(&self.umem, &interface, false, &config, &mut pool).unwrap();
        self.ledger.give_back_pool(pool);
        let attachment = Attachment::attach(&interface, Steering::Everything, &sockets, None).unwrap();
        self.attachments.push(attachment);
        let port = AfXdpPort::new(sockets).unwrap();
        self.engine.attach(id, PortKind::Pod, worker, Box::new(port)).unwrap();
        let entry = PortEntry {
            kind: PortKind::Pod,
            worker,
            spread: 0,
            mac: parse_mac(&mac_of(&self.space, &device)).unwrap(),
            peer_mac: [2, 0, 0, 0, 1, id.0 as u8],
            mtu: 1500,
            closed: false,
            addresses: addresses.into(),
            identity: u32::from(id.0) + 1,
        };
        self.ports.push(entry);
        let pod = pod(&format!("shop/{name}"), addresses);
        self.cluster.pods.insert(pod.name.clone(), pod);
    }

    fn publish(&mut self) {
        self.generation += 1;
        let delivery = |pod: &Pod| {
            let mut ports = self.ports.iter().enumerate();
            let (number, entry) = ports.find(|(_, entry)| *entry.addresses == *pod.addresses).unwrap();
            Delivery { identity: entry.identity, port: Some(PortId(number as u16)) }
        };
        let (limits, workers) = (Limits::default(), self.engine.workers());
        let compiled = compile_for(&self.cluster, Scope::AllPods, &limits, workers, delivery).unwrap();
        let snapshot = Snapshot {
            generation: self.generation,
            synced: true,
            policy: compiled.tables,
            ports: self.ports.iter().cloned().map(Some).collect(),
            host: None,
            node: NodeAddresses::new([ip("10.244.255.254")]),
            direct: DirectRoutes::default(),
        };
        self.engine.publish(snapshot).unwrap();
        eventually("the generation is in force", || self.engine.generation_in_force() == self.generation);
        self.engine.collect();
    }

    fn drops(&self) -> BTreeMap<DropReason, u64> {
        let mut sum = Counts::default();
        self.engine.views().for_each(|view| sum.add(&view.counters.snapshot()));
        let all = DropReason::ALL.iter().map(|reason| (*reason, sum.counts.drops(*reason).iter().sum()));
        all.filter(|(_, count)| *count > 0).collect()
    }

    fn stop(self) {
        let Self { engine, mut ledger, attachments, .. } = self;
        for attachment in attachments {
            attachment.detach().unwrap();
        }
        engine.stop(&mut ledger);
        assert_eq!(ledger.free(), ledger.total(), "frames are lost");
    }
}

/// Makes the namespaces and runs `test` inside the gateway's, with the pods' namespaces by name.
fn with_gateway(cores: &'static [usize], idle: Idle, test: impl FnOnce(&mut Gateway, &str, &str) + Send) {
    if skipped() {
        return;
    }
    let mut nest = Nest::new();
    let gateway = nest.add("gw");
    run(&format!("ip -n {gateway} link add anchor0 type veth peer name anchor1"));
    run(&format!("ip -n {gateway} link set anchor0 up"));
    let pods = [("a", "10.244.0.1", "fd00:10:244::1"), ("b", "10.244.0.2", "fd00:10:244::2")];
    let spaces = pods.map(|(name, v4, v6)| {
        let space = nest.add(name);
        // Or IPv6 is not there for the first two seconds.
        for scope in ["all", "default"] {
            let key = format!("net/ipv6/conf/{scope}/accept_dad");
            nest.open(&space).run(|| write_sysctl(&key, "0")).unwrap().unwrap();
        }
        let number = if name == "a" { 0 } else { 1 };
        run(&format!(
            "ip -n {gateway} link add veth-{name} type veth peer name eth0 address 02:00:00:00:01:0{number} netns {space}"
        ));
        run(&format!("ip -n {gateway} link set veth-{name} up"));
        run(&format!("ip -n {space} addr add {v4}/32 dev eth0"));
        run(&format!("ip -n {space} addr add {v6}/128 dev eth0 nodad"));
        run(&format!("ip -n {space} link set eth0 up"));
        run(&format!("ip -n {space} route add default via 169.254.1.1 dev eth0 onlink"));
        run(&format!("ip -n {space} -6 route add default via fe80::1 dev eth0"));
        space
    });
    let work = || {
        let mut engine = Gateway::start(&gateway, cores, idle, &pods);
        test(&mut engine, &spaces[0], &spaces[1]);
        engine.stop();
    };
    nest.open(&gateway).run(work).unwrap();
}

/// A process that ends with this, also if the test fails.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ping(space: &str, address: &str) -> bool {
    try_run(&format!("ip netns exec {space} ping -c 3 -i 0.1 -W 1 {address}")).status.success()
}

fn forward_tcp_and_obey(gateway: &mut Gateway, a: &str, b: &str) {
    for address in ["10.244.0.2", "fd00:10:244::2", "169.254.1.1"] {
        assert!(ping(a, address), "{address}: {:?}", gateway.drops());
    }
    let server = std::process::Command::new("ip")
        .args(["netns", "exec", b, "iperf3", "-s"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(server);
    eventually("iperf3 answers", || {
        try_run(&format!("ip netns exec {a} nc -z -w 1 10.244.0.2 5201")).status.success()
    });
    for address in ["10.244.0.2", "fd00:10:244::2"] {
        let report = run(&format!("ip netns exec {a} iperf3 -c {address} -t 2 -J"));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.unwrap_or_else(|| panic!("{report}")) / 1e9;
        eprintln!("TCP to {address}: {rate:.2} Gb/s");
        assert!(report["end"]["sum_received"]["bytes"].as_f64().unwrap() > 1e6);
    }
    // Deny: the next connection obeys, and established ones are cut.
    let deny = deny_ingress(Selector::everything());
    gateway.cluster.policies.insert(deny.name.clone(), deny.into());
    gateway.publish();
    for address in ["10.244.0.2", "fd00:10:244::2"] {
        assert!(!ping(a, address));
        let reached = try_run(&format!("ip netns exec {a} nc -z -w 1 {address} 5201")).status.success();
        assert!(!reached, "{address} is denied");
    }
    assert!(gateway.drops().contains_key(&DropReason::PolicyIngress), "{:?}", gateway.drops());
    gateway.cluster.policies.clear();
    gateway.publish();
    assert!(ping(a, "10.244.0.2"));
    drop(server);
    std::thread::sleep(Duration::from_millis(50));
    eprintln!("drops: {:?}", gateway.drops());
}

#[test]
fn two_pods_talk_under_policy_with_one_sleeping_worker() {
    with_gateway(&[0], Idle::Sleep, forward_tcp_and_obey);
}

#[test]
fn two_pods_talk_under_policy_with_two_workers() {
    with_gateway(&[0, 1], Idle::Sleep, forward_tcp_and_obey);
}

#[test]
fn two_pods_talk_under_policy_with_a_spinning_worker() {
    with_gateway(&[1], Idle::Spin, forward_tcp_and_obey);
}
