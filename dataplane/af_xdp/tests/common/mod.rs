//! Real devices for the tests: a gateway's network namespace and pods' namespaces joined to it by veth pairs, all named with
//! the process id and removed by a guard; and a bare forwarder between two of them.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use af_xdp::{
    Attachment, FrameLedger, FramePool, Interface, Kick, Pins, Region, Socket, SocketConfig, Steering, Umem,
    bpf, open_all,
};

#[path = "../../examples/checksum/mod.rs"]
pub mod checksum;

/// Runs a program; panics with what it said if it fails.
pub fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}{text}");
    text
}

/// The calling thread enters a network namespace, for good.
pub fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect(namespace);
    // SAFETY: no memory is passed.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns {namespace}: {}", std::io::Error::last_os_error());
}

/// Runs something in a namespace, on a thread of its own.
pub fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = namespace.to_owned();
    std::thread::spawn(move || {
        enter(&namespace);
        work()
    })
}

/// Waits for something to become true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A gateway's namespace, pods' namespaces, and a folder for pins.
pub struct Lab {
    pub prefix: String,
    pub pods: usize,
    mounted: bool,
}

/// How the veth pairs are made.
#[derive(Clone, Copy)]
pub struct Veth {
    pub mtu: u32,
    pub queues: u32,
}

impl Default for Veth {
    fn default() -> Self {
        Veth { mtu: 1500, queues: 1 }
    }
}

impl Lab {
    /// Makes the namespaces. Pod i has 10.99.0.<i+1> and fd99::<i+1> on eth0; its host end is `p<i>` in the gateway's namespace,
    /// beside `anchor0`. Pods find each other by permanent neighbour entries.
    pub fn new(pods: usize, veth: Veth) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static SWEPT: std::sync::Once = std::sync::Once::new();
        SWEPT.call_once(sweep);
        let prefix = format!("axt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { prefix, pods, mounted: false };
        let gateway = lab.gateway();
        run(&format!("ip netns add {gateway}"));
        run(&format!("ip -n {gateway} link add anchor0 type veth peer name anchor1"));
        for i in 0..pods {
            run(&format!("ip netns add {}", lab.pod(i)));
            lab.plug(i, veth);
        }
        lab
    }

    /// Makes the veth pair of a pod.
    pub fn plug(&self, i: usize, Veth { mtu, queues }: Veth) {
        let (gateway, pod) = (self.gateway(), self.pod(i));
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        run(&format!(
            "ip -n {gateway} link add p{i} mtu {mtu} {count} type veth peer name eth0 mtu {mtu} {count} netns {pod}"
        ));
        // No router solicitations, no duplicate address detection. Reports of multicast groups (MLD) cannot be turned off:
        // one may come in the first seconds, between what the tests send.
        run(&format!("ip netns exec {gateway} sysctl -qw net.ipv6.conf.p{i}.disable_ipv6=1"));
        run(&format!(
            "ip netns exec {pod} sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.eth0.router_solicitations=0"
        ));
        run(&format!("ip -n {pod} addr add 10.99.0.{}/24 dev eth0", i + 1));
        run(&format!("ip -n {pod} addr add fd99::{}/64 dev eth0 nodad", i + 1));
        run(&format!("ip -n {pod} link set eth0 address 02:00:00:00:00:{:02x} up", i + 1));
        run(&format!("ip -n {gateway} link set p{i} up"));
        for other in (0..self.pods).filter(|other| *other != i) {
            for address in [format!("10.99.0.{}", other + 1), format!("fd99::{}", other + 1)] {
                let mac = format!("02:00:00:00:00:{:02x}", other + 1);
                run(&format!("ip -n {pod} neigh replace {address} lladdr {mac} nud permanent dev eth0"));
            }
        }
    }

    pub fn gateway(&self) -> String {
        format!("{}-gw", self.prefix)
    }

    pub fn pod(&self, i: usize) -> String {
        format!("{}-pod{i}", self.prefix)
    }

