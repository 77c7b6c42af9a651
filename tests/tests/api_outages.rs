//! What an API server may do to a gateway, on real packets: three pods on veth pairs, the whole daemon, and the faults of the
//! test server (`api_faults.rs` has what each of them is).
//!
//! During each fault a sender asks for verdicts, hundreds a second, each on a connection of its own: one port of a pod is
//! allowed, another denied. Not one packet may pass that must not, and those that may do pass: what the server said last is in
//! force. Then the policy is changed on the server while the fault lasts, and has to be known when it is over, without a restart.
//! Status, `/readyz` and metrics are held against what is true at each point.
//!
//! How long things take is not asserted, but for what waits in the gateway's own periods, which are set short here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use podgate_tests::api_node::{ApiNode, path};
use podgate_tests::apiserver::{Access, ApiServer, Rule, User};
use podgate_tests::netns::{Nest, eventually, run, skipped};
use serde_json::{Value, json};

const A: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
/// The ports that the policy allows in turn.
const PORTS: [u16; 2] = [8001, 8002];
/// More pods than three pages of a list.
const OTHERS: u32 = 1_600;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(3);

fn pod(name: &str, address: Ipv4Addr) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
        "status": { "phase": "Running", "podIP": address.to_string(), "podIPs": [{ "ip": address.to_string() }] },
    })
}

/// Pods of the label `app: b` take this port from `a`, and nothing else.
fn policy(port: u16) -> Value {
    json!({
        "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1",
        "metadata": { "name": "b", "namespace": "shop" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "b" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": "a" } } }],
                "ports": [{ "port": port, "protocol": "UDP" }, { "port": port, "protocol": "TCP" }],
            }],
        },
    })
}

/// What the server has before anybody asks it.
fn populate(server: &ApiServer) {
    server.put(json!({ "kind": "Namespace", "metadata": { "name": "shop" } })).unwrap();
    for (name, address) in [("a", A), ("b", B)] {
        server.put(pod(name, address)).unwrap();
    }
    for number in 0..OTHERS {
        let [.., high, low] = number.to_be_bytes();
        server.put(pod(&format!("other-{number}"), Ipv4Addr::new(10, 9, high, low))).unwrap();
    }
    server.put(policy(PORTS[0])).unwrap();
}

/// A node with the pods a and b wired to it.
struct World {
    node: ApiNode,
    spaces: [String; 2],
    /// The port that is allowed now.
    allowed: u16,
    nest: Nest,
}

impl World {
    fn new() -> Self {
        let mut world = Self::prepare(|_| {});
        for (name, address) in [("a", A), ("b", B)] {
            world.node.gateway.add_port(&format!("v{name}"), &format!("shop/{name}"), &[address.into()]);
        }
        world.follows("the start");
        world
    }

    /// Without ports yet.
    fn prepare(server: impl FnOnce(&ApiServer)) -> Self {
        let mut nest = Nest::new();
        let space = nest.add("gw");
        run(&format!("ip -n {space} addr add 10.244.255.254/32 dev lo"));
        let spaces = [("a", A), ("b", B)].map(|(name, address)| {
            let own = nest.add(name);
            run(&format!("ip -n {space} link add v{name} type veth peer name eth0 netns {own}"));
            run(&format!("ip -n {space} link set v{name} up"));
            run(&format!("ip -n {own} addr add {address}/32 dev eth0"));
            run(&format!("ip -n {own} link set eth0 up"));
            run(&format!("ip -n {own} route add default via 169.254.1.1 dev eth0 onlink"));
            own
        });
        let settings = ["workers=1", "frames=32768", "kubernetes_watch=2", "kubernetes_relist=86400"];
        let node = ApiNode::start_in(&nest, &space, &settings, |api| {
            populate(api);
            server(api);
        });
        Self { node, spaces, allowed: PORTS[0], nest }
    }

    fn denied(&self) -> u16 {
        PORTS[usize::from(self.allowed == PORTS[0])]
    }

    /// Turns the policy round, beside all that requests may meet.
    fn turn_policy(&mut self) {
        self.allowed = self.denied();
        self.node.server.put(policy(self.allowed)).unwrap();
    }

