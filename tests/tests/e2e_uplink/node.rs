//! A node with three pods and an uplink, and the threads of whoever talks to them.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use podgate_control::netlink::write_sysctl;
use podgate_tests::gateway::Gateway;
use podgate_tests::harness::{namespace, pod};
use podgate_tests::netns::{Nest, mac_of, run};

pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Networks behind the uplink, and an address there whose MAC address nobody has told.
const DIRECT: &str = "198.51.100.0/22";
pub const UNTOLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
pub const PODS: [(&str, Ipv4Addr); 3] = [
    ("a", Ipv4Addr::new(10, 244, 0, 1)),
    ("b", Ipv4Addr::new(10, 244, 0, 2)),
    ("c", Ipv4Addr::new(10, 244, 0, 3)),
];
/// Where datagrams are answered, and where those that must not arrive would.
pub const ECHO: u16 = 9000;
pub const SINK: u16 = 9001;

/// Nobody reaches c, and c reaches nobody.
const SHUT: &str = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: c, namespace: shop}\n\
    spec: {podSelector: {matchLabels: {app: c}}, policyTypes: [Ingress, Egress]}\n";

/// The namespaces, whose devices have four queues, and a gateway of two workers.
pub struct Node {
    pub gateway: Gateway,
    pub nest: Nest,
    /// The namespace of the gateway, that behind the uplink, and those of [`PODS`].
    pub space: String,
    pub outside: String,
    pub pods: [String; 3],
}

/// A pair of devices with `active` of four queues each way at both ends.
fn wire(space: &str, near: &str, far: &str, active: u32) {
    let queues = "numrxqueues 4 numtxqueues 4";
    run(&format!("ip -n {space} link add {near} {queues} type veth peer name eth0 {queues} netns {far}"));
    set_queues(far, "eth0", active);
    set_queues(space, near, active);
    run(&format!("ip -n {space} link set {near} up"));
    run(&format!("ip -n {far} link set eth0 up"));
}

pub fn set_queues(space: &str, device: &str, count: u32) {
    run(&format!("ip netns exec {space} ethtool -L {device} rx {count} tx {count}"));
}

impl Node {
    pub fn new() -> Self {
        Self::with(32_768)
    }

    /// With so many packet buffers.
    pub fn with(frames: u32) -> Self {
        let mut nest = Nest::new();
        let [space, outside] = ["gw", "out"].map(|name| nest.add(name));
        run(&format!("ip -n {space} addr add 10.244.255.254/32 dev lo"));
        let pods = PODS.map(|(name, address)| {
            let own = nest.add(name);
            wire(&space, &format!("v{name}"), &own, 1);
            run(&format!("ip -n {own} addr add {address}/32 dev eth0"));
            run(&format!("ip -n {own} route add default via 169.254.1.1 dev eth0 onlink"));
            own
        });
        wire(&space, "up0", &outside, 2);
        run(&format!("ip -n {outside} addr add {OUTSIDE}/32 dev eth0"));
        run(&format!("ip -n {outside} route add default via 169.254.1.1 dev eth0 onlink"));
        let (near, far) = (mac_of(&space, "up0"), mac_of(&outside, "eth0"));
        run(&format!("ip -n {outside} neigh replace 169.254.1.1 lladdr {near} nud permanent dev eth0"));
        run(&format!("ip -n {space} neigh replace {OUTSIDE} lladdr {far} nud permanent dev up0"));
        run(&format!("ip -n {space} route add {OUTSIDE}/32 dev up0"));
        // The temptation.
        nest.open(&space).run(|| write_sysctl("net/ipv4/ip_forward", "1")).unwrap().unwrap();
        let (name, address) = PODS[2];
        run(&format!("ip -n {space} rule add pref 10 lookup 100"));
        run(&format!("ip -n {space} route add {address}/32 dev v{name} table 100"));
        let mac = mac_of(&pods[2], "eth0");
        run(&format!("ip -n {space} neigh replace {address} lladdr {mac} nud permanent dev v{name}"));

        let manifests = [namespace("shop")].into_iter().chain(PODS.map(|(name, _)| pod("shop", name, &[])));
        let manifests: String = manifests.chain([SHUT.to_owned()]).collect();
        let (frames, direct) = (format!("frames={frames}"), format!("direct={DIRECT}"));
        let settings = ["workers=2", "ring_size=512", "uplinks=up0", &frames, &direct];
        let mut gateway = Gateway::start_in(&nest, &space, &settings, |folder| {
            fs::write(folder.join("pods.yaml"), manifests).unwrap();
        });
        for (name, address) in PODS {
            gateway.add_port(&format!("v{name}"), &format!("shop/{name}"), &[address.into()]);
        }
        gateway.wait("it is ready", |gateway| gateway.status().ready);
        Self { gateway, nest, space, outside, pods }
    }
}

/// Threads that end with this.
#[derive(Default)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Threads {
    pub fn spawn(&mut self, mut step: impl FnMut() + Send + 'static) {
        let stop = self.stop.clone();
        self.all.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                step();
            }
        }));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.all.drain(..) {
            let failed = thread.join().is_err();
            assert!(!failed || thread::panicking(), "a thread of the test has failed");
        }
    }
}

/// A socket inside a namespace, at any port if `port` is 0.
pub fn socket_in(nest: &Nest, space: &str, port: u16) -> UdpSocket {
    let socket = nest.open(space).run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Counts what arrives where nothing should.
pub fn sink(threads: &mut Threads, socket: UdpSocket) -> Arc<AtomicU64> {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = arrived.clone();
    let mut bytes = [0; 64];
    threads.spawn(move || {
        if socket.recv(&mut bytes).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    arrived
}
