//! Ports with several queues, on real packets: an uplink whose queues both workers serve, and queues, MTU and MAC addresses
//! that change while traffic runs; and neighbours on the uplink that have to be found.
//!
//! The node's kernel is given every chance to forward by itself: it may, and it knows the way to the pod that policy shuts
//! off. So a packet that got around the gateway would arrive, and the last test step shows that it would.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use podgate_control::netlink::write_sysctl;
use podgate_control::status::{PortState, PortStatus, Status};
use podgate_tests::harness::{namespace, pod, podgate};
use podgate_tests::netns::{Nest, run, skipped, try_run};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Networks behind the uplink, and an address there whose MAC address nobody has told.
const DIRECT: &str = "198.51.100.0/22";
const UNTOLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
const PODS: [(&str, Ipv4Addr); 3] = [
    ("a", Ipv4Addr::new(10, 244, 0, 1)),
    ("b", Ipv4Addr::new(10, 244, 0, 2)),
    ("c", Ipv4Addr::new(10, 244, 0, 3)),
];
/// Where datagrams are answered, and where those that must not arrive would.
const ECHO: u16 = 9000;
const SINK: u16 = 9001;
/// Flows of one [`Traffic`]: enough that each of four queues has some.
const FLOWS: usize = 32;

/// Nobody reaches c, and c reaches nobody.
const SHUT: &str = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: c, namespace: shop}\n\
    spec: {podSelector: {matchLabels: {app: c}}, policyTypes: [Ingress, Egress]}\n";

/// A node with three pods and an uplink, whose devices have four queues, and a gateway of two workers.
struct Node {
    nest: Nest,
    gateway: String,
    outside: String,
    pods: [String; 3],
    /// Packet buffers of the gateway.
    frames: u32,
    folder: tempfile::TempDir,
    process: Option<Child>,
}

/// A pair of devices with `active` of four queues each way at both ends.
fn wire(gateway: &str, near: &str, far: &str, active: u32) {
    let queues = "numrxqueues 4 numtxqueues 4";
    run(&format!("ip -n {gateway} link add {near} {queues} type veth peer name eth0 {queues} netns {far}"));
    set_queues(far, "eth0", active);
    set_queues(gateway, near, active);
    run(&format!("ip -n {gateway} link set {near} up"));
    run(&format!("ip -n {far} link set eth0 up"));
}

fn set_queues(space: &str, device: &str, count: u32) {
    run(&format!("ip netns exec {space} ethtool -L {device} rx {count} tx {count}"));
}

fn mac_of(space: &str, device: &str) -> String {
    let text = run(&format!("ip -n {space} -o link show {device}"));
    text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address").to_owned()
}

impl Node {
    fn new() -> Self {
        Self::with(32_768)
    }

