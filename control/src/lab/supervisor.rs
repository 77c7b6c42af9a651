//! The process behind a lab: builds it, answers in its pods, follows the documents or the API server, removes it.
//!
//! `podgate lab up` starts it in a session of its own and waits for its word. It must survive whatever happens to
//! the gateway, because a gateway that was killed is a thing to look at in a lab; it never starts one again by
//! itself. It ends on SIGTERM and takes everything with it; if it is killed, [`super::cleanup`] finds the rest.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use super::agent::Agent;
use super::cleanup;
use super::door::{self, Door};
use super::gateway::{self, GatewayOptions};
use super::origin::{ApiServer, Origin};
use super::plan::{self, External, LabPod, NODE_NAMESPACE, Plan};
use super::state::{Lock, NamespaceState, Phase, Role, State};
use super::test_api;
use super::topology::{self, Node};
use crate::admin::protocol::Request;
use crate::netlink::Namespace;
use crate::status::PortStatus;

/// How long the gateway may take to listen, and again to be ready.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(30);

/// How often the gateway's ports are compared with the pods.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
/// What a lab is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabOptions {
    /// The `-f` paths, absolute.
    pub files: Vec<PathBuf>,
    /// The API server to follow instead of the `-f` paths; `node` is one of its nodes then.
    pub api: Option<ApiServer>,
    /// Workers of the gateway; its own default if left out.
    pub workers: Option<u8>,
    /// Hosts behind uplink ports.
    pub externals: Vec<External>,
    /// MTU of the pods' interfaces.
    pub mtu: u16,
    /// Settings of the gateway, `KEY=VALUE` each.
    pub set: Vec<String>,
    /// The node whose pods live in the lab.
    pub node: Option<String>,
    /// The lab goes with whom it was started for: when standard input ends, the supervisor does.
    pub owned: bool,
}

/// The supervisor's log.
#[must_use]
pub fn log_path() -> PathBuf {
    super::state::file("supervisor.log")
}

/// Where the gateway's log is kept if a lab did not come up.
pub const FAILED_LOG: &str = "/run/podgate/lab-failed.log";

/// What the supervisor says to whom started it, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// What it is doing.
    Progress(String),
    /// The first generation is in force; nothing follows.
    Ready,
    /// It gave up and has removed everything; nothing follows.
    Failed(String),
}

pub(super) fn say(word: &Word) {
    // Whoever listened may be gone; that is no reason to stop.
    if let Ok(text) = serde_json::to_string(word) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}

/// Runs a lab until SIGTERM.
///
/// # Errors
/// What kept it from being built; it has been removed again then.
pub async fn supervise(options: LabOptions) -> anyhow::Result<()> {
    let outcome = run(options).await;
    if let Err(error) = &outcome {
        say(&Word::Failed(format!("{error:#}")));
    }
    outcome
}

async fn run(options: LabOptions) -> anyhow::Result<()> {
    let _lock = Lock::take()?.context("a lab is up already; `podgate lab down` removes it")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    crate::daemon::raise_descriptor_limit();
    if cleanup::remove_everything().await.context("remove what a dead lab left")? {
        say(&Word::Progress("removed what a dead lab left".to_owned()));
    }
    super::state::create_directory()?;

    let mut lab = None;
    let owned = options.owned;
    let result = tokio::select! {
        result = build_and_follow(options, &mut lab) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = owner_gone(owned) => Ok(()),
    };
    if result.is_err() {
        // There may be none yet.
        let _ = keep_log();
    }
    if let Some(mut lab) = lab {
        lab.state.phase = Phase::Stopping;
        // Only `lab status` would read it.
        let _ = lab.state.write();
        drop(lab.agent);
        end_child(lab.gateway).await;
        lab.origin.close().await;
    }
    let removed = cleanup::remove_everything().await;
    let removed = removed.and_then(|_| Ok(cleanup::remove_folder()?));
    result.and(removed)
}

/// Keeps the gateway's log of a lab that could not be built, for root alone as the lab's own folder.
fn keep_log() -> io::Result<()> {
    let mut log = std::fs::File::open(gateway::log_path())?;
    // One that is there has the mode that somebody else gave it.
    let _ = std::fs::remove_file(FAILED_LOG);
    let mut kept = std::fs::File::options().write(true).create_new(true).mode(0o600).open(FAILED_LOG)?;
    io::copy(&mut log, &mut kept).map(drop)
}