    /// A folder of pins of this lab's own, in a bpf file system mounted for it.
    pub fn pins(&mut self) -> PathBuf {
        let path = self.pin_folder();
        bpf::bpffs::ensure(&path).unwrap();
        self.mounted = true;
        // The kernel puts files of its own at the top of a new bpf file system.
        path.join("pins")
    }

    fn pin_folder(&self) -> PathBuf {
        PathBuf::from(format!("/run/{}", self.prefix))
    }

    /// Sends UDP datagrams from one pod to another, which need not exist.
    pub fn datagrams(&self, from: usize, to: usize, count: usize) {
        let send = move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..count {
                socket.send_to(b"datagram", format!("10.99.0.{}:9", to + 1)).unwrap();
            }
        };
        within(&self.pod(from), send).join().unwrap();
    }

    /// Does a ping from one pod to another come back?
    pub fn ping(&self, from: usize, to: usize) -> bool {
        let command = format!("ip netns exec {} ping -c1 -W1 -q 10.99.0.{}", self.pod(from), to + 1);
        let words: Vec<&str> = command.split_whitespace().collect();
        Command::new(words[0]).args(&words[1..]).output().unwrap().status.success()
    }
}

/// Removes what test processes left that were killed.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some((pid, _)) = name.strip_prefix("axt").and_then(|rest| rest.split_once('-')) else { continue };
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
            if let Some(lab) = name.strip_suffix("-gw") {
                let _ = Command::new("umount").arg(format!("/run/{lab}")).output();
                let _ = std::fs::remove_dir(format!("/run/{lab}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in (0..self.pods).map(|i| self.pod(i)).chain([self.gateway()]) {
            let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
        }
        if self.mounted {
            let _ = Command::new("umount").arg(self.pin_folder()).output();
            let _ = std::fs::remove_dir(self.pin_folder());
        }
    }
}

/// Small rings: many tests run at once.
pub const SMALL: SocketConfig =
    SocketConfig { receive: 512, transmit: 512, fill: 512, completion: 512, tx_budget: 256 };

/// How the forwarder treats partial checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    Ignore,
    Metadata,
    Software,
}

/// Memory, registration and pool of a gateway. Make it in the gateway's namespace.
pub struct Gateway {
    pub region: Region,
    pub ledger: FrameLedger,
    pub pool: FramePool,
    pub umem: Umem,
}

impl Gateway {
    pub fn new(chunks: u32) -> Gateway {
        let (region, mut ledger) = Region::new(chunks).unwrap();
        let pool = ledger.pool(chunks as usize);
        let umem = Umem::register(&region, &Interface::by_name("anchor0").unwrap(), 0).unwrap();
        Gateway { region, ledger, pool, umem }
    }

    pub fn open(&mut self, name: &str, config: &SocketConfig) -> Vec<Socket> {
        let interface = Interface::by_name(name).unwrap();
        open_all(&self.umem, &interface, false, config, &mut self.pool).unwrap()
    }

    /// Opens a device and attaches the program that steers everything.
    pub fn port(&mut self, name: &str, config: &SocketConfig, pins: Option<&Pins>) -> Port {
        let sockets = self.open(name, config);
        let interface = Interface::by_name(name).unwrap();
        let attachment = Attachment::attach(&interface, Steering::Everything, &sockets, pins).unwrap();
        Port { sockets, attachment: Some(attachment) }
    }

    /// Closes everything and checks that every frame is back.
    pub fn settle(mut self, ports: impl IntoIterator<Item = Port>) {
        for port in ports {
            port.sockets.into_iter().for_each(|socket| self.ledger.give_back(socket.close()));
        }
        self.ledger.give_back_pool(self.pool);
        assert_eq!(self.ledger.free(), self.ledger.total(), "frames lost");
    }
}

/// A device with its sockets.
pub struct Port {
    pub sockets: Vec<Socket>,
    pub attachment: Option<Attachment>,
}

/// What a running forwarder tells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub forwarded: u64,
    pub multi_buffer: u64,
    pub partial: u64,
    pub gone: u64,
}