    /// Waits until the gateway follows the server and has its policy, and asks.
    fn follows(&mut self, what: &str) {
        self.wait_current(what, true);
        let (allowed, denied) = (self.allowed, self.denied());
        let probe = |port: u16| {
            json!({ "from": { "pod": "shop/a" }, "to": { "pod": "shop/b" }, "port": port, "protocol": "UDP" })
                .to_string()
                + "\n"
        };
        let lines = probe(allowed) + &probe(denied);
        self.node.gateway.wait(&format!("{what}: the server's policy is in force"), |gateway| {
            let status = gateway.status();
            let said = gateway.explain(&lines).out;
            let verdicts: Vec<Value> = said
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["verdict"].clone())
                .collect();
            status.ready
                && status.generation_in_force == status.generation_published
                && verdicts == [json!("allow"), json!("deny")]
        });
        self.truthful(what, true);
    }

    /// Waits until the gateway says that it follows all kinds, or that it does not follow one.
    fn wait_current(&mut self, what: &str, current: bool) {
        self.node.gateway.wait(&format!("{what}: follows: {current}"), |gateway| {
            let sources = gateway.status().sources;
            let mut kinds = sources.iter().flat_map(|source| &source.kinds);
            kinds.all(|kind| kind.synced && kind.current && kind.error.is_none()) == current
        });
    }

    /// Ready, by what it said last; and status, `/readyz` and metrics come to say whether all kinds are followed. Watches fail,
    /// and begin again, one after the other.
    fn truthful(&mut self, what: &str, current: bool) {
        eventually(&format!("{what}: it is told that the server is followed: {current}"), || {
            let (code, text) = self.node.http("/readyz?verbose");
            assert_eq!(code, 200, "{what}: what is in force is in force: {text}");
            assert!(text.contains("[+]source kubernetes synced"), "{what}: {text}");
            assert_eq!(self.node.metric("podgate_ready"), 1, "{what}");
            let kinds = self.node.source().kinds;
            let agrees = kinds.iter().all(|kind| {
                let series = |name: &str| {
                    format!("podgate_source_{name}{{source=\"kubernetes\",kind=\"{}\"}}", kind.kind)
                };
                self.node.metric(&series("current")) == u64::from(kind.current)
                    && self.node.metric(&series("failures_total")) >= kind.failures
                    && self.node.metric(&series("objects")) == kind.objects as u64
            });
            agrees
                && text.contains("what it said last stays in force") != current
                && kinds.iter().all(|kind| kind.current) == current
        });
    }
}

/// Counts of packets, by port of [`PORTS`].
#[derive(Default)]
struct Counts {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
    stop: AtomicBool,
}

/// Asks for verdicts as long as it lives: a packet to either port from a new source port.
struct Asking {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Asking {
    fn start(world: &World) -> Self {
        let counts = Arc::new(Counts::default());
        let mut threads = Vec::new();
        for (place, port) in PORTS.into_iter().enumerate() {
            let bind = move || UdpSocket::bind((B, port)).unwrap();
            let socket = world.nest.open(&world.spaces[1]).run(bind).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let counts = counts.clone();
            threads.push(thread::spawn(move || {
                // Not before what has come is taken.
                loop {
                    match socket.recv(&mut [0; 8]) {
                        Ok(_) => drop(counts.received[place].fetch_add(1, Ordering::SeqCst)),
                        Err(_) if counts.stop.load(Ordering::SeqCst) => break,
                        Err(_) => {}
                    }
                }
            }));
        }
        let (space, asked) = (world.nest.open(&world.spaces[0]), counts.clone());
        threads.push(thread::spawn(move || {
            let ask = || {
                while !asked.stop.load(Ordering::SeqCst) {
                    for (place, port) in PORTS.into_iter().enumerate() {
                        let socket = UdpSocket::bind((A, 0)).unwrap();
                        asked.sent[place].fetch_add(
                            u64::from(socket.send_to(b"ask", (B, port)).is_ok()),
                            Ordering::SeqCst,
                        );
                    }
                    thread::sleep(PAUSE);
                }
            };
            space.run(ask).unwrap();
        }));
        Self { counts, threads }
    }

