//! Bringing the gateway's devices up and down.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_dataplane::af_xdp::{self, Socket};
use podgate_dataplane::engine::{Engine, EngineConfig, EngineError, Idle};
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::port::{AfXdpPort, Shares};
use podgate_dataplane::snapshot::{Mac, Snapshot};
use podgate_dataplane::worker::{Deny, Established, WorkerSettings};
use tokio::sync::{mpsc, watch};

use super::devices::{Device, Devices, Steer};
use super::handle::{DropFeed, GatewayHandle, InForce};
use super::kernel::KernelView;
use super::neighbours::Neighbours;
use super::options::Options;
use super::pace::Pace;
use super::ports::{self, Ends, Open, PortTable, Purpose, Seat, Wanted};
use super::publish::Publisher;
use super::review::Review;
use super::survey;
use super::{Gateway, Waiting};
use crate::netlink::{Link, LinkSettings, NeighbourKind, Netlink, NetlinkError, Route, Watch};
use crate::ports::file::PortFile;
use crate::ports::wires::{self, HOST_GATEWAY, WireError};
use crate::source::SourceState;
use crate::source::kubernetes::Subscription;
use crate::telemetry::metrics::Metrics;

/// Questions that wait for the loop at most; more wait where they are asked.
const ASKS_AHEAD: usize = 64;

/// Frames that a worker begins with, beyond those in its ports' rings.
const WORKER_FRAMES: usize = 4096;

