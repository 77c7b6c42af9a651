//! One worker and the pods' ports in memory that it serves, for measurements of turns by themselves.
//!
//! The sockets have frames of their own beside the worker's, as they have when a port is opened: a port that began empty
//! would take the worker's, and its first turns would measure that.

use af_xdp::{Abilities, Region};
use anyhow::{Context, Result};
use podgate_dataplane::clock::MonotonicClock;
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::port::{MemoryPort, MemoryWire, Port};
use podgate_dataplane::worker::{Worker, WorkerEnds, WorkerSettings, commons, workers};

/// Frames of the worker's own.
const FRAMES: u32 = 2048;

/// A worker, the far ends of its ports, and what it is looked at by.
pub struct OneWorker {
    /// The worker.
    pub worker: Worker<MonotonicClock>,
    /// By number of the port.
    pub wires: Vec<MemoryWire>,
    /// Its counters and flows.
    pub ends: Vec<WorkerEnds>,
}

impl OneWorker {
    /// With so many pods' ports, numbered from 0, whose rings have `ring` entries each; turns of at most `batch` packets; and
    /// room for so many connections, all of which may be one pod's.
    ///
    /// # Errors
    /// The memory cannot be had, or a number is none that a worker can have.
    pub fn new(ports: u16, ring: u32, batch: usize, flows: usize) -> Result<Self> {
        let sockets = u32::from(ports) * ring;
        let (region, mut ledger) = Region::new(FRAMES + sockets)?;
        let settings = WorkerSettings {
            flows,
            flows_per_pod: flows,
            batch,
            seed: [1, 2, 3, 4],
            ..WorkerSettings::default()
        };
        let pools = vec![ledger.pool(FRAMES as usize)];
        let (mut made, ends) = workers(&region, pools, &commons(&region), &settings, &MonotonicClock::new())?;
        let mut worker = made.pop().context("one worker")?;
        let mut frames = ledger.pool(sockets as usize);
        let mut wires = Vec::new();
        for id in 0..ports {
            let (mut port, wire) = MemoryPort::new(&region, ring, Abilities::new(true, true))?;
            port.refill(&mut frames);
            worker.attach(PortId(id), PortKind::Pod, Box::new(port));
            wires.push(wire);
        }
        Ok(Self { worker, wires, ends })
    }
}