    fn with(frames: u32) -> Self {
        let mut nest = Nest::new();
        let [gateway, outside] = ["gw", "out"].map(|name| nest.add(name));
        run(&format!("ip -n {gateway} addr add 10.244.255.254/32 dev lo"));
        let pods = PODS.map(|(name, address)| {
            let space = nest.add(name);
            wire(&gateway, &format!("v{name}"), &space, 1);
            run(&format!("ip -n {space} addr add {address}/32 dev eth0"));
            run(&format!("ip -n {space} route add default via 169.254.1.1 dev eth0 onlink"));
            space
        });
        wire(&gateway, "up0", &outside, 2);
        run(&format!("ip -n {outside} addr add {OUTSIDE}/32 dev eth0"));
        run(&format!("ip -n {outside} route add default via 169.254.1.1 dev eth0 onlink"));
        let (near, far) = (mac_of(&gateway, "up0"), mac_of(&outside, "eth0"));
        run(&format!("ip -n {outside} neigh replace 169.254.1.1 lladdr {near} nud permanent dev eth0"));
        run(&format!("ip -n {gateway} neigh replace {OUTSIDE} lladdr {far} nud permanent dev up0"));
        run(&format!("ip -n {gateway} route add {OUTSIDE}/32 dev up0"));
        // The temptation.
        nest.open(&gateway).run(|| write_sysctl("net/ipv4/ip_forward", "1")).unwrap().unwrap();
        let (name, address) = PODS[2];
        run(&format!("ip -n {gateway} rule add pref 10 lookup 100"));
        run(&format!("ip -n {gateway} route add {address}/32 dev v{name} table 100"));
        let mac = mac_of(&pods[2], "eth0");
        run(&format!("ip -n {gateway} neigh replace {address} lladdr {mac} nud permanent dev v{name}"));

        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bpf")).unwrap();
        let manifests = [namespace("shop")].into_iter().chain(PODS.map(|(name, _)| pod("shop", name, &[])));
        let manifests: String = manifests.chain([SHUT.to_owned()]).collect();
        fs::write(folder.path().join("pods.yaml"), manifests).unwrap();
        let mut node = Self { nest, gateway, outside, pods, frames, folder, process: None };
        node.start();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let set = |key: &str, name: &str| format!("--set={key}={}", self.path(name).display());
        let mut command = Command::new(podgate());
        command.args([
            "run",
            "--set=workers=2",
            "--set=ring_size=512",
            &format!("--set=frames={}", self.frames),
        ]);
        command.args(["--set=uplinks=up0", &format!("--set=direct={DIRECT}")]);
        command.args([set("socket", "socket"), set("ports_file", "ports.json"), set("bpffs", "bpf")]);
        command.arg("-f").arg(self.path("pods.yaml"));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.nest.open(&self.gateway).run(move || command.spawn().unwrap()).unwrap();
        self.process = Some(child);
        self.wait("the gateway answers", |node| node.try_status().is_some());
        for (name, address) in PODS {
            let (interface, pod) = (format!("v{name}"), format!("shop/{name}"));
            let address = address.to_string();
            let add = ["port", "add", "--interface", &interface, "--pod", &pod, "--address", &address];
            assert!(self.ask(&add).is_some(), "{}", self.log());
        }
        self.wait("it is ready", |node| node.status().ready);
    }