    fn count(&self, which: impl Fn(&Counts) -> &[AtomicU64; 2], port: u16) -> u64 {
        which(&self.counts)[usize::from(port != PORTS[0])].load(Ordering::SeqCst)
    }

    /// At least so many more packets were asked about, and those that may pass have come.
    fn until(&self, what: &str, port: u16, more: u64) {
        let before = self.count(|counts| &counts.received, port);
        eventually(&format!("{what}: packets to {port} pass"), || {
            self.count(|counts| &counts.received, port) >= before + more
        });
    }

    fn stop(&self) {
        self.counts.stop.store(true, Ordering::SeqCst);
    }

    /// Ends it. Nothing may have come to the port that was denied, and all to the one that was allowed: a few may be on their way.
    fn finish(mut self, what: &str, allowed: u16, denied: u16) {
        self.stop();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        let (sent, received) =
            (self.count(|counts| &counts.sent, allowed), self.count(|counts| &counts.received, allowed));
        assert!(received + 20 >= sent && sent > 0, "{what}: {received} of {sent} came to the allowed port");
        assert_eq!(self.count(|counts| &counts.received, denied), 0, "{what}: came to the denied port");
        assert!(self.count(|counts| &counts.sent, denied) > 0);
    }
}

/// What goes wrong, and how it ends.
struct Fault {
    name: &'static str,
    begin: fn(&ApiNode),
    end: fn(&ApiNode),
    /// Whether the gateway cannot follow while it lasts, and has to say so.
    blinds: bool,
}

fn nobody(_: &ApiNode) {}

/// Somebody with a token that the gateway does not have, and nobody else.
fn others_only() -> Access {
    Access::Users(vec![User { token: "other".into(), name: "other".into(), rules: vec![Rule::everything()] }])
}

const FAULTS: [Fault; 9] = [
    Fault { name: "a watch too old", begin: |node| node.server.expire_watches(), end: nobody, blinds: false },
    Fault {
        name: "connections cut",
        begin: |node| node.server.cut_connections(),
        end: nobody,
        blinds: false,
    },
    Fault {
        name: "slow answers",
        begin: |node| {
            node.server.slow_answers(Duration::from_millis(400));
            node.server.cut_connections();
        },
        end: |node| node.server.slow_answers(Duration::ZERO),
        blinds: false,
    },
    Fault {
        name: "pages forgotten",
        begin: |node| {
            // Between a page and the next one there is time to forget the list.
            node.server.slow_answers(Duration::from_millis(40));
            let (lists, pages) = (node.server.asked("list", "pods"), 3);
            node.server.expire_watches();
            eventually("pages are asked for", || {
                node.server.expire_continue_tokens();
                node.server.asked("list", "pods") >= lists + pages
            });
        },
        end: |node| node.server.slow_answers(Duration::ZERO),
        blinds: false,
    },
    Fault {
        name: "silence",
        begin: |node| node.server.hang_watches(true),
        end: |node| node.server.hang_watches(false),
        blinds: true,
    },
    Fault {
        name: "a restart",
        begin: |node| node.server.stop(),
        end: |node| node.inside(|server| server.resume().unwrap()),
        blinds: true,
    },
    Fault {
        name: "a restart without a history",
        begin: |node| {
            node.server.stop();
            node.server.compact();
        },
        end: |node| node.inside(|server| server.resume().unwrap()),
        blinds: true,
    },
    Fault {
        name: "unauthorized",
        begin: |node| {
            node.server.set_access(others_only());
            node.server.cut_connections();
        },
        end: |node| node.server.set_access(Access::Open),
        blinds: true,
    },
    Fault {
        name: "overtaken by a backup",
        begin: |node| {
            let backup = node.server.backup();
            for name in ["x", "y", "z"] {
                node.server.put(pod(name, Ipv4Addr::new(10, 8, 0, 1))).unwrap();
                node.server.remove("Pod", "shop", name);
            }
            node.server.restore(backup);
        },
        end: nobody,
        blinds: false,
    },
];

#[test]
fn every_fault_is_survived_and_no_packet_is_misjudged() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    for fault in &FAULTS {
        let what = fault.name;
        let asking = Asking::start(&world);
        let (allowed, denied) = (world.allowed, world.denied());
        asking.until(what, allowed, 5);
        let failures: u64 = world.node.source().kinds.iter().map(|kind| kind.failures).sum();
        (fault.begin)(&world.node);
        if fault.blinds {
            world.wait_current(what, false);
            world.truthful(what, false);
            let now: u64 = world.node.source().kinds.iter().map(|kind| kind.failures).sum();
            assert!(now > failures, "{what}: {now} failures are counted, before: {failures}");
        }
        asking.until(what, allowed, 100);
        if fault.blinds {
            // Nobody can know of it yet; it must not be guessed.
            world.turn_policy();
            asking.until(what, allowed, 100);
            asking.finish(what, allowed, denied);
            (fault.end)(&world.node);
        } else {
            (fault.end)(&world.node);
            world.wait_current(what, true);
            asking.finish(what, allowed, denied);
            world.turn_policy();
        }
        world.follows(what);
        let asking = Asking::start(&world);
        asking.until(what, world.allowed, 20);
        asking.finish(what, world.allowed, world.denied());
    }
}

