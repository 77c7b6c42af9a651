//! A `podgate run` of its own, fed by a folder of manifests, inside a network namespace of a test's own.
//!
//! [`Gateway::start_in`] runs it where the test has wired pods. [`Gateway::start`] makes a namespace without pods, for tests of
//! what it answers and not of packets: ports are asked for all the same, by interfaces that never come. What is wanted says
//! whose an address is and who is judged here, so every question about policy is answered as if the pods were there, by the
//! tables that the workers have. Nothing outside of the namespace and a temporary folder is touched. When a test fails while
//! it has one, the gateway's log is printed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podgate_config::manifest::NODE_ADDRESSES;
use podgate_control::admin::client::Client;
use podgate_control::admin::protocol::{PortSpec, Request};
use podgate_control::status::{PoliciesStatus, PortStatus, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Said, podgate};
use crate::netns::{Nest, run};
use crate::program;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway; it ends with this.
pub struct Gateway {
    /// If the namespace is its own.
    _nest: Option<Nest>,
    folder: TempDir,
    child: Child,
    client: Option<Client>,
    /// By pod: its interface, and its addresses.
    ports: BTreeMap<String, (String, Vec<IpAddr>)>,
    interfaces: u32,
}

impl Gateway {
    /// Starts one without pods, on a folder of manifests that is empty, or has what `prepare` puts there.
    ///
    /// # Panics
    /// If it does not start, with its log.
    #[must_use]
    pub fn start(prepare: impl FnOnce(&Path)) -> Self {
        let mut nest = Nest::new();
        let name = nest.add("node");
        for address in NODE_ADDRESSES {
            run(&format!("ip -n {name} addr add {address} dev lo"));
        }
        let settings =
            ["metrics_bind_address=none", "workers=1", "frames=16384", "ring_size=64", "flows=1024"];
        let more = ["flows_per_pod=512", "flow_history=0"];
        let mut gateway = Self::start_in(&nest, &name, &[&settings[..], &more].concat(), prepare);
        gateway._nest = Some(nest);
        gateway
    }

    /// Starts one inside a namespace, with these settings (`key=value`) besides those that keep it in its folder.
    ///
    /// # Panics
    /// If it does not start, with its log.
    #[must_use]
    pub fn start_in(nest: &Nest, space: &str, settings: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        for inside in ["manifests", "bpf"] {
            fs::create_dir(folder.path().join(inside)).expect(inside);
        }
        prepare(&folder.path().join("manifests"));
        let mut command = Command::new(podgate());
        command.arg("run").args(settings.iter().map(|setting| format!("--set={setting}")));
        for (key, file) in [("socket", "socket"), ("ports_file", "ports.json"), ("bpffs", "bpf")] {
            command.arg(format!("--set={key}={}", folder.path().join(file).display()));
        }
        command.arg("-f").arg(folder.path().join("manifests"));
        let log = File::create(folder.path().join("log")).expect("its log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let spawn = move || command.spawn().expect("podgate starts");
        let child = nest.open(space).run(spawn).expect("a thread inside the namespace");
        let ports = BTreeMap::new();
        let mut gateway = Self { _nest: None, folder, child, client: None, ports, interfaces: 0 };
        let socket = gateway.path("socket");
        gateway.wait("it answers", |gateway| {
            gateway.client = Client::connect(&socket).ok();
            gateway.client.is_some()
        });
        gateway
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.path("manifests")
    }

    /// Where it pins what is to outlive it.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.path("bpf")
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn ask<T: DeserializeOwned>(&mut self, request: Request) -> T {
        let answer = self.client.as_mut().map(|client| client.ask(request.clone()));
        match answer {
            Some(Ok(answer)) => answer,
            other => panic!("{request:?}: {:?}", other.and_then(Result::err)),
        }
    }

    /// `podgate status`.
    #[must_use]
    pub fn status(&mut self) -> Status {
        self.ask(Request::Status)
    }

    /// `podgate status policies`.
    #[must_use]
    pub fn policies(&mut self) -> PoliciesStatus {
        self.ask(Request::StatusPolicies)
    }

    /// Resident memory of its process in bytes, shared memory included.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kibibytes * 1024
    }

    /// What the status says of a port.
    ///
    /// # Panics
    /// If there is no port of this interface.
    #[must_use]
    pub fn port(&mut self, interface: &str) -> PortStatus {
        let ports = self.status().ports;
        ports.into_iter().find(|port| port.interface == interface).expect(interface)
    }

    /// `podgate port add`.
    pub fn add_port(&mut self, interface: &str, pod: &str, addresses: &[IpAddr]) {
        self.add_port_of(interface, pod, None, addresses);
    }

    /// `podgate port add` for the pod of this UID and no other of its name.
    pub fn add_port_of(&mut self, interface: &str, pod: &str, uid: Option<&str>, addresses: &[IpAddr]) {
        let (interface, pod, uid) = (interface.to_owned(), pod.to_owned(), uid.map(ToOwned::to_owned));
        let spec = PortSpec { interface, pod, uid, addresses: addresses.to_vec(), mac: None };
        let _: PortStatus = self.ask(Request::PortAdd(spec));
    }

    /// `podgate port remove`.
    pub fn remove_port(&mut self, interface: &str) {
        let _: Value = self.ask(Request::PortRemove { interface: interface.to_owned() });
    }

    /// Has a port for each of these pods with these addresses, and no other.
    pub fn serve(&mut self, pods: &BTreeMap<String, Vec<IpAddr>>) {
        let gone: Vec<String> = self
            .ports
            .iter()
            .filter(|(pod, (_, addresses))| pods.get(*pod) != Some(addresses))
            .map(|(pod, _)| pod.clone())
            .collect();
        for pod in gone {
            if let Some((interface, _)) = self.ports.remove(&pod) {
                self.remove_port(&interface);
            }
        }
        for (pod, addresses) in pods {
            if self.ports.contains_key(pod) {
                continue;
            }
            self.interfaces += 1;
            let interface = format!("never{}", self.interfaces);
            self.add_port(&interface, pod, addresses);
            self.ports.insert(pod.clone(), (interface, addresses.clone()));
        }
    }

    /// `podgate explain --probes -`, by the program.
    #[must_use]
    pub fn explain(&self, probes: &str) -> Said {
        let socket = self.path("socket");
        let socket = socket.to_str().expect("UTF-8");
        program::run(self.folder.path(), &["explain", "--probes", "-", "--socket", socket], probes)
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it takes too long, or the gateway has ended.
    pub fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none(), "{what}: the gateway has ended");
            if Instant::now() > end {
                let files: Vec<_> = fs::read_dir(self.manifests()).into_iter().flatten().flatten().collect();
                let (status, policies) = (self.status(), self.policies());
                panic!("{what}: waited in vain; {files:?}\n{status:?}\n{policies:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it as a person would. Its folder stays until this is dropped.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.child.wait().expect("its state");
        assert_eq!(status.code(), Some(0));
    }

    /// Asks it to end, if it has not ended: its process id may be another one's by then.
    fn terminate(&mut self) {
        if let (Ok(None), Ok(id)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
        self.terminate();
        let _ = self.child.wait();
        let _ = nix::mount::umount(&self.pins());
    }
}
