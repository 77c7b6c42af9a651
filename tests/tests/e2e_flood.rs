//! SYN floods through the lab: one from outside, of random sources, and one of a pod's own.
//!
//! Beside each of them an open connection asks and is answered without a pause, a stream runs, and new connections between
//! other pods are made. What is held: nothing that was open ends, memory does not grow, and the status names who floods.
//! What it costs is printed, not held against anything: `PODGATE_FLOOD_SECONDS=30 cargo test --release -p podgate-tests
//! --test e2e_flood -- --nocapture` gives the figures of bench/README.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::state::SOCKET;
use podgate_control::netlink::Namespace;
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pktgen, pod, run_podgate};
use serde_json::Value;

/// Port of the endless conversation.
const CONVERSATION: u16 = 7000;

fn seconds() -> u64 {
    let wanted = std::env::var("PODGATE_FLOOD_SECONDS").ok();
    wanted.map_or(4, |text| text.parse().expect("PODGATE_FLOOD_SECONDS: a number of seconds"))
}

fn inside<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    Namespace::open(netns).unwrap().run(work).unwrap()
}

/// One connection over which a byte goes there and back, again and again.
struct Conversation {
    rounds: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    client: thread::JoinHandle<std::io::Result<()>>,
}

impl Conversation {
    fn start(client: &str, server: &str, address: IpAddr) -> Self {
        let listener = inside(server, || TcpListener::bind(("::", CONVERSATION))).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
        let mut stream = inside(client, || TcpStream::connect((address, CONVERSATION))).unwrap();
        stream.set_nodelay(true).unwrap();
        // Whoever waits for longer than this has lost the connection.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let rounds = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (all, end) = (rounds.clone(), stop.clone());
        let client = thread::spawn(move || {
            let mut byte = [7];
            while !end.load(Ordering::Relaxed) {
                let begin = Instant::now();
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
                all.lock().unwrap().push(begin.elapsed());
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        Self { rounds, stop, client }
    }

    /// How long the rounds since the last call took, in order of length.
    fn take(&self) -> Vec<Duration> {
        let mut rounds = std::mem::take(&mut *self.rounds.lock().unwrap());
        rounds.sort_unstable();
        rounds
    }

    fn end(self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

/// What was seen during one phase.
#[derive(Debug)]
struct Phase {
    rounds: Vec<Duration>,
    stream: Option<f64>,
    resident: u64,
}

impl Phase {
    fn say(&self, what: &str) {
        let millis = |duration: &Duration| duration.as_secs_f64() * 1e3;
        println!(
            "{what}: {} rounds, median {:.2} ms, longest {:.0} ms; stream {:.2} Gb/s; gateway {} MiB",
            self.rounds.len(),
            self.rounds.get(self.rounds.len() / 2).map_or(0.0, millis),
            self.rounds.last().map_or(0.0, millis),
            self.stream.unwrap_or_default() / 1e9,
            self.resident >> 20
        );
    }
}

/// Bytes of memory that the gateway has.
fn resident(lab: &Lab) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", lab.gateway())).unwrap();
    4096 * statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// An address of a pod.
fn v4(lab: &Lab, netns: &str) -> IpAddr {
    lab.addresses(netns).into_iter().find(IpAddr::is_ipv4).unwrap()
}

/// The MAC address behind which a namespace reaches an address.
fn next_hop(lab: &Lab, netns: &str, address: IpAddr) -> String {
    let address = address.to_string();
    let _ = lab.exec(netns, 5, &["ping", "-c", "1", "-W", "2", &address]);
    let route = lab.exec(netns, 5, &["ip", "route", "get", &address]).expect("a route");
    let via = route.split_whitespace().skip_while(|word| *word != "via").nth(1).unwrap_or(&address);
    let said = lab.exec(netns, 5, &["ip", "neighbour", "show", via]).expect("neighbours");
    let mac = said.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    mac.unwrap_or_else(|| panic!("no MAC address of {via} in {said:?}")).to_owned()
}

/// Watches for `seconds()` while a flood runs, if one is named: the namespace it comes from, and its arguments.
fn watch(lab: &Lab, conversation: &Conversation, flood: Option<(&str, Vec<String>)>) -> Phase {
    let length = seconds().to_string();
    let _ = conversation.take();
    let flood = flood.map(|(from, arguments)| {
        let mac = next_hop(lab, from, arguments.last().unwrap().parse().unwrap());
        let generator = pktgen().to_str().unwrap();
        let fixed =
            [generator, "flood", "--interface", "eth0", "--destination-mac", &mac, "--seconds", &length];
        let arguments: Vec<&str> = fixed.into_iter().chain(arguments.iter().map(String::as_str)).collect();
        lab.background(from, &arguments)
    });
    let server = lab.background("stream-server.shop", &["iperf3", "-s", "-1"]);
    let address = v4(lab, "stream-server.shop").to_string();
    thread::sleep(Duration::from_millis(300));
    let limit = u32::try_from(seconds() + 30).unwrap();
    let said = lab.exec("stream-client.shop", limit, &["iperf3", "-c", &address, "-t", &length, "-J"]);
    let report: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let stream = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    assert!(stream.is_some(), "the stream was cut: {said:?}");
    // Other pods get new connections all the same.
    lab.expect(&[("client.shop", "server.shop", AnswerPort::Tcp(80), true)]);
    if let Some(flood) = flood {
        println!("{}", flood.finish().trim());
    }
    drop(server);
    Phase { rounds: conversation.take(), stream, resident: resident(lab) }
}

/// What the status says of a pod's connections.
fn flows(lab: &Lab, pod: &str) -> [u64; 3] {
    let status = lab.status().unwrap();
    let ports = status.get("ports").and_then(Value::as_array).unwrap();
    let port = ports.iter().find(|port| port.get("pod") == Some(&Value::from(pod))).unwrap();
    ["open", "evicted", "refused"]
        .map(|field| port.pointer(&format!("/flows/{field}")).unwrap().as_u64().unwrap())
}

#[test]
fn floods_harm_nobody_but_the_flooded() {
    if !enabled() {
        return;
    }
    let pods = ["client", "server", "flooded", "noisy", "stream-client", "stream-server"];
    let manifests: String =
        std::iter::once(namespace("shop")).chain(pods.map(|name| pod("shop", name, &["80/TCP"]))).collect();
    let lab = Lab::up(&[("pods.yaml", &manifests)], &["--external", "internet=198.51.100.7,2001:db8::7"]);
    let conversation = Conversation::start("client.shop", "server.shop", v4(&lab, "server.shop"));
    let quiet = watch(&lab, &conversation, None);
    quiet.say("quiet");

    let flooded = v4(&lab, "flooded.shop").to_string();
    let arguments = |sources: &str, port: &str| {
        ["--sources", sources, "--port", port, "--destination", &flooded].map(str::to_owned).to_vec()
    };
    let outside = watch(&lab, &conversation, Some(("ext-internet", arguments("198.18.0.0/15", "80"))));
    outside.say("flood from outside");
    let [connections, evicted, _] = flows(&lab, "shop/flooded");
    assert!(connections + evicted > 1000, "the flood arrived");
    println!("shop/flooded: {connections} connections, {evicted} evicted");

    let noisy = v4(&lab, "noisy.shop").to_string();
    let inner = watch(&lab, &conversation, Some(("noisy.shop", arguments(&noisy, "0"))));
    inner.say("flood of a pod's own");
    // Most are over at once, by the resets of the flooded pod.
    let [connections, evicted, _] = flows(&lab, "shop/noisy");
    assert!(connections + evicted > 1000, "the flood arrived");
    println!("shop/noisy: {connections} connections, {evicted} evicted");

    for phase in [&outside, &inner] {
        assert!(!phase.rounds.is_empty());
        assert!(phase.resident < quiet.resident + (16 << 20), "memory grew: {quiet:?} {phase:?}");
    }
    // Of those who did nothing, nothing had to go.
    for pod in ["client", "server", "stream-client", "stream-server"] {
        let [_, evicted, refused] = flows(&lab, &format!("shop/{pod}"));
        assert_eq!([evicted, refused], [0, 0], "{pod}");
    }
    let said = run_podgate(&["status", "--socket", SOCKET]);
    let heaviest = said.out.split("Most connections").nth(1).expect("a table of who has most connections");
    let named: Vec<&str> =
        heaviest.lines().skip(2).take(2).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(named.contains(&"shop/noisy") && named.contains(&"shop/flooded"), "{heaviest}");
    watch(&lab, &conversation, None).say("quiet again");
    assert!(conversation.end().is_ok(), "the open connection was cut");
    eventually("everything is accounted for", || lab.is_settled());
}