/// Ends when standard input does; never if the lab is not owned.
async fn owner_gone(owned: bool) {
    if !owned {
        return std::future::pending().await;
    }
    let (sender, ended) = tokio::sync::oneshot::channel();
    // A thread, because reading standard input cannot be interrupted; it dies with the process.
    let reader = std::thread::Builder::new().name("owner".to_owned()).spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = sender.send(());
    });
    if let Err(error) = reader {
        tracing::warn!(%error, "cannot watch whom this lab belongs to");
        return std::future::pending().await;
    }
    // Its end is all that matters, not how.
    let _ = ended.await;
}

pub(super) async fn end_child(child: Option<Child>) {
    let Some(mut child) = child else { return };
    if let Some(pid) = child.id() {
        let ended = tokio::join!(cleanup::end_process(pid), child.wait());
        // How it ended does not matter any more.
        let _ = ended.1;
    }
}

/// A running lab.
struct Lab {
    options: LabOptions,
    origin: Origin,
    node: Node,
    /// Open as long as the lab lives.
    _door: Option<Door>,
    agent: Agent,
    pods: HashMap<String, (LabPod, Namespace)>,
    state: State,
    gateway: Option<Child>,
}

/// What a lab begins with, before any pod.
struct Begun {
    plan: Plan,
    node: Node,
    door: Option<Door>,
    /// The gateway's command line.
    argv: Vec<String>,
    state: State,
}

async fn begin(options: &LabOptions, origin: &mut Origin) -> anyhow::Result<Begun> {
    let plan = origin.plan(&options.externals, &HashMap::new());
    let kubeconfig = match &options.api {
        None => None,
        Some(ApiServer::Kubeconfig(path)) => Some(path.clone()),
        Some(ApiServer::Test) => Some(test_api::kubeconfig_path()),
    };

    let gateway_options = GatewayOptions {
        // What an API server has is not read twice.
        files: if kubeconfig.is_none() { options.files.clone() } else { Vec::new() },
        workers: options.workers,
        node: plan.node.clone(),
        kubeconfig: kubeconfig.as_ref().map(|_| door::kubeconfig_path()),
        externals: options.externals.clone(),
        set: options.set.clone(),
    };
    let argv = gateway::command_line(&gateway_options)?;
    let state = State {
        phase: Phase::Starting,
        supervisor: std::process::id(),
        owned: options.owned,
        sources: options.files.clone(),
        kubeconfig: kubeconfig.clone(),
        node: plan.node.clone(),
        mtu: options.mtu,
        gateway: argv.clone(),
        namespaces: vec![NamespaceState {
            name: NODE_NAMESPACE.to_owned(),
            role: Role::Node,
            pod: None,
            addresses: plan.node_addresses.clone(),
            interface: None,
            ports: Vec::new(),
        }],
    };
    state.write()?;
    gateway::write_settings(&gateway_options)?;
    gateway::mount_pins().context("mount the lab's bpffs")?;
    let node =
        Node::create(&plan.node_addresses, options.mtu, gateway::uplink_queues(options.workers)).await?;
    let open = |kubeconfig: &Path| door::open(node.namespace(), kubeconfig);
    let door = kubeconfig.as_deref().map(open).transpose()?;
    Ok(Begun { plan, node, door, argv, state })
}

async fn build_and_follow(options: LabOptions, slot: &mut Option<Lab>) -> anyhow::Result<()> {
    let mut origin = Origin::open(&options).await?;
    let Begun { plan, node, door, argv, state } = match begin(&options, &mut origin).await {
        Ok(begun) => begun,
        Err(error) => {
            origin.close().await;
            return Err(error);
        }
    };
    let lab = slot.insert(Lab {
        options,
        origin,
        node,
        _door: door,
        agent: Agent::default(),
        pods: HashMap::new(),
        state,
        gateway: None,
    });

    lab.create_externals(&plan).await?;
    say(&Word::Progress(format!(
        "starting the gateway in {NODE_NAMESPACE}, log in {}",
        gateway::log_path().display()
    )));
    let child = lab.gateway.insert(gateway::spawn(lab.node.namespace(), &argv)?);
    gateway::wait_listening(child, GATEWAY_PATIENCE).await?;

    let living = plan.pods.values().filter(|pod| !pod.host_network).count();
    say(&Word::Progress(format!("building {living} pods")));
    let mut problems = lab.apply(&plan).await;
    let refused = lab.announce().await?;
    problems.extend(refused.iter().map(|(pod, why)| format!("port of pod {pod}: {why}")));
    if !problems.is_empty() {
        // At the start nobody can have got used to half a lab.
        anyhow::bail!(problems.join("; "));
    }
    for warning in &plan.warnings {
        say(&Word::Progress(format!("warning: {warning}")));
    }
    say(&Word::Progress("waiting for the first generation".to_owned()));
    gateway::wait_in_force(&lab.interfaces(), GATEWAY_PATIENCE).await?;
    lab.report(&refused).await?;
    lab.state.phase = Phase::Ready;
    lab.state.write()?;
    say(&Word::Ready);

    let mut tick = tokio::time::interval(ANNOUNCE_EVERY);
    let (mut told, mut refused_before) = (true, refused);
    loop {
        tokio::select! {
            changed = lab.origin.changed() => changed?,
            status = wait_child(&mut lab.gateway) => {
                tracing::warn!(%status, command = lab.state.gateway.join(" "),
                    "the gateway has ended; nothing passes until it is started again in podgate-node");
                continue;
            }
            _ = tick.tick() => {
                // It may have been started again by hand, and have missed pods that came or went.
                let refused = match lab.announce().await {
                    Ok(refused) => refused,
                    Err(error) => {
                        if !gateway::is_away(&error) {
                            tracing::warn!("{error:#}");
                        }
                        continue;
                    }
                };
                for (pod, why) in refused.iter().filter(|(pod, why)| refused_before.get(*pod) != Some(why)) {
                    tracing::warn!("port of pod {pod}: {why}");
                }
                let told_before = told;
                told = match lab.report(&refused).await {
                    Ok(()) => true,
                    Err(error) => {
                        if told_before {
                            tracing::warn!("the API server is not told of everything: {error:#}");
                        }
                        false
                    }
                };
                refused_before = refused;
                continue;
            }
        }
        let plan = lab.origin.plan(&lab.options.externals, &lab.kept_addresses());
        for problem in lab.apply(&plan).await.iter().chain(&plan.warnings) {
            tracing::warn!("{problem}");
        }
        tick.reset_immediately();
    }
}

