//! `podgate run` in a network namespace of its own, with two pods: what it enforces, and what it survives.
//!
//! Needs root, and bpffs and AF_XDP in the kernel. Everything made here carries this process's number and is removed by
//! guards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podgate_control::netlink::Namespace;
use podgate_control::status::{PoliciesStatus, PolicyStanding, PortState, Standing, Status};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{self, ServerConfig, ServerConnection, StreamOwned};

const PODS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop, labels: {app: a}}
spec: {containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: shop, labels: {app: b}}
spec: {containers: [{name: c}]}
";

/// Nobody reaches b but on these ports.
fn policy(ports: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: b, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: b}}}}, ingress: [{{ports: [{ports}]}}]}}\n"
    )
}

/// A node with two pods, and a gateway in it.
struct Node {
    name: String,
    namespace: Namespace,
    pods: Vec<String>,
    dir: tempfile::TempDir,
    gateway: Option<Child>,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Node {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgd-{}-{number}", std::process::id());
        ip(&format!("netns add {name}"));
        let namespace = Namespace::open(&name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self { name, namespace, pods: Vec::new(), dir, gateway: None };
        node.ip("link set lo up");
        node.ip("addr add 10.244.255.254/32 dev lo");
        fs::create_dir(node.path("manifests")).unwrap();
        fs::create_dir(node.path("bpf")).unwrap();
        node.write("pods.yaml", PODS);
        node.add_pod("a", "10.244.0.1");
        node.add_pod("b", "10.244.0.2");
        node
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a manifest as careful editors do.
    fn write(&self, name: &str, content: &str) {
        let aside = self.path("aside");
        fs::write(&aside, content).unwrap();
        fs::rename(aside, self.path("manifests").join(name)).unwrap();
    }

    fn add_pod(&mut self, pod: &str, address: &str) {
        let name = format!("{}-{pod}", self.name);
        ip(&format!("netns add {name}"));
        self.pods.push(name.clone());
        self.wire(pod, address);
    }

    fn wire(&self, pod: &str, address: &str) {
        let name = format!("{}-{pod}", self.name);
        self.ip(&format!("link add v{pod} type veth peer name eth0 netns {name}"));
        self.set_up_pod(pod, address);
    }

    fn set_up_pod(&self, pod: &str, address: &str) {
        let name = format!("{}-{pod}", self.name);
        for command in [
            "link set lo up",
            &format!("addr add {address}/32 dev eth0"),
            "link set eth0 up",
            "route add default via 169.254.1.1 dev eth0 onlink",
        ] {
            ip(&format!("-n {name} {command}"));
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podgate"));
        command.args(arguments);
        command
    }

    fn start(&mut self) {
        self.start_with(&[]);
    }

    fn start_with(&mut self, settings: &[&str]) {
        self.start_as(settings, |_| {});
    }

    /// `prepare` is called where the gateway will run, in a thread that does nothing else.
    fn start_as(&mut self, settings: &[&str], prepare: impl FnOnce(&mut Command) + Send + 'static) {
        let set = |key: &str, name: &str| format!("--set={key}={}", self.path(name).display());
        let mut command =
            self.command(&["run", "--set=metrics_bind_address=127.0.0.1:9469", "--set=frames=32768"]);
        command.args([set("socket", "socket"), set("ports_file", "ports.json"), set("bpffs", "bpf")]);
        command.args(settings).arg("-f").arg(self.path("manifests"));
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let spawn = move || {
            prepare(&mut command);
            command.spawn().unwrap()
        };
        self.gateway = Some(self.namespace.run(spawn).unwrap());
        self.wait("the gateway answers", |node| node.try_status().is_some());
    }

    /// Ends the gateway; its exit code, `None` if a signal ended it.
    fn end(&mut self, signal: &str) -> Option<i32> {
        let mut child = self.gateway.take().unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        child.wait().unwrap().code()
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let socket = self.path("socket");
        self.command(arguments).arg("--socket").arg(socket).output().unwrap()
    }

    fn try_status(&self) -> Option<Status> {
        serde_json::from_slice(&self.ask(&["status", "-o", "json"]).stdout).ok()
    }

    fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("no status; log:\n{}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn port(&self, pod: &str) -> PortState {
        let interface = format!("v{pod}");
        let status = self.status();
        let port = status.ports.iter().find(|port| port.interface == interface);
        port.map_or(PortState::Down, |port| port.state)
    }

    fn add_port(&self, pod: &str, address: &str) -> Output {
        let (interface, pod) = (format!("v{pod}"), format!("shop/{pod}"));
        self.ask(&["port", "add", "--interface", &interface, "--pod", &pod, "--address", address])
    }

    fn wait(&self, what: &str, mut until: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !until(self) {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{what}: not within 10 s; log:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn pod(&self, pod: &str) -> Namespace {
        Namespace::open(&format!("{}-{pod}", self.name)).unwrap()
    }

    /// Can a open a connection to this port of b, where everything listens that is asked for?
    fn connects(&self, port: u16) -> bool {
        let address: IpAddr = "10.244.0.2".parse().unwrap();
        let _listener = self.pod("b").run(|| TcpListener::bind((address, port)).unwrap()).unwrap();
        let connect = move || {
            TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_millis(400)).is_ok()
        };
        self.pod("a").run(connect).unwrap()
    }

    fn http(&self, path: &str) -> String {
        let path = path.to_owned();
        let get = move || {
            let mut stream = TcpStream::connect("127.0.0.1:9469").unwrap();
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        self.namespace.run(get).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.gateway {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = nix::mount::umount(&self.path("bpf"));
        for name in self.pods.iter().chain([&self.name]) {
            let _ = Namespace::delete(name);
        }
    }
}

/// How the policy of [`policy`] is; `None` if it is not known.
fn standing(node: &Node) -> Option<PolicyStanding> {
    let output = node.ask(&["status", "policies", "-o", "json"]);
    let status: PoliciesStatus = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(if status.all_in_force() { 0 } else { 1 }));
    status.policies.into_iter().find(|policy| policy.policy == "shop/b")
}

fn ready(node: &Node) -> bool {
    let status = node.status();
    status.ready && status.generation_in_force == status.generation_published
}

#[test]
fn policy_is_enforced_and_follows_the_files() {
    let mut node = Node::new();
    node.start();
    for (pod, address) in [("a", "10.244.0.1"), ("b", "10.244.0.2")] {
        let output = node.add_port(pod, address);
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), node.log());
    }
    assert!(node.connects(80), "nothing isolates b yet; {}", node.log());

    node.write("policy.yaml", &policy("{port: 80}"));
    node.wait("the policy is known", |node| node.status().policy.policies == 1 && ready(node));
    assert!(node.connects(80));
    assert!(!node.connects(81));
    let drops = String::from_utf8(node.ask(&["drops"]).stdout).unwrap();
    assert!(drops.contains("policy_ingress shop/a") && drops.contains("by shop/b"), "{drops}");
    let explain = ["explain", "--from", "shop/a", "--to", "shop/b", "--port", "81"];
    let answer = String::from_utf8(node.ask(&explain).stdout).unwrap();
    assert!(
        answer.starts_with("deny") && answer.contains("not-judged") == answer.contains("not judged"),
        "{answer}"
    );

    // A syntax error changes nothing but the status.
    node.write("policy.yaml", "kind: [");
    node.wait("the error is told", |node| node.status().sources[0].bad_files == 1);
    assert!(node.connects(80) && !node.connects(81));
    assert!(node.http("/readyz?verbose").contains("[!]source: "));
    let metrics = node.http("/metrics");
    for line in [
        "podgate_source_bad_files{source=\"manifests\"} 1",
        "podgate_policy_connections_total{policy=\"shop/b\",direction=\"ingress\",verdict=\"deny\"}",
        "podgate_ready 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    node.write("policy.yaml", &policy("{port: 81}"));
    node.wait("it is mended", |node| node.status().sources[0].bad_files == 0 && ready(node));
    assert!(!node.connects(80) && node.connects(81));

    // A second gateway on the same socket is refused, and the first goes on.
    let second =
        node.command(&["run", &format!("--set=socket={}", node.path("socket").display())]).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another podgate"), "{second:?}");
    assert_eq!(node.end("-TERM"), Some(0));
    assert!(!node.path("socket").exists());
    assert!(!node.log().contains("frames were lost"), "{}", node.log());
}

#[test]
fn it_says_how_each_policy_is() {
    let mut node = Node::new();
    node.start();
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    node.wait("it is ready", ready);
    assert_eq!(standing(&node), None);

    // Never without error.
    node.write("policy.yaml", &policy("{port: no}"));
    node.wait("the error is told", |node| standing(node).is_some());
    let never = standing(&node).unwrap();
    assert_eq!((never.state, never.generation), (Standing::NotInForce, None), "{never:?}");
    assert!(never.reason.unwrap().contains("policy.yaml:1: NetworkPolicy shop/b: "));

    node.write("policy.yaml", &policy("{port: 80}"));
    let in_force =
        |node: &Node| standing(node).is_some_and(|policy| policy.state == Standing::InForce && ready(node));
    node.wait("it is in force", in_force);
    assert!(node.connects(80) && !node.connects(81), "{}", node.log());
    let first = standing(&node).unwrap();
    assert_eq!((first.pods_here, first.pods, first.reason), (1, 1, None));
    let since = first.generation.unwrap();
    assert!(since <= node.status().generation_in_force && first.since_ms.is_some());
    let hits = first.ingress.unwrap();
    assert!(hits.allowed >= 1 && hits.denied >= 1 && first.egress.is_none(), "{hits:?}");
    let text = String::from_utf8(node.ask(&["status", "policies"]).stdout).unwrap();
    assert!(text.starts_with("Policies: 1 in force; generation published "), "{text}");
    let row: Vec<&str> = text.lines().find(|line| line.starts_with("shop/b ")).unwrap().split("  ").collect();
    assert_eq!(
        (row[1].trim(), row.last().unwrap().trim()),
        (since.to_string().as_str(), "in force"),
        "{text}"
    );

    // Something else changes: it is in force since then all the same.
    node.write("other.yaml", &policy("{port: 1}").replace("name: b", "name: other"));
    node.wait("the other policy is in force", |node| node.status().policy.policies == 2 && ready(node));
    assert_eq!(standing(&node).unwrap().generation, Some(since));

    // A file that changes nothing that counts is no reason to judge every connection again.
    let published = node.status().generation_published;
    node.write("policy.yaml", "kind: [");
    node.wait("the error is told", |node| standing(node).unwrap().state == Standing::Earlier);
    assert_eq!(node.status().generation_published, published);
    let earlier = standing(&node).unwrap();
    assert_eq!(earlier.generation, Some(since));
    assert!(earlier.reason.unwrap().contains("its file is bad now: "));

    node.write("policy.yaml", &policy("{port: 81}"));
    node.wait("the change is in force", in_force);
    assert!(standing(&node).unwrap().generation.unwrap() > since);
    assert_eq!(node.end("-TERM"), Some(0));
}

#[test]
fn a_killed_gateway_leaves_pods_shut_and_its_successor_takes_over() {
    let mut node = Node::new();
    node.write("policy.yaml", &policy("{port: 80}"));
    node.start();
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    assert!(node.connects(80) && !node.connects(81), "{}", node.log());
    assert_eq!(node.end("-KILL"), None);

    // The kernel is given every chance to pass packets by.
    let forward = || fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    node.namespace.run(forward).unwrap();
    node.ip("route replace 10.244.0.1/32 dev va");
    node.ip("route replace 10.244.0.2/32 dev vb");
    assert!(!node.connects(80));

    node.start();
    node.wait("it is ready again", ready);
    assert_eq!((node.port("a"), node.port("b")), (PortState::Up, PortState::Up), "{}", node.log());
    assert!(node.connects(80) && !node.connects(81), "{}", node.log());
}

/// So many queues need more frames than there are.
#[test]
fn a_port_that_cannot_be_opened_is_set_down() {
    let mut node = Node::new();
    node.write("policy.yaml", &policy("{port: 80}"));
    for pod in ["a", "b"] {
        let name = format!("{}-{pod}", node.name);
        node.ip(&format!("link del v{pod}"));
        node.ip(&format!(
            "link add v{pod} numtxqueues 16 numrxqueues 16 type veth peer name eth0 numtxqueues 16 numrxqueues 16 netns {name}"
        ));
        node.set_up_pod(pod, if pod == "a" { "10.244.0.1" } else { "10.244.0.2" });
        node.ip(&format!("link set v{pod} up"));
        node.ip(&format!("addr add 169.254.1.1/32 dev v{pod}"));
    }
    let forward = || fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    node.namespace.run(forward).unwrap();
    node.start_with(&["--set=frames=16384"]);
    node.ip("route replace 10.244.0.1/32 dev va");
    node.ip("route replace 10.244.0.2/32 dev vb");
    assert!(node.connects(81), "the kernel forwards what nobody asked to be judged");
    for (pod, address) in [("a", "10.244.0.1"), ("b", "10.244.0.2")] {
        let said = node.add_port(pod, address);
        assert!(String::from_utf8_lossy(&said.stdout).contains("raise the setting `frames`"), "{said:?}");
    }
    assert!(!node.connects(81));
}

#[test]
fn a_bad_file_at_the_start_keeps_everything_closed_until_it_is_mended() {
    let mut node = Node::new();
    node.write("policy.yaml", "kind: [");
    node.start();
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    assert!(!node.connects(80));
    let status = node.status();
    assert!(!status.ready && !status.synced);
    assert!(status.problems.iter().any(|problem| problem.message.contains("policy.yaml:1")), "{status:?}");
    assert!(
        node.http("/readyz").starts_with("HTTP/1.0 503") || node.http("/readyz").starts_with("HTTP/1.1 503")
    );
    assert_eq!(node.ask(&["status"]).status.code(), Some(1));
    // What comes from the pods' own node is taken meanwhile.
    let from_node = || TcpStream::connect_timeout(&"10.244.0.2:9".parse().unwrap(), Duration::from_secs(1));
    let refused = |node: &Node| {
        let answer = node.namespace.run(from_node).unwrap();
        answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    node.wait("its own node reaches the pod", refused);

    node.write("policy.yaml", &policy("{port: 80}"));
    node.wait("it is ready", ready);
    assert!(node.connects(80) && !node.connects(81), "{}", node.log());
}

#[test]
fn denied_connections_are_rejected_if_the_settings_say_so() {
    let mut node = Node::new();
    node.write("policy.yaml", &policy("{port: 80}"));
    node.start_with(&["--set=deny=reject"]);
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    node.wait("it is ready", ready);
    assert!(node.connects(80), "{}", node.log());
    // Somebody listens, so it is the gateway that refuses.
    let denied: SocketAddr = "10.244.0.2:81".parse().unwrap();
    let _listener = node.pod("b").run(|| TcpListener::bind(denied).unwrap()).unwrap();
    let connect = || TcpStream::connect_timeout(&denied, Duration::from_secs(5)).map(drop);
    let refused = node.pod("a").run(connect).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{}", node.log());
    let ask = || {
        let socket = UdpSocket::bind("10.244.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(denied).unwrap();
        socket.send(b"who are you?").unwrap();
        socket.recv(&mut [0; 16])
    };
    let refused = node.pod("a").run(ask).unwrap().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::HostUnreachable, "{}", node.log());
}

#[test]
fn ports_come_and_go_with_their_interfaces() {
    let mut node = Node::new();
    node.start();
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    assert!(node.connects(80), "{}", node.log());

    node.ip("link del vb");
    node.wait("the dead port is noticed", |node| node.port("b") == PortState::Down);
    assert!(node.port("a") == PortState::Up);
    node.wire("b", "10.244.0.2");
    node.wait("the new interface is attached", |node| node.port("b") == PortState::Up && ready(node));
    assert!(node.connects(80), "{}", node.log());

    // A port can be wanted before its interface is there, and a pod that nobody knows has a closed one.
    let early = node.ask(&["port", "add", "--interface", "vx", "--pod", "shop/x", "--address", "10.244.0.9"]);
    assert_eq!(early.status.code(), Some(1));
    node.ip("link add vx type veth peer name vxp");
    node.wait("it is attached, but closed", |node| node.port("x") == PortState::Closed);

    let taken = node.ask(&["port", "add", "--interface", "vy", "--pod", "shop/y", "--address", "10.244.0.2"]);
    assert_eq!(taken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("belongs to the port vb"), "{taken:?}");

    node.ip("link del podgate0");
    let host = |node: &Node| {
        node.status().ports.iter().any(|port| port.kind == "host" && port.state == PortState::Up)
    };
    node.wait("the host pair is made again", |node| host(node) && ready(node));
    let from_node = || TcpStream::connect_timeout(&"10.244.0.2:9".parse().unwrap(), Duration::from_secs(1));
    let refused = |node: &Node| {
        let answer = node.namespace.run(from_node).unwrap();
        answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    node.wait("the kernel routes to pods again", refused);

    assert!(node.ask(&["port", "remove", "--interface", "vb"]).status.success());
    assert!(!node.connects(80));
    assert_eq!(node.ask(&["port", "remove", "--interface", "vb"]).status.code(), Some(2));
    let kept = fs::read_to_string(Path::new(&node.path("ports.json"))).unwrap();
    assert!(kept.contains("\"vx\"") && !kept.contains("\"vb\""), "{kept}");
    assert_eq!(node.end("-INT"), Some(0));
    assert!(!node.log().contains("frames were lost"), "{}", node.log());
}

/// An API server that has one namespace, the policy of [`policy`] for port 8080, and one that is not understood.
#[derive(Clone, Default)]
struct ApiServer {
    /// Otherwise it answers 503.
    answers: Arc<AtomicBool>,
    tls: Option<Arc<ServerConfig>>,
    /// Whoever does not show it is not known.
    token: Arc<Mutex<Option<&'static str>>>,
    /// What it was told.
    events: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl ApiServer {
    fn listen(&self, listener: TcpListener) {
        let server = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                // Whoever asks may go at any moment.
                thread::spawn(move || server.serve(stream));
            }
        });
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        match &self.tls {
            Some(tls) => {
                let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
                self.converse(BufReader::new(StreamOwned::new(connection, stream)))
            }
            None => self.converse(BufReader::new(stream)),
        }
    }

    fn converse<S: Read + Write>(&self, mut stream: BufReader<S>) -> io::Result<()> {
        loop {
            let mut lines =
                stream.by_ref().lines().take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()));
            let Some(request) = lines.next().transpose()? else { return Ok(()) };
            let headers = lines.collect::<io::Result<Vec<String>>>()?;
            let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body)?;
            let token = self.token.lock().unwrap().map(|token| format!("authorization: Bearer {token}"));
            let stream = stream.get_mut();
            if !self.answers.load(Ordering::Relaxed) {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")?;
            } else if token.is_some_and(|token| !headers.contains(&token)) {
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")?;
            } else if request.starts_with("POST ") {
                self.events.lock().unwrap().push(serde_json::from_slice(&body)?);
                let head = format!("HTTP/1.1 201 Created\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat())?;
            } else if request.contains("watch=true") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                stream.flush()?;
                thread::sleep(Duration::from_secs(1));
                stream.write_all(b"0\r\n\r\n")?;
            } else {
                let namespace = r#"{"metadata": {"name": "shop", "uid": "n"}}"#;
                let policy = r#"{"metadata": {"name": "b", "namespace": "shop", "uid": "p"}, "spec": {"policyTypes": ["Ingress"],
                    "podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"ports": [{"port": 8080}]}]}},
                    {"metadata": {"name": "odd", "namespace": "shop", "uid": "o"}, "spec": {"ingress": [7], "podSelector":
                    {"matchLabels": {"app": "nobody"}}}}"#;
                let items = match request.split(['?', ' ']).nth(1) {
                    Some("/api/v1/namespaces") => namespace,
                    Some("/apis/networking.k8s.io/v1/networkpolicies") => policy,
                    _ => "",
                };
                let list = format!(r#"{{"metadata": {{"resourceVersion": "7"}}, "items": [{items}]}}"#);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", list.len());
                stream.write_all((head + &list).as_bytes())?;
            }
            stream.flush()?;
        }
    }
}

/// Whether the sources have a problem that says this.
fn told(node: &Node, word: &str) -> bool {
    let status = node.status();
    status.problems.iter().any(|problem| problem.subject == "source" && problem.message.contains(word))
}

#[test]
fn an_api_server_counts_before_manifests_and_stays_in_force_when_it_is_away() {
    let mut node = Node::new();
    node.write("policy.yaml", &policy("{port: 80}"));
    let listener = node.namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'http://{}'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        listener.local_addr().unwrap()
    );
    fs::write(node.path("kubeconfig"), kubeconfig).unwrap();
    let server = ApiServer::default();
    server.listen(listener);
    let file = node.path("kubeconfig").display().to_string();
    node.start_with(&["--kubeconfig", &file, "--node-name", "node-1", "--set=kubernetes_watch=1"]);
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    // The manifests are good, but half of the policies may be missing.
    node.wait("it is told", |node| told(node, "it answers 503"));
    let status = node.status();
    assert!(!status.ready && !status.synced && status.node.as_deref() == Some("node-1"), "{status:?}");
    assert!(!node.connects(80) && !node.connects(8080));

    server.answers.store(true, Ordering::Relaxed);
    node.wait("everything is known", ready);
    assert!(node.connects(8080) && !node.connects(80), "{}", node.log());
    node.wait("the other one is told", |node| told(node, "the API server has it too"));

    server.answers.store(false, Ordering::Relaxed);
    node.wait("it is away", |node| told(node, "what it said last stays in force"));
    assert!(ready(&node) && node.connects(8080) && !node.connects(80), "{}", node.log());
    let line = "podgate_source_current{source=\"kubernetes\",kind=\"Pod\"} 0";
    node.wait("the metrics say so of pods", |node| node.http("/metrics").contains(line));
    server.answers.store(true, Ordering::Relaxed);
    node.wait("it is back", |node| !told(node, "what it said last stays in force"));

    // What cannot be used is one line, before anything is touched.
    let missing = node.path("nowhere").display().to_string();
    let socket = format!("--set=socket={}", node.path("other").display());
    let refused = node
        .command(&["run", "--kubeconfig", &missing, &socket, "--set=metrics_bind_address=none"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&missing), "{refused:?}");
}

#[test]
fn a_pods_service_account_is_enough() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let der = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der).unwrap();
    let server = ApiServer {
        answers: Arc::new(AtomicBool::new(true)),
        tls: Some(Arc::new(tls)),
        token: Arc::new(Mutex::new(Some("first"))),
        events: Arc::default(),
    };
    let mut node = Node::new();
    let listener = node.namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    server.listen(listener);

    let account = node.path("account");
    fs::create_dir(&account).unwrap();
    for (name, content) in [("token", "first"), ("namespace", "kube-system"), ("ca.crt", &certificate.pem())]
    {
        fs::write(account.join(name), content).unwrap();
    }
    let settings =
        ["--set=kubernetes=in-cluster", "--set=kubernetes_watch=1", "--set=kubernetes_events=true"];
    node.start_as(&settings, move |command| {
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", port);
        command.env("NODE_NAME", "node-7");
        // As kubelet does it, and nobody else sees it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let place = "/run/secrets/kubernetes.io/serviceaccount";
        fs::create_dir_all(place).unwrap();
        mount(Some(&account), place, none, MsFlags::MS_BIND, none).unwrap();
    });
    node.add_port("a", "10.244.0.1");
    node.add_port("b", "10.244.0.2");
    node.wait("everything is known", ready);
    assert_eq!(node.status().node.as_deref(), Some("node-7"));
    assert!(node.connects(8080) && !node.connects(80), "{}", node.log());
    node.wait("the owner of the odd one is told", |_| !server.events.lock().unwrap().is_empty());
    let event = server.events.lock().unwrap().remove(0);
    assert_eq!(
        (&event["involvedObject"]["name"], &event["reason"], &event["source"]["host"]),
        (&"odd".into(), &"NotUnderstood".into(), &"node-7".into()),
        "{event}"
    );
    let line = "podgate_source_events_total{source=\"kubernetes\"} 1";
    node.wait("it is counted", |node| node.http("/metrics").contains(line));

    let normal = "selects no live pod";
    node.wait("what is not wrong is in the status", |node| told(node, normal));
    assert!(!node.log().contains(normal), "{}", node.log());

    *server.token.lock().unwrap() = Some("second");
    node.wait("it is refused", |node| told(node, "401"));
    assert!(ready(&node) && node.connects(8080), "{}", node.log());
    fs::write(node.path("account").join("token"), "second").unwrap();
    node.wait("it is known again", |node| !told(node, "401"));
}
