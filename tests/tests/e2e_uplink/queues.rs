//! Ports with several queues: an uplink whose queues both workers serve, pods' ports whose queues stay with one of them, and
//! queues that change while traffic runs.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use podgate_control::status::PortState;
use podgate_tests::gateway::Gateway;
use podgate_tests::netns::{eventually, mac_of, run, skipped};

use crate::node::{ECHO, Node, OUTSIDE, PODS, SINK, Threads, set_queues, sink, socket_in};

/// Flows of one [`Traffic`]: enough that each of four queues has some.
const FLOWS: usize = 32;

/// Packets of the uplink that each worker has received and sent.
fn uplink_packets(node: &Node, what: &str) -> [u64; 2] {
    let get = || {
        let mut stream = TcpStream::connect("127.0.0.1:9469").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = node.nest.open(&node.space).run(get).unwrap();
    [0, 1].map(|worker| {
        let labels = [format!("worker=\"{worker}\""), "kind=\"uplink\"".to_owned()];
        let name = format!("podgate_{what}_packets_total{{");
        let mut lines = text.lines().filter(|line| line.starts_with(&name));
        let line = lines.find(|line| labels.iter().all(|label| line.contains(label.as_str())));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a counter")
    })
}

/// Packets that each of the uplink's queues has given to its socket.
fn redirected_packets(node: &Node) -> Vec<u64> {
    let text = run(&format!("ip netns exec {} ethtool -S up0", node.space));
    let counter = |line: &str| {
        let (name, value) = line.trim().split_once(": ")?;
        (name.starts_with("rx_queue_") && name.ends_with("_xdp_redirect")).then(|| value.parse().unwrap())
    };
    text.lines().filter_map(counter).collect()
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
    fn flows_on(&self, gateway: &mut Gateway, what: &str) {
        let counts = || self.answers.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = counts();
        gateway.wait(what, |_| before.iter().zip(counts()).all(|(before, now)| now >= before + 20));
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
    assert_eq!(node.gateway.port("up0").workers, [0, 1]);
    let traffic = [0, 1].map(|pod| Traffic::start(&mut threads, &node, PODS[pod].1));
    traffic.iter().for_each(|traffic| traffic.flows_on(&mut node.gateway, "answers come"));
    let redirected = redirected_packets(&node);
    assert!(redirected.len() == 2 && redirected.iter().all(|count| *count > 0), "{redirected:?}");
    for what in ["received", "sent"] {
        let packets = uplink_packets(&node, what);
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
    set_queues(&node.space, "up0", 4);
    set_queues(&node.outside, "eth0", 4);
    node.gateway
        .wait("the uplink has a socket on each queue", |gateway| gateway.port("up0").workers == [0, 1, 0, 1]);
    traffic.iter().for_each(|traffic| traffic.flows_on(&mut node.gateway, "the flows go on"));
    let more = [0, 1].map(|pod| Traffic::start(&mut threads, &node, PODS[pod].1));
    more.iter()
        .for_each(|traffic| traffic.flows_on(&mut node.gateway, "new flows, by all queues, are answered"));
    let redirected = redirected_packets(&node);
    assert!(redirected.len() == 4 && redirected.iter().all(|count| *count > 0), "{redirected:?}");
    assert!(echoes(&mut client), "the connection is still there");
    nothing_passed();
    let port = node.gateway.port("up0");
    assert_eq!((port.state, port.queue_changes), (PortState::Up, 1));
    assert!(
        node.gateway.log().contains("the queues of the interface have changed"),
        "{}",
        node.gateway.log()
    );

    // A pod's port: all queues stay with its worker.
    for (place, (name, _)) in PODS.iter().enumerate() {
        let device = format!("v{name}");
        let before = node.gateway.port(&device).workers;
        assert_eq!(before.len(), 1);
        set_queues(&node.space, &device, 4);
        set_queues(&node.pods[place], "eth0", 4);
        node.gateway.wait("the pod's port has a socket on each queue", |gateway| {
            gateway.port(&device).workers == [before[0]; 4]
        });
    }
    [traffic, more]
        .iter()
        .flatten()
        .for_each(|traffic| traffic.flows_on(&mut node.gateway, "the flows go on"));
    assert!(echoes(&mut client), "the connection is still there");
    nothing_passed();

    // Everything that was sent is accounted for: the gateway counts what it has lost.
    drop(threads);
    node.gateway.stop();
    assert!(!node.gateway.log().contains("frames were lost"), "{}", node.gateway.log());

    // Without the programs that it leaves, the kernel would forward what policy denies.
    let mut threads = Threads::default();
    let inside = sink(&mut threads, socket_in(&node.nest, &node.pods[2], SINK));
    let sockets = (0..FLOWS).map(|_| socket_in(&node.nest, &node.outside, 0)).collect();
    shower(&mut threads, sockets, (address, SINK).into());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(inside.load(Ordering::Relaxed), 0, "a dead gateway is closed");
    for entry in fs::read_dir(node.gateway.pins()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "debug") {
            fs::remove_file(path).unwrap();
        }
    }
    eventually("the kernel forwards by itself", || inside.load(Ordering::Relaxed) > 0);
}

/// A port that could not be opened anew is shut by its program alone, which goes with the port.
#[test]
fn a_port_that_could_not_be_opened_anew_stays_shut_when_it_is_removed() {
    if skipped() {
        return;
    }
    // Enough for the ports as they begin, and not for three more queues.
    let mut node = Node::with(2 * 4096 + 6 * 512 + 768);
    let mut threads = Threads::default();
    let beyond = sink(&mut threads, socket_in(&node.nest, &node.outside, SINK));
    let shut = &node.pods[2];
    let near = mac_of(&node.space, "vc");
    run(&format!("ip -n {shut} neigh replace 169.254.1.1 lladdr {near} nud permanent dev eth0"));
    let sockets = (0..FLOWS).map(|_| socket_in(&node.nest, shut, 0)).collect();
    shower(&mut threads, sockets, (OUTSIDE, SINK).into());
    let passed = || beyond.load(Ordering::Relaxed);

    set_queues(&node.space, "vc", 4);
    node.gateway.wait("there is no memory for the port", |gateway| {
        let port = gateway.port("vc");
        port.state == PortState::Down && port.detail.is_some_and(|detail| detail.contains("frames"))
    });
    node.gateway.remove_port("vc");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(passed(), 0, "packets went around the gateway");
    // It is the device that is down, and nothing else.
    run(&format!("ip -n {} link set vc up", node.space));
    let mac = mac_of(shut, "eth0");
    run(&format!("ip -n {} route add {}/32 dev vc table 100", node.space, PODS[2].1));
    run(&format!("ip -n {} neigh replace {} lladdr {mac} nud permanent dev vc", node.space, PODS[2].1));
    eventually("the kernel forwards by itself", || passed() > 0);
}