#[test]
fn a_restored_server_is_noticed_by_its_version() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let backup = world.node.server.backup();
    // More pods since the backup, and the other port is allowed.
    for round in 0..20 {
        world.node.server.put(pod(&format!("lost-{round}"), Ipv4Addr::new(10, 8, 0, round))).unwrap();
    }
    world.turn_policy();
    world.follows("after the backup");
    let before = world.node.kind("Pod");
    assert_eq!(before.objects, OTHERS as usize + 22);

    world.allowed = world.denied();
    world.node.server.restore(backup);
    world.follows("the backup");
    let after = world.node.kind("Pod");
    assert_eq!(after.objects, OTHERS as usize + 2, "what was made after the backup is gone: {after:?}");
    assert!(after.lists > before.lists, "{after:?}");
    assert!(after.version.parse::<u64>().unwrap() < before.version.parse::<u64>().unwrap(), "{after:?}");
    assert!(world.node.gateway.log().contains("at an earlier version than it was"));
    // And it is followed from there on.
    world.turn_policy();
    world.follows("after the restore");
}

#[test]
fn nothing_is_open_before_the_server_has_said_everything() {
    if skipped() {
        return;
    }
    // Everything but policies.
    let most = Rule::new(&[""], &["*"], &["list", "watch"]);
    let user = |rules| Access::Users(vec![User { token: "t".into(), name: "gateway".into(), rules }]);
    let mut world = World::prepare(|server| server.set_access(user(vec![most])));
    for (name, address) in [("a", A), ("b", B)] {
        world.node.gateway.add_port(&format!("v{name}"), &format!("shop/{name}"), &[address.into()]);
    }
    world.node.gateway.wait("it is told", |gateway| {
        gateway.status().problems.iter().any(|problem| problem.message.contains("nything yet"))
    });
    let (code, text) = world.node.http("/readyz");
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("[-]source kubernetes has not been without error yet"), "{text}");
    assert_eq!(world.node.metric("podgate_ready"), 0);
    let asking = Asking::start(&world);
    eventually("packets are sent", || asking.count(|counts| &counts.sent, PORTS[1]) > 100);
    for port in PORTS {
        assert_eq!(asking.count(|counts| &counts.received, port), 0, "{port} is open");
    }
    world.node.server.set_access(Access::Open);
    asking.until("now it knows", PORTS[0], 20);
    assert_eq!(asking.count(|counts| &counts.received, PORTS[1]), 0, "denied from the first moment on");
    asking.stop();
    world.follows("everything is said");
}