/// A forwarder between the first queue of ports `p0` and `p1` on a thread of its own, until it is stopped.
pub struct Forwarder {
    stop: Arc<AtomicBool>,
    pub report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    pub fn start(lab: &Lab, config: SocketConfig, checksums: Checksums) -> Forwarder {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(Report::default()));
        let ready = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, report, ready) = (stop.clone(), report.clone(), ready.clone());
            within(&lab.gateway(), move || {
                let mut gateway = Gateway::new(8192);
                let mut ports = [gateway.port("p0", &config, None), gateway.port("p1", &config, None)];
                ready.store(true, Ordering::Release);
                while !stop.load(Ordering::Relaxed) {
                    let before = *report.lock().unwrap();
                    let mut now = before;
                    for i in 0..2 {
                        let (left, right) = ports.split_at_mut(1);
                        let (from, to) = if i == 0 {
                            (&mut left[0], &mut right[0])
                        } else {
                            (&mut right[0], &mut left[0])
                        };
                        forward(&mut from.sockets[0], &mut to.sockets[0], &mut gateway, checksums, &mut now);
                    }
                    *report.lock().unwrap() = now;
                    if now == before {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                }
                for port in &ports {
                    assert_eq!(port.sockets[0].faults(), Default::default());
                    let statistics = port.sockets[0].statistics().unwrap_or_default();
                    assert_eq!(
                        (statistics.tx_invalid_descriptors, statistics.rx_invalid_descriptors),
                        (0, 0)
                    );
                }
                gateway.settle(ports);
            })
        };
        let forwarder = Forwarder { stop, report, thread: Some(thread) };
        eventually("forwarder ready", || {
            ready.load(Ordering::Acquire) || forwarder.thread.as_ref().unwrap().is_finished()
        });
        forwarder
    }

    /// Stops it, checks that it lost no frame, and returns what it did.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        *self.report.lock().unwrap()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves what has arrived at one socket to the other.
pub fn forward(
    from: &mut Socket,
    to: &mut Socket,
    gateway: &mut Gateway,
    checksums: Checksums,
    report: &mut Report,
) {
    let mut packets = Vec::new();
    from.receive(64, |packet| packets.push(packet));
    from.refill(&mut gateway.pool);
    for mut packet in packets {
        report.multi_buffer += u64::from(packet.count() > 1);
        let mut request = checksum::partial(&packet, &gateway.region);
        report.partial += u64::from(request.is_some());
        match checksums {
            Checksums::Ignore => request = None,
            Checksums::Metadata => {}
            Checksums::Software => {
                if let Some(at) = request.take() {
                    checksum::complete(&mut packet, &gateway.region, at);
                }
            }
        }
        match to.transmit(packet, request) {
            Ok(()) => report.forwarded += 1,
            Err(refused) => gateway.pool.put_chain(refused.chain),
        }
    }
    match to.kick_tx() {
        Kick::Gone => report.gone += 1,
        Kick::Failed(errno) => panic!("transmit: errno {errno}"),
        Kick::Done | Kick::Again | Kick::Down => {}
    }
    to.complete(&mut gateway.pool);
}

/// A TCP transfer of `bytes` bytes from one pod to another. Panics unless they arrive as they were sent.
pub fn tcp(lab: &Lab, from: usize, to: usize, bytes: usize, v6: bool) {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let address = if v6 { format!("[fd99::{}]:7000", to + 1) } else { format!("10.99.0.{}:7000", to + 1) };
    let target = address.clone();
    let (ready, listening) = std::sync::mpsc::channel();
    let pattern = |i: usize| (i.wrapping_mul(31) >> 3) as u8;
    let server = within(&lab.pod(to), move || {
        let listener = TcpListener::bind(address).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    listening.recv().unwrap();
    let client = within(&lab.pod(from), move || {
        let mut stream =
            TcpStream::connect_timeout(&target.parse().unwrap(), Duration::from_secs(5)).expect("connect");
        let data: Vec<u8> = (0..bytes).map(pattern).collect();
        stream.write_all(&data).unwrap();
    });
    client.join().expect("client");
    let received = server.join().expect("server");
    assert_eq!(received.len(), bytes);
    assert!(received.iter().enumerate().all(|(i, byte)| *byte == pattern(i)));
}