    fn ask(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new(podgate());
        let output = command.args(arguments).arg("--socket").arg(self.path("socket")).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    fn try_status(&self) -> Option<Status> {
        serde_json::from_slice(&self.ask(&["status", "-o", "json"])?).ok()
    }

    fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("no status; log:\n{}", self.log()))
    }

    fn port(&self, interface: &str) -> PortStatus {
        let ports = self.status().ports;
        ports.into_iter().find(|port| port.interface == interface).expect(interface)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn wait(&self, what: &str, mut until: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(15);
        while !until(self) {
            assert!(Instant::now() < end, "still not: {what}; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Packets of the uplink that each worker has received and sent.
    fn uplink_packets(&self, what: &str) -> [u64; 2] {
        let get = || {
            let mut stream = TcpStream::connect("127.0.0.1:9469").unwrap();
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let text = self.nest.open(&self.gateway).run(get).unwrap();
        [0, 1].map(|worker| {
            let labels = [format!("worker=\"{worker}\""), "kind=\"uplink\"".to_owned()];
            let name = format!("podgate_{what}_packets_total{{");
            let mut lines = text.lines().filter(|line| line.starts_with(&name));
            let line = lines.find(|line| labels.iter().all(|label| line.contains(label.as_str())));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a counter")
        })
    }

    /// Packets that each of the uplink's queues has given to its socket.
    fn redirected(&self) -> Vec<u64> {
        let text = run(&format!("ip netns exec {} ethtool -S up0", self.gateway));
        let counter = |line: &str| {
            let (name, value) = line.trim().split_once(": ")?;
            (name.starts_with("rx_queue_") && name.ends_with("_xdp_redirect")).then(|| value.parse().unwrap())
        };
        text.lines().filter_map(counter).collect()
    }

    /// Ends the gateway as a person would.
    fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        run(&format!("kill -TERM {}", process.id()));
        assert_eq!(process.wait().unwrap().code(), Some(0), "{}", self.log());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = nix::mount::umount(&self.path("bpf"));
    }
}

/// Threads that end with this.
#[derive(Default)]
struct Threads {
    stop: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(&mut self, mut step: impl FnMut() + Send + 'static) {
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

fn socket_in(nest: &Nest, space: &str, port: u16) -> UdpSocket {
    let socket = nest.open(space).run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

/// Answers every datagram with itself.
fn answer(threads: &mut Threads, socket: UdpSocket) {
    let mut bytes = [0; 64];
    threads.spawn(move || {
        if let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            // A pod whose port is opened anew may have no way for a moment.
            let _ = socket.send_to(&bytes[..length], peer);
        }
    });
}

/// Counts what arrives where nothing should.
fn sink(threads: &mut Threads, socket: UdpSocket) -> Arc<AtomicU64> {
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

/// Sends without end, from a flow of its own each time: whatever queue there is gets some.
fn shower(threads: &mut Threads, sockets: Vec<UdpSocket>, to: SocketAddr) {
    threads.spawn(move || {
        for socket in &sockets {
            let _ = socket.send_to(b"denied", to);
        }
        thread::sleep(Duration::from_millis(2));
    });
}

/// Numbered datagrams of many flows from outside to a pod, and their answers, which come in order or not at all.
struct Traffic {
    answers: Arc<Vec<AtomicU64>>,
}

impl Traffic {
    fn start(threads: &mut Threads, node: &Node, pod: Ipv4Addr) -> Self {
        let answers: Arc<Vec<AtomicU64>> = Arc::new((0..FLOWS).map(|_| AtomicU64::new(0)).collect());
        let sockets: Vec<UdpSocket> = (0..FLOWS)
            .map(|_| {
                let socket = socket_in(&node.nest, &node.outside, 0);
                // Connected: the kernel keeps the queue that it has chosen for a flow.
                socket.connect((pod, ECHO)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        let counts = answers.clone();
        let (mut number, mut last) = (0_u64, [0; FLOWS]);
        threads.spawn(move || {
            number += 1;
            for (flow, socket) in sockets.iter().enumerate() {
                let _ = socket.send(&number.to_be_bytes());
                let mut bytes = [0; 8];
                while socket.recv(&mut bytes).is_ok() {
                    let answer = u64::from_be_bytes(bytes);
                    assert!(answer > last[flow], "flow {flow}: {answer} after {}", last[flow]);
                    last[flow] = answer;
                    counts[flow].fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(Duration::from_millis(4));
        });
        Self { answers }
    }

    /// Waits until each flow has got this many more answers.
    fn flows_on(&self, node: &Node, what: &str) {
        let counts = || self.answers.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = counts();
        node.wait(what, |_| before.iter().zip(counts()).all(|(before, now)| now >= before + 20));
    }
}

/// Does this connection carry a line there and back?
fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut back).is_ok() && back == *b"hello"
}

#[test]
fn queues_are_shared_by_the_workers_and_may_change_under_traffic() {
    if skipped() {
        return;
    }
    let mut node = Node::new();
    let mut threads = Threads::default();
    for space in &node.pods[..2] {
        answer(&mut threads, socket_in(&node.nest, space, ECHO));
    }
    // What policy denies: from outside to c, and from c to outside.
    let (shut, address) = (&node.pods[2], PODS[2].1);
    let inside = sink(&mut threads, socket_in(&node.nest, shut, SINK));
    let beyond = sink(&mut threads, socket_in(&node.nest, &node.outside, SINK));
    let many =
        |space: &str| -> Vec<UdpSocket> { (0..FLOWS).map(|_| socket_in(&node.nest, space, 0)).collect() };
    shower(&mut threads, many(&node.outside), (address, SINK).into());
    shower(&mut threads, many(shut), (OUTSIDE, SINK).into());
    let nothing_passed = || {
        let passed = [&inside, &beyond].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(passed, [0, 0], "packets went around the gateway");
    };

    // Two queues, one a worker.
    assert_eq!(node.port("up0").workers, [0, 1]);
    let traffic = [0, 1].map(|pod| Traffic::start(&mut threads, &node, PODS[pod].1));
    traffic.iter().for_each(|traffic| traffic.flows_on(&node, "answers come"));
    let redirected = node.redirected();
    assert!(redirected.len() == 2 && redirected.iter().all(|count| *count > 0), "{redirected:?}");
    for what in ["received", "sent"] {
        let packets = node.uplink_packets(what);
        assert!(packets.iter().all(|count| *count > 0), "{what} by the uplink: {packets:?}");
    }
    let listener = node
        .nest
        .open(&node.pods[0])
        .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap())
        .unwrap();
    let client = || TcpStream::connect_timeout(&(PODS[0].1, 80).into(), Duration::from_secs(5)).unwrap();
    let mut client = node.nest.open(&node.outside).run(client).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 5];
        while server.read_exact(&mut bytes).is_ok() && server.write_all(&bytes).is_ok() {}
    });
    assert!(echoes(&mut client));

    // Two more. The other end may use them only when this one has them.
    set_queues(&node.gateway, "up0", 4);
    set_queues(&node.outside, "eth0", 4);
    node.wait("the uplink has a socket on each queue", |node| node.port("up0").workers == [0, 1, 0, 1]);
    traffic.iter().for_each(|traffic| traffic.flows_on(&node, "the flows go on"));
    let more = [0, 1].map(|pod| Traffic::start(&mut threads, &node, PODS[pod].1));
    more.iter().for_each(|traffic| traffic.flows_on(&node, "new flows, by all queues, are answered"));
    let redirected = node.redirected();
    assert!(redirected.len() == 4 && redirected.iter().all(|count| *count > 0), "{redirected:?}");
    assert!(echoes(&mut client), "the connection is still there");
    nothing_passed();
    let port = node.port("up0");
    assert_eq!((port.state, port.queue_changes), (PortState::Up, 1));
    assert!(node.log().contains("the queues of the interface have changed"), "{}", node.log());

    // A pod's port: all queues stay with its worker.
    for (place, (name, _)) in PODS.iter().enumerate() {
        let device = format!("v{name}");
        let before = node.port(&device).workers;
        assert_eq!(before.len(), 1);
        set_queues(&node.gateway, &device, 4);
        set_queues(&node.pods[place], "eth0", 4);
        node.wait("the pod's port has a socket on each queue", |node| {
            node.port(&device).workers == [before[0]; 4]
        });
    }
    [traffic, more].iter().flatten().for_each(|traffic| traffic.flows_on(&node, "the flows go on"));
    assert!(echoes(&mut client), "the connection is still there");
    nothing_passed();

    // Everything that was sent is accounted for: the gateway counts what it has lost.
    drop(threads);
    node.stop();
    assert!(!node.log().contains("frames were lost"), "{}", node.log());

    // Without the programs that it leaves, the kernel would forward what policy denies.
    let mut threads = Threads::default();
    let inside = sink(&mut threads, socket_in(&node.nest, &node.pods[2], SINK));
    let sockets = (0..FLOWS).map(|_| socket_in(&node.nest, &node.outside, 0)).collect();
    shower(&mut threads, sockets, (address, SINK).into());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(inside.load(Ordering::Relaxed), 0, "a dead gateway is closed");
    for entry in fs::read_dir(node.path("bpf")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "debug") {
            fs::remove_file(path).unwrap();
        }
    }
    node.wait("the kernel forwards by itself", |_| inside.load(Ordering::Relaxed) > 0);
}

/// A port that could not be opened anew is shut by its program alone, which goes with the port.
#[test]
fn a_port_that_could_not_be_opened_anew_stays_shut_when_it_is_removed() {
    if skipped() {
        return;
    }
    // Enough for the ports as they begin, and not for three more queues.
    let node = Node::with(2 * 4096 + 6 * 512 + 768);
    let mut threads = Threads::default();
    let beyond = sink(&mut threads, socket_in(&node.nest, &node.outside, SINK));
    let shut = &node.pods[2];
    let near = mac_of(&node.gateway, "vc");
    run(&format!("ip -n {shut} neigh replace 169.254.1.1 lladdr {near} nud permanent dev eth0"));
    let sockets = (0..FLOWS).map(|_| socket_in(&node.nest, shut, 0)).collect();
    shower(&mut threads, sockets, (OUTSIDE, SINK).into());
    let passed = || beyond.load(Ordering::Relaxed);

    set_queues(&node.gateway, "vc", 4);
    node.wait("there is no memory for the port", |node| {
        let port = node.port("vc");
        port.state == PortState::Down && port.detail.is_some_and(|detail| detail.contains("frames"))
    });
    assert!(node.ask(&["port", "remove", "--interface", "vc"]).is_some(), "{}", node.log());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(passed(), 0, "packets went around the gateway");
    // It is the device that is down, and nothing else.
    run(&format!("ip -n {} link set vc up", node.gateway));
    let mac = mac_of(shut, "eth0");
    run(&format!("ip -n {} route add {}/32 dev vc table 100", node.gateway, PODS[2].1));
    run(&format!("ip -n {} neigh replace {} lladdr {mac} nud permanent dev vc", node.gateway, PODS[2].1));
    node.wait("the kernel forwards by itself", |_| passed() > 0);
}

#[test]
fn a_pods_mtu_and_mac_address_are_followed() {
    if skipped() {
        return;
    }
    let node = Node::new();
    let (space, address) = (&node.pods[1], PODS[1].1);
    let ping = |size: u32| {
        let command = format!(
            "ip netns exec {} ping -c 1 -W 1 -M do -s {} {address}",
            node.outside,
            // Headers of IP and ICMP.
            size - 28
        );
        try_run(&command).status.success()
    };
    assert!(ping(1500), "{}", node.log());

    run(&format!("ip -n {space} link set eth0 address 02:00:00:00:77:01"));
    node.wait("the new MAC address is known", |node| {
        node.port("vb").mac.as_deref() == Some("02:00:00:00:77:01")
    });
    node.wait("the pod is reached by it", |_| ping(1500));

    // A larger packet would be dropped without a word by the kernel; the gateway answers with the new MTU.
    run(&format!("ip -n {space} link set eth0 mtu 1400"));
    node.wait("too large a packet is answered", |node| {
        assert!(!ping(1450), "a packet larger than the pod's MTU cannot be answered");
        node.status().drops.contains_key("packet_too_big")
    });
    assert!(ping(1400));

    run(&format!("ip -n {} link set eth0 mtu 3000", node.outside));
    run(&format!("ip -n {} link set up0 mtu 3000", node.gateway));
    run(&format!("ip -n {space} link set eth0 mtu 3000"));
    // The path's MTU is remembered outside.
    run(&format!("ip -n {} route flush cache", node.outside));
    node.wait("a larger packet passes both ways", |_| {
        run(&format!("ip -n {} route flush cache", node.outside));
        ping(3000)
    });
}

/// A pod tries every address of a network. It is told from others by the status, which find their neighbours meanwhile, and
/// what it wanted is forgotten.
#[test]
fn neighbours_are_found_beside_a_scan() {
    if skipped() {
        return;
    }
    let node = Node::new();
    run(&format!("ip -n {} addr add {UNTOLD}/32 dev eth0", node.outside));
    let scanner = socket_in(&node.nest, &node.pods[0], 0);
    let scan = || {
        for number in 1..1000_u32 {
            let address = Ipv4Addr::from_bits(OUTSIDE.to_bits() + 1 + number);
            let _ = scanner.send_to(b"anybody?", (address, SINK));
            if number.is_multiple_of(16) {
                // The workers tell of so many wanted neighbours at a time.
                thread::sleep(Duration::from_millis(5));
            }
        }
    };
    node.wait("the scan meets the limit", |node| {
        scan();
        node.port("va").neighbours.refused > 0
    });
    let named = |status: &Status| {
        let mut of = status.problems.iter().filter(|problem| problem.subject == "neighbours");
        of.any(|problem| problem.message.starts_with("shop/a has sent to "))
    };
    assert!(named(&node.status()), "{:?}", node.status().problems);
    let ping = format!("ip netns exec {} ping -c 1 -W 1 {UNTOLD}", node.pods[1]);
    node.wait("another pod finds its neighbour", |_| try_run(&ping).status.success());
    assert_eq!(node.port("vb").neighbours.refused, 0);
    // Each is looked for ten seconds and more.
    let end = Instant::now() + Duration::from_secs(60);
    while node.port("va").neighbours.wanted > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.port("va").neighbours.wanted, 0, "what nobody has found is forgotten");
    let listed = run(&format!("ip -n {} neigh show dev up0", node.gateway));
    assert!(listed.lines().count() < 10 && listed.contains(&UNTOLD.to_string()), "{listed}");
}
