//! A `podgate run` of its own, fed by a folder of manifests, for tests of what it answers and not of packets.
//!
//! It lives in a network namespace without pods. Their ports are asked for all the same, by interfaces that never come: what
//! is wanted says whose an address is and who is judged here, so every question about policy is answered as if the pods were
//! there, by the tables that the workers have. Nothing outside of the namespace and a temporary folder is touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
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
    _nest: Nest,
    folder: TempDir,
    child: Child,
    client: Option<Client>,
    /// By pod: its interface, and its addresses.
    ports: BTreeMap<String, (String, Vec<IpAddr>)>,
    interfaces: u32,
}

impl Gateway {
    /// Starts one on a folder of manifests that is empty, or has what `prepare` puts there.
    ///
    /// # Panics
    /// If it does not start, with its log.
    #[must_use]
    pub fn start(prepare: impl FnOnce(PathBuf)) -> Self {
        let mut nest = Nest::new();
        let name = nest.add("node");
        for address in NODE_ADDRESSES {
            run(&format!("ip -n {name} addr add {address} dev lo"));
        }
        let folder = TempDir::new().expect("a temporary folder");
        for inside in ["manifests", "bpf"] {
            fs::create_dir(folder.path().join(inside)).expect(inside);
        }
        prepare(folder.path().join("manifests"));
        let mut command = Command::new(podgate());
        command.args(["run", "--set=metrics_bind_address=none", "--set=workers=1"]);
        command.args(["--set=frames=16384", "--set=ring_size=64", "--set=flows=1024"]);
        command.args(["--set=flows_per_pod=512", "--set=flow_history=0"]);
        for (key, file) in [("socket", "socket"), ("ports_file", "ports.json"), ("bpffs", "bpf")] {
            command.arg(format!("--set={key}={}", folder.path().join(file).display()));
        }
        command.arg("-f").arg(folder.path().join("manifests"));
        let log = File::create(folder.path().join("log")).expect("its log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let spawn = move || command.spawn().expect("podgate starts");
        let child = nest.open(&name).run(spawn).expect("a thread inside the namespace");
        let ports = BTreeMap::new();
        let mut gateway = Self { _nest: nest, folder, child, client: None, ports, interfaces: 0 };
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

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn ask<T: DeserializeOwned>(&mut self, request: Request) -> T {
        let answer = self.client.as_mut().map(|client| client.ask(request.clone()));
        match answer {
            Some(Ok(answer)) => answer,
            other => panic!("{request:?}: {:?}; its log:\n{}", other.and_then(Result::err), self.log()),
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
                let _: Value = self.ask(Request::PortRemove { interface });
            }
        }
        for (pod, addresses) in pods {
            if self.ports.contains_key(pod) {
                continue;
            }
            self.interfaces += 1;
            let interface = format!("never{}", self.interfaces);
            let spec = PortSpec {
                interface: interface.clone(),
                pod: pod.clone(),
                addresses: addresses.clone(),
                mac: None,
            };
            let _: PortStatus = self.ask(Request::PortAdd(spec));
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
    /// If it takes too long, or the gateway has ended, with its log.
    pub fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none(), "{what}: the gateway has ended; its log:\n{}", self.log());
            if Instant::now() > end {
                let files: Vec<_> = fs::read_dir(self.manifests()).into_iter().flatten().flatten().collect();
                let (status, policies, log) = (self.status(), self.policies(), self.log());
                panic!("{what}: waited in vain; {files:?}\n{status:?}\n{policies:?}\nits log:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.child.wait();
        let _ = nix::mount::umount(&self.path("bpf"));
    }
}