/// How long workers may take to obey before a port is given to them in other shares.
const PATIENCE_ATTACHING: Duration = Duration::from_millis(200);

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel's tables.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Its own veth pairs.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Packet memory, sockets or programs.
    #[error(transparent)]
    AfXdp(#[from] af_xdp::Error),
    /// The workers.
    #[error("cannot start the workers: {0}")]
    Engine(#[from] EngineError),
    /// The host port is needed for everything.
    #[error("cannot open the host port {HOST_GATEWAY}: {0}")]
    Host(String),
    /// Metrics.
    #[error("metrics: {0}")]
    Metrics(String),
}

/// The engine's part of the options.
fn engine_config(options: &Options) -> EngineConfig {
    // Remote ends choose what is hashed with it: fresh for each start.
    let random = RandomState::new();
    let worker = WorkerSettings {
        flows: options.flows,
        flows_per_pod: options.flows_per_pod,
        flow_history: options.flow_history,
        timeouts: options.timeouts,
        fragments: options.fragments,
        established: if options.keep_established { Established::Keep } else { Established::Recheck },
        deny: if options.reject { Deny::Reject } else { Deny::Drop },
        seed: [0u8, 1, 2, 3].map(|number| random.hash_one(number)),
        frames: WORKER_FRAMES,
        ..WorkerSettings::default()
    };
    let idle = if options.spin { Idle::Spin } else { Idle::Sleep };
    EngineConfig { cores: options.cores.clone(), idle, worker, retired: options.retired }
}

impl Gateway {
    /// Makes the gateway's own veth pairs and the packet memory, starts the workers, and opens the host port, the uplinks
    /// and every port that is known from the last run or the settings. Only the host port has to succeed.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then but the veth pairs, which the next start uses again.
    pub async fn start(
        options: Options,
        source: watch::Receiver<SourceState>,
        api: Option<Subscription>,
    ) -> Result<(Self, GatewayHandle), StartError> {
        // Subscribed before anything is listed, so that nothing is missed in between.
        let events = Watch::subscribe()?;
        let netlink = Netlink::connect()?;
        wires::ensure_anchor_pair(&netlink).await?;
        wires::ensure_host_pair(&netlink, options.host_mtu).await?;
        wires::quiet();
        let kernel = KernelView::list(&netlink).await?;
        let metrics = Metrics::new().map_err(|error| StartError::Metrics(error.to_string()))?;

        let mut devices = Devices::new(options.frames, options.ring_size, options.bpffs.clone())?;
        let region = devices.region();
        let engine = Engine::start(&engine_config(&options), &region, devices.ledger(), Snapshot::closed())?;

        let (asks_in, asks) = mpsc::channel(ASKS_AHEAD);
        let publisher = Publisher::new(&options);
        let (in_force, in_force_out) = watch::channel(InForce::Closed);
        let drops = Arc::new(DropFeed::default());
        let handle = GatewayHandle::new(asks_in, in_force_out, drops.clone());
        let port_file = PortFile::at(options.ports_file.clone());
        let mut gateway = Self {
            options,
            netlink,
            events,
            kernel,
            source,
            api_synced: api.is_none(),
            api,
            devices,
            engine,
            ports: PortTable::default(),
            port_file,
            publisher,
            review: Review::default(),
            closed: BTreeMap::new(),
            metrics,
            asks,
            in_force,
            drops,
            lost_drops: 0,
            waiting: Vec::<Waiting>::new(),
            told_dead: 0,
            unlisted: false,
            pace: Pace::default(),
            next_tick: Instant::now(),
            next_retry: Instant::now(),
            published: Instant::now(),
            recompile: false,
            source_lives: true,
            api_lives: true,
            next_survey: Instant::now() + survey::INTERVAL,
            surveyed: 0,
            neighbours: Neighbours::default(),
            steered: BTreeMap::new(),
            started: Instant::now(),
        };
        gateway.open_all().await?;
        Ok((gateway, handle))
    }

    async fn open_all(&mut self) -> Result<(), StartError> {
        // A name that is taken can only be one of the settings' own; it is told like any other port that cannot be opened.
        let mut want = |interface: &str, purpose| {
            if let Err(error) = self.ports.want(interface, purpose) {
                tracing::error!(interface, %error, "port is left out");
            }
        };
        want(HOST_GATEWAY, Purpose::Host);
        for uplink in &self.options.uplinks {
            want(uplink, Purpose::Uplink);
        }
        let (kept, error) = self.port_file.load();
        if let Some(error) = error {
            tracing::error!("{error}");
        }
        let configured = self.options.ports.iter().map(|spec| (spec, true));
        for (spec, configured) in configured.chain(kept.iter().map(|spec| (spec, false))) {
            match ports::parse(spec, configured) {
                Ok(purpose) => want(&spec.interface, purpose),
                Err(error) => tracing::error!(interface = spec.interface, %error, "port is left out"),
            }
        }
        let interfaces: Vec<String> = self.ports.iter().map(|(interface, _)| interface.clone()).collect();
        for interface in interfaces {
            self.open(&interface).await;
        }
        self.tell_orphans();
        if let Some(Err(reason)) = self.ports.get(HOST_GATEWAY).map(|wanted| &wanted.state) {
            return Err(StartError::Host(reason.clone()));
        }
        self.recompile = true;
        self.publish().await;
        Ok(())
    }

    /// What an earlier gateway has shut and nobody wants: pins of devices that are gone are removed, the others are told.
    fn tell_orphans(&self) {
        for interface in self.devices.pinned() {
            if self.kernel.link(&interface).is_none() {
                self.devices.forget(&interface);
            } else if self.ports.get(&interface).is_none() {
                tracing::warn!(
                    interface,
                    "shut by an earlier podgate, and no port now; add it as one, or delete it"
                );
            }
        }
    }

    /// Opens a port that is wanted, if it is not open; the state says how that went.
    pub(super) async fn open(&mut self, interface: &str) {
        let Some(wanted) = self.ports.get(interface) else { return };
        if wanted.state.is_ok() {
            return;
        }
        let (purpose, seat) = (wanted.purpose.clone(), wanted.seat);
        let before = wanted.state.as_ref().err().cloned();
        let (state, sockets) = match self.try_open(interface, &purpose, seat).await {
            Ok((open, sockets)) => (Ok(open), sockets),
            Err(reason) => (Err(reason), Vec::new()),
        };
        match &state {
            Ok(open) => {
                let kept = open.attachment.taken_over();
                let workers: Vec<u8> = open.shares.workers().map(|worker| worker.0).collect();
                let (queues, barred) = (open.queues.receive, open.attachment.barred());
                tracing::info!(interface, kind = %purpose.kind(), ?workers, queues, kept, barred, "port is open");
            }
            Err(reason) if before.as_ref() == Some(reason) => {}
            Err(reason) => tracing::warn!(interface, kind = %purpose.kind(), reason, "port is not open"),
        }
        if purpose.kind() != PortKind::Pod {
            // A new host pair has no routes, a new uplink no addresses.
            self.steered.clear();
        }
        let shares = state.as_ref().ok().map(|open| open.shares);
        if let Some(wanted) = self.ports.get_mut(interface) {
            wanted.state = state;
        }
        let Some(shares) = shares else { return };
        if seat.is_some_and(|seat| seat.shares != shares) {
            // What is under way by the old shares ends before anything goes by the new ones: so flows stay in order.
            self.publish().await;
            self.until_in_force().await;
        }
        if let Err(error) = self.attach(interface, sockets)
            && let Some(wanted) = self.ports.get_mut(interface)
        {
            tracing::error!(interface, %error, "port is not open");
            if let Ok(open) = std::mem::replace(&mut wanted.state, Err(error.to_string())) {
                // Some workers have their shares; what they receive must not count as that of the number's next port.
                self.take_port_back(&open);
            }
        }
    }

    async fn try_open(
        &mut self,
        interface: &str,
        purpose: &Purpose,
        seat: Option<Seat>,
    ) -> Result<(Open, Vec<Socket>), String> {
        let link = self.netlink.link(interface).await.map_err(|error| error.to_string())?;
        let link = link.ok_or("there is no interface of this name in the gateway's network namespace")?;
        let ends = self.ends(&link, purpose).await?;

        let is_charged = |id| {
            let mut charges = self.engine.views().filter_map(|view| view.charges.of(PortId(id)));
            charges.any(|charge| charge.flows() > 0)
        };
        let id = seat.map(|seat| seat.id).or_else(|| self.ports.free_id(is_charged));
        let id = id.ok_or("all port numbers are in use")?;
        let workers = self.options.cores.len();
        // The owners of a pod's connections follow from its worker, so it stays.
        let single = seat.map_or_else(|| self.ports.least_loaded(workers), |seat| seat.shares.home());
        let steer = match purpose {
            Purpose::Uplink => Steer::Addresses(Vec::new()),
            _ => Steer::Everything,
        };
        let zero_copy = *purpose == Purpose::Uplink;
        let opened = tokio::task::block_in_place(|| {
            // What workers do not need has gathered since ports were closed.
            let needed = self.devices.frames_for(interface)?;
            self.engine.reclaim_frames(self.devices.ledger(), needed);
            self.devices.open(interface, &steer, zero_copy)
        });
        let Device { sockets, attachment, queues } = match opened {
            Ok(device) => device,
            Err(error) if purpose.kind() == PortKind::Pod => {
                // Whoever made it may have set it up: then the kernel would take the pod's packets, and judge nothing.
                return Err(match self.set_down(interface, Some(link.index)).await {
                    Ok(()) => format!("{error}; the interface is set down until that is mended"),
                    Err(down) => {
                        format!("{error}; and it cannot be set down, so the pod may reach the kernel: {down}")
                    }
                });
            }
            Err(error) => return Err(error.to_string()),
        };
        // Not before its program is there: what a pod sends must not meet the kernel instead.
        if let Err(error) = self.netlink.bring_up(link.index).await {
            sockets.into_iter().for_each(|socket| self.devices.ledger().give_back(socket.close()));
            return Err(error.to_string());
        }
        let shares = match purpose {
            Purpose::Uplink => Shares::spread_over(queues, workers, single),
            _ => Shares::whole(single),
        };
        Ok((Open { id, index: link.index, queues, shares, ends, attachment }, sockets))
    }

    /// What the kernel says of both ends of a device. Raises this end's MTU if the other end's is larger: what is larger than
    /// this end's is dropped by veth without a word.
    pub(super) async fn ends(&self, link: &Link, purpose: &Purpose) -> Result<Ends, String> {
        let mac = link.mac.ok_or("the interface is no Ethernet device")?;
        let of_link = |mtu| u16::try_from(mtu).unwrap_or(u16::MAX);
        let told = match purpose {
            Purpose::Uplink => return Ok(Ends { mac, peer_mac: Mac::default(), mtu: of_link(link.mtu) }),
            Purpose::Host => None,
            Purpose::Pod { mac, .. } => *mac,
        };
        let (peer, why) = match self.netlink.veth_peer(link).await {
            Ok(peer) => (peer, "is it a veth pair?".to_owned()),
            Err(error) => (None, error.to_string()),
        };
        let peer_mac = told.or_else(|| peer.as_ref()?.mac).ok_or_else(|| {
            format!(
                "the MAC address of the interface's other end cannot be found out ({why}); say it with --mac"
            )
        })?;
        let mtu = peer.map_or(link.mtu, |peer| peer.mtu);
        if mtu > link.mtu {
            let settings = LinkSettings { mtu: Some(mtu), ..LinkSettings::default() };
            self.netlink.set_link(link.index, settings).await.map_err(|error| error.to_string())?;
        }
        Ok(Ends { mac, peer_mac, mtu: of_link(mtu) })
    }

    /// Gives the sockets of a port that is open to its workers.
    fn attach(&mut self, interface: &str, sockets: Vec<Socket>) -> Result<(), EngineError> {
        let Some(Wanted { purpose, state: Ok(open), seat, .. }) = self.ports.get_mut(interface) else {
            return Ok(());
        };
        *seat = None;
        let (id, kind) = (PortId(open.id), purpose.kind());
        for (worker, share) in open.shares.share_out(sockets) {
            if let Some(port) = AfXdpPort::new(share) {
                self.engine.attach(id, kind, worker, Box::new(port))?;
            }
        }
        Ok(())
    }

    /// Waits until what was published is in force, but not for a worker that is stuck.
    async fn until_in_force(&mut self) {
        let end = Instant::now() + PATIENCE_ATTACHING;
        while self.engine.generation_in_force() < self.engine.generation_published() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Opens a port anew, in its place: its connections go on. Its program stays on the device meanwhile and drops.
    pub(super) async fn reopen(&mut self, interface: &str, why: String) {
        let Some(wanted) = self.ports.get_mut(interface) else { return };
        let Ok(open) = std::mem::replace(&mut wanted.state, Err(why)) else { return };
        wanted.seat = Some(Seat { id: open.id, shares: open.shares });
        self.take_port_back(&open);
        drop(open);
        self.open(interface).await;
        self.note(false);
    }

    /// A device went away: its port stays wanted, its frames come back.
    pub(super) fn device_gone(&mut self, index: u32) {
        let gone = self.ports.open().find(|(_, _, open)| open.index == index);
        let Some(interface) = gone.map(|(interface, ..)| interface.clone()) else { return };
        tracing::warn!(interface, "the interface is gone");
        let reason = Err("the interface is gone".to_owned());
        if let Some(wanted) = self.ports.get_mut(&interface)
            && let Ok(open) = std::mem::replace(&mut wanted.state, reason)
        {
            self.close_device(open);
        }
        self.devices.forget(&interface);
        self.note(true);
    }

    /// Makes the host pair again if somebody deleted it: without it no pod reaches anything but pods. The kernel reports the
    /// new one, and it is opened then.
    pub(super) async fn mend_host_pair(&mut self) {
        if self.ports.get(HOST_GATEWAY).is_some_and(|wanted| wanted.state.is_err()) {
            match wires::ensure_host_pair(&self.netlink, self.options.host_mtu).await {
                Ok(_) => wires::quiet(),
                Err(error) => tracing::error!(%error, "the host pair is gone and cannot be made again"),
            }
        }
    }

    /// Removes a port for good. The interface is set down first: its program goes, and until somebody deletes it the pod
    /// must not reach the kernel by it. That counts for a port, too, that could not be opened anew: it is shut by what is
    /// pinned alone. One that never was open was set down then, or was no pod's.
    pub(super) async fn close_port(&mut self, interface: &str) {
        let Some(wanted) = self.ports.remove(interface) else { return };
        let is_shut = wanted.state.is_ok() || self.devices.pinned().iter().any(|name| name == interface);
        let index = wanted.state.as_ref().ok().map(|open| open.index);
        if is_shut && let Err(error) = self.set_down(interface, index).await {
            // Its program stays, with its pins.
            tracing::error!(interface, %error, "the interface cannot be set down, so it stays shut instead");
            if let Ok(open) = &wanted.state {
                self.take_port_back(open);
            }
            return;
        }
        if let Ok(open) = wanted.state {
            self.neighbours.forget(PortId(open.id));
            self.close_device(open);
        }
        self.devices.forget(interface);
        tracing::info!(interface, "port is removed");
    }

    /// Sets the interface of a port down. Fine if it is gone.
    async fn set_down(&self, interface: &str, index: Option<u32>) -> Result<(), NetlinkError> {
        let index = match index {
            Some(index) => Some(index),
            None => self.netlink.link(interface).await?.map(|link| link.index),
        };
        let Some(index) = index else { return Ok(()) };
        let down = LinkSettings { up: Some(false), ..LinkSettings::default() };
        match self.netlink.set_link(index, down).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    fn close_device(&mut self, open: Open) {
        self.take_port_back(&open);
        let interface = open.attachment.interface().name().to_owned();
        if let Err(error) = open.attachment.detach() {
            tracing::warn!(interface, %error, "the program of a removed port is left on it");
        }
    }

    /// Gets a port back from its workers and its frames back to the ledger.
    fn take_port_back(&mut self, open: &Open) {
        for worker in open.shares.workers() {
            match self.engine.detach(PortId(open.id), worker) {
                Ok(Some(port)) => {
                    let frames = tokio::task::block_in_place(|| port.close());
                    self.devices.ledger().give_back(frames);
                }
                Ok(None) => {}
                Err(error) => {
                    let interface = open.attachment.interface().name();
                    tracing::error!(interface, %error, "the port's frames are lost until the next start");
                }
            }
        }
    }

    /// Stops the workers. Devices stay shut, with their programs pinned, unless the settings say otherwise.
    pub(super) async fn stop(self) {
        let Self { engine, ports, options, netlink, mut devices, .. } = self;
        tokio::task::block_in_place(|| engine.stop(devices.ledger()));
        let missing = devices.ledger().total() - devices.ledger().free();
        if missing > 0 {
            tracing::warn!(missing, "frames were lost, please report this");
        }
        if !options.open_on_exit {
            tracing::info!("stopped; pods are cut off until the next start");
            return;
        }
        for (interface, wanted) in ports.into_all() {
            let Ok(open) = wanted.state else { continue };
            if let Purpose::Pod { port, .. } = &wanted.purpose {
                for address in &port.addresses {
                    let route = Route::host(*address, open.index);
                    if let Err(error) = netlink.add_route(&route).await {
                        tracing::error!(interface, %error, "no route to the pod");
                    }
                    let neighbour = NeighbourKind::Permanent(open.ends.peer_mac);
                    if let Err(error) = netlink.set_neighbour(open.index, *address, neighbour).await {
                        tracing::error!(interface, %error, "no neighbour for the pod");
                    }
                }
            }
            if let Err(error) = open.attachment.detach() {
                tracing::error!(interface, %error, "the port stays shut");
            }
        }
        tracing::warn!("stopped; on_exit is open, so pods' packets pass by without judgement");
    }
}