/// Waits for a process's end; forever if it has ended before, or there is none.
pub(super) async fn wait_child(child: &mut Option<Child>) -> String {
    let ended = match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    };
    *child = None;
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

impl Lab {
    async fn create_externals(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for external in self.options.externals.clone() {
            let name = external.namespace();
            self.remember(NamespaceState {
                name: name.clone(),
                role: Role::External,
                pod: None,
                addresses: external.addresses(),
                interface: Some(external.interface()),
                ports: Vec::new(),
            })?;
            topology::write_hosts(&name, &plan.hosts(""))?;
            let namespace = self.node.create_external(&external, &plan.node_addresses).await?;
            // An external answers to HTTP and to DNS-like probes, as something to reach from the pods.
            let ports =
                [plan::AnswerPort::Tcp(80), plan::AnswerPort::Tcp(443), plan::AnswerPort::Udp(53)].into();
            for problem in self.agent.serve(&name, &namespace, &ports) {
                tracing::warn!("{problem}");
            }
            self.set_ports(&name, &ports);
        }
        Ok(())
    }

    /// Changes what differs from `plan`. Goes on after a failure; returns what failed, one line each.
    async fn apply(&mut self, plan: &Plan) -> Vec<String> {
        let mut problems = Vec::new();
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(name, (pod, _))| !plan.pods.get(*name).is_some_and(|wanted| same_wire(pod, wanted)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Err(error) = self.delete_pod(&name).await {
                problems.push(format!("pod {name} does not go: {error:#}"));
            }
        }
        for (name, wanted) in &plan.pods {
            if !self.pods.contains_key(name)
                && let Err(error) = self.create_pod(wanted, plan).await
            {
                problems.push(format!("pod {name} does not come: {error:#}"));
                continue;
            }
            if let Some((pod, namespace)) = self.pods.get_mut(name).filter(|(pod, _)| same_wire(pod, wanted))
            {
                pod.ports.clone_from(&wanted.ports);
                problems.extend(self.agent.serve(name, namespace, &wanted.ports));
                if !wanted.host_network {
                    self.set_ports(&wanted.netns, &wanted.ports);
                }
            }
        }
        for namespace in &self.state.namespaces {
            let inside =
                namespace.pod.as_deref().and_then(|pod| pod.split_once('/')).map_or("", |(inside, _)| inside);
            if let Err(error) = topology::write_hosts(&namespace.name, &plan.hosts(inside)) {
                problems.push(format!("no names in {}: {error}", namespace.name));
            }
        }
        if let Err(error) = self.state.write() {
            problems.push(format!("cannot write the lab's state down: {error}"));
        }
        problems
    }