/// An open connection from a to b.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    fn open(world: &World) -> Self {
        let port = world.allowed;
        let listener =
            world.nest.open(&world.spaces[1]).run(|| TcpListener::bind((B, port)).unwrap()).unwrap();
        let near = world
            .nest
            .open(&world.spaces[0])
            .run(|| {
                TcpStream::connect_timeout(&(IpAddr::from(B), port).into(), Duration::from_secs(5)).unwrap()
            })
            .unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut connection = Self { near, far };
        assert!(connection.carries(), "it is open");
        connection
    }

    /// Whether what is sent arrives.
    fn carries(&mut self) -> bool {
        self.near.write_all(b"?").unwrap();
        match self.far.read(&mut [0; 1]) {
            Ok(length) => length == 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_pod_is_never_taken_for_its_predecessor() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let b = path("Pod", "shop", "b");
    let moved = |world: &mut World| {
        world.node.gateway.status().drops.get("address_moved").copied().unwrap_or_default()
    };

    // The same name, address, labels and interface, and yet another pod: connections of the first one end, new ones do not.
    let mut old = Connection::open(&world);
    world.node.delete(&b);
    world.node.add_pod(&pod("b", B));
    world.node.settle("the second b");
    assert!(!old.carries(), "a connection to the first b reaches the second");
    assert!(moved(&mut world) > 0);
    let mut second = Connection::open(&world);
    assert!(second.carries() && !old.carries());

    // Deleted and made again while nobody tells: the list after that has another UID under the name.
    world.node.server.stop();
    world.node.server.remove("Pod", "shop", "b");
    world.node.server.put(pod("b", B)).unwrap();
    world.node.server.compact();
    world.wait_current("the server is away", false);
    assert!(second.carries(), "what was said last is in force");
    world.node.inside(|server| server.resume().unwrap());
    world.follows("the third b");
    assert!(!second.carries(), "a connection to the second b reaches the third");

    // A port that leads to one b and no other.
    world.node.gateway.remove_port("vb");
    let uid =
        world.node.server.get("Pod", "shop", "b").unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    world.node.gateway.add_port_of("vb", "shop/b", Some(&uid), &[B.into()]);
    world.follows("b by its UID");
    let mut third = Connection::open(&world);
    world.node.delete(&b);
    world.node.add_pod(&pod("b", Ipv4Addr::new(10, 244, 0, 9)));
    world.node.settle("the fourth b");
    assert!(!third.carries());
    let asking = Asking::start(&world);
    eventually("packets are sent", || asking.count(|counts| &counts.sent, PORTS[0]) > 100);
    for port in PORTS {
        assert_eq!(
            asking.count(|counts| &counts.received, port),
            0,
            "the interface of another pod of the name is open"
        );
    }
    asking.stop();

    // The address comes to another pod, that everybody may reach: not by what was opened before, and not as b.
    world.node.delete(&b);
    world.node.gateway.remove_port("vb");
    world.node.add_pod(&pod("c", B));
    world.node.gateway.add_port("vb", "shop/c", &[B.into()]);
    world.node.settle("c");
    assert!(!third.carries(), "a connection to b reaches c");
    let asking = Asking::start(&world);
    for port in PORTS {
        asking.until("no policy selects c", port, 20);
    }
    // While b claims the address as well, it is nobody's.
    world.node.add_pod(&pod("b", B));
    world.node.settle("both");
    let before = PORTS.map(|port| asking.count(|counts| &counts.received, port));
    let sent = asking.count(|counts| &counts.sent, PORTS[0]);
    eventually("packets are sent", || asking.count(|counts| &counts.sent, PORTS[0]) > sent + 100);
    for (port, before) in PORTS.into_iter().zip(before) {
        // Those that were on their way when the tables changed.
        assert!(
            asking.count(|counts| &counts.received, port) <= before + 3,
            "{port}: an address of two pods is open"
        );
    }
    let closed = world.node.gateway.status().problems;
    assert!(closed.iter().any(|problem| problem.message.contains("claimed by pod")), "{closed:?}");
    world.node.delete(&b);
    world.node.settle("c alone");
    asking.until("c has it again", PORTS[1], 20);
    asking.stop();
}