    async fn create_pod(&mut self, pod: &LabPod, plan: &Plan) -> anyhow::Result<()> {
        if pod.host_network {
            let namespace = self.node.namespace().duplicate()?;
            self.pods.insert(pod.name.clone(), (pod.clone(), namespace));
            return Ok(());
        }
        if self.state.namespaces.iter().any(|known| known.name == pod.netns) {
            // What is left of a pod that did not come, or not go, whole.
            self.remove_wire(pod).await?;
        }
        if Namespace::path(&pod.netns).exists() {
            anyhow::bail!("a network namespace {} exists already and is not this lab's", pod.netns);
        }
        self.remember(NamespaceState {
            name: pod.netns.clone(),
            role: Role::Pod,
            pod: Some(pod.name.clone()),
            addresses: pod.addresses.clone(),
            interface: Some(pod.interface.clone()),
            ports: Vec::new(),
        })?;
        let inside = pod.name.split_once('/').map_or("", |(inside, _)| inside);
        topology::write_hosts(&pod.netns, &plan.hosts(inside))?;
        let namespace = match self.node.create_pod(pod).await {
            Ok(namespace) => namespace,
            Err(error) => {
                // Half a pod would be in the way of the next attempt.
                self.remove_wire(pod).await?;
                return Err(error.into());
            }
        };
        self.pods.insert(pod.name.clone(), (pod.clone(), namespace));
        Ok(())
    }

    /// Tells the gateway what it does not know: pods that came, and interfaces that went. Gives the pods whose port it does not
    /// take, and why: one of them is no reason to keep the others from theirs.
    async fn announce(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let ports: Vec<PortStatus> = gateway::ask(Request::PortList).await?;
        let wired = || self.pods.values().map(|(pod, _)| pod).filter(|pod| !pod.host_network);
        for port in ports.iter().filter(|port| port.kind == "pod") {
            let known = wired().any(|pod| pod.interface == port.interface && pod.addresses == port.addresses);
            if !known {
                gateway::remove_port(&port.interface).await?;
            }
        }
        let mut refused = BTreeMap::new();
        for pod in wired() {
            let known =
                |port: &PortStatus| port.interface == pod.interface && port.addresses == pod.addresses;
            if !ports.iter().any(known)
                && let Err(error) = gateway::add_port(pod).await
            {
                if gateway::is_away(&error) {
                    return Err(error);
                }
                refused.insert(pod.name.clone(), format!("{error:#}"));
            }
        }
        Ok(refused)
    }

    /// Tells the API server of the pods that are there. A pod whose port is refused does not run: nobody judges its packets.
    async fn report(&mut self, refused: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let pods = self.pods.values().map(|(pod, _)| (pod, !refused.contains_key(&pod.name)));
        self.origin.report(pods).await
    }

    async fn delete_pod(&mut self, name: &str) -> anyhow::Result<()> {
        self.agent.stop(name);
        let Some((pod, _)) = self.pods.get(name) else { return Ok(()) };
        if pod.host_network {
            self.pods.remove(name);
            return Ok(());
        }
        let pod = pod.clone();
        match gateway::remove_port(&pod.interface).await {
            Err(error) if !gateway::is_away(&error) => tracing::warn!("port {}: {error:#}", pod.interface),
            _ => {}
        }
        // Whoever takes a pod for gone deletes it for good at the API server.
        self.remove_wire(&pod).await?;
        self.pods.remove(name);
        Ok(())
    }

    async fn remove_wire(&mut self, pod: &LabPod) -> anyhow::Result<()> {
        self.node.delete_pod(pod).await?;
        topology::remove_hosts(&pod.netns);
        self.state.namespaces.retain(|namespace| namespace.name != pod.netns);
        self.state.write()?;
        Ok(())
    }

    /// Writes a namespace down before it is made.
    fn remember(&mut self, namespace: NamespaceState) -> io::Result<()> {
        self.state.namespaces.retain(|known| known.name != namespace.name);
        self.state.namespaces.push(namespace);
        self.state.write()
    }

    fn set_ports(&mut self, netns: &str, ports: &std::collections::BTreeSet<plan::AnswerPort>) {
        if let Some(namespace) = self.state.namespaces.iter_mut().find(|namespace| namespace.name == netns) {
            namespace.ports = ports.iter().copied().collect();
        }
    }

    fn kept_addresses(&self) -> HashMap<String, Vec<IpAddr>> {
        self.pods.iter().map(|(name, (pod, _))| (name.clone(), pod.addresses.clone())).collect()
    }

    /// Every interface that must be a port.
    fn interfaces(&self) -> Vec<String> {
        let pods =
            self.pods.values().filter(|(pod, _)| !pod.host_network).map(|(pod, _)| pod.interface.clone());
        pods.chain(self.options.externals.iter().map(External::interface)).collect()
    }
}

/// Whether a running pod can go on as what is wanted: everything but its ports is the same.
fn same_wire(running: &LabPod, wanted: &LabPod) -> bool {
    running.uid == wanted.uid
        && running.addresses == wanted.addresses
        && running.host_network == wanted.host_network
}
