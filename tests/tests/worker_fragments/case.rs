//! A gateway with two pods and one elsewhere, and steps that send one frame each.
//!
//! Everything that comes out is compared byte for byte, drops are compared by reason, what waits is counted, and the rig itself
//! holds that every packet and frame is accounted for.

use std::collections::BTreeMap;

use af_xdp::twin::Sent;
use podgate_config::model::*;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Charge;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::cluster::{Addresses, name, pods};
use podgate_tests::frames::{From, assert_forwarded};
use podgate_tests::rig::Rig;

/// A rig with the pods of [`pods`], two of which have a port, and what to expect of it.
pub struct Case {
    /// The gateway.
    pub rig: Rig,
    /// Its pods and policies.
    pub cluster: Cluster,
    /// The port of the pod `shop/a`, on the first worker.
    pub a: PortId,
    /// The port of the pod `shop/b`, on the last worker.
    pub b: PortId,
    /// Whose address is which.
    pub at: Addresses,
    /// How many workers there are.
    pub workers: u8,
    /// All drops that must have been counted by now.
    pub drops: BTreeMap<DropReason, u64>,
}

impl Case {
    /// With so many workers, over IPv4 or IPv6.
    pub fn new(workers: u8, six: bool, established: Established) -> Self {
        Self::with(workers, six, &WorkerSettings { established, ..WorkerSettings::default() })
    }

    /// The same with these settings.
    pub fn with(workers: u8, six: bool, settings: &WorkerSettings) -> Self {
        let mut rig = Rig::new(workers, settings);
        let mut cluster = Cluster::default();
        for pod in pods() {
            cluster.pods.insert(pod.name.clone(), pod);
        }
        let a = rig.add_pod(&name("shop/a"), WorkerId(0));
        let b = rig.add_pod(&name("shop/b"), WorkerId(workers - 1));
        rig.publish(&cluster);
        Self { rig, cluster, a, b, at: Addresses { six }, workers, drops: BTreeMap::new() }
    }

    /// Puts a policy in force besides those there are.
    pub fn policy(&mut self, policy: NetworkPolicy) {
        self.cluster.policies.insert(policy.name.clone(), policy.into());
        self.rig.publish(&self.cluster);
    }

    /// Packets from `a` to `b`.
    pub fn a_to_b(&self) -> From {
        From::new(self.a, self.at.a(), self.at.b())
    }

    /// Packets from `b` to `a`.
    pub fn b_to_a(&self) -> From {
        From::new(self.b, self.at.b(), self.at.a())
    }

    /// Sends a frame; what comes out of which port.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<(PortId, Sent)> {
        assert!(self.rig.deliver(port, frame));
        self.rig.settle()
    }

    /// The frame must come out of `to`, rewritten as a router does and otherwise unchanged.
    #[track_caller]
    pub fn passes(&mut self, from: PortId, frame: &[u8], to: PortId) {
        self.releases(from, frame, &[frame], to);
    }

    /// With the frame, all of these must come out of `to`, in this order, each as [`Case::passes`] says.
    #[track_caller]
    pub fn releases(&mut self, from: PortId, frame: &[u8], out: &[&[u8]], to: PortId) {
        let all = self.send(from, frame);
        assert_eq!(all.len(), out.len(), "expected {} at {to}, got {all:?}", out.len());
        for ((port, sent), frame) in all.iter().zip(out) {
            assert_eq!(*port, to);
            assert_forwarded(frame, &sent.bytes, to);
        }
        self.holds();
    }

    /// The frame must be dropped for this reason and for no other.
    #[track_caller]
    pub fn drops(&mut self, from: PortId, frame: &[u8], reason: DropReason) {
        let sent = self.send(from, frame);
        assert!(sent.is_empty(), "{sent:?}");
        *self.drops.entry(reason).or_default() += 1;
        self.holds();
    }

    /// The frame must be kept: nothing comes out, and nothing is dropped.
    #[track_caller]
    pub fn waits(&mut self, from: PortId, frame: &[u8]) {
        let before = self.held();
        assert_eq!(self.send(from, frame), []);
        assert_eq!(self.held(), before + 1);
        self.holds();
    }

    /// So many frames that waited must have been dropped for this reason by now.
    #[track_caller]
    pub fn gone(&mut self, count: u64, reason: DropReason) {
        assert_eq!(self.rig.settle(), []);
        *self.drops.entry(reason).or_default() += count;
        self.holds();
    }

    /// So many frames that wait will be dropped for this reason, with the next step.
    pub fn taking_along(&mut self, count: u64, reason: DropReason) -> &mut Self {
        *self.drops.entry(reason).or_default() += count;
        self
    }

    /// Frames that wait, in all workers.
    pub fn held(&self) -> u64 {
        self.rig.counts().held
    }

    /// Nothing is remembered or held any more.
    #[track_caller]
    pub fn at_rest(&self) {
        assert_eq!((self.rig.datagrams(), self.held()), (0, 0));
        let has_some = |(_, charge): (_, &Charge)| charge.datagrams() > 0 || charge.held() > 0;
        assert!(!self.rig.fragment_charges().any(has_some));
    }

    /// Nothing but what was expected was dropped so far; and what waits, and what was refused, is some port's.
    #[track_caller]
    pub fn holds(&self) {
        assert_eq!(self.rig.drops(), self.drops);
        let sum =
            |of: fn(&Charge) -> u64| self.rig.fragment_charges().map(|(_, charge)| of(charge)).sum::<u64>();
        assert_eq!(sum(|charge| charge.datagrams().into()), self.rig.datagrams());
        assert_eq!(sum(|charge| charge.held().into()), self.held());
        let limits = [DropReason::FragmentSourceLimit, DropReason::FragmentTableFull];
        let refused: u64 = limits.iter().filter_map(|reason| self.drops.get(reason)).sum();
        assert_eq!(sum(|charge| charge.refused().count()), refused);
    }
}

/// Runs a case in every shape.
pub fn each(case: impl Fn(Case)) {
    each_with(Established::Recheck, case);
}

/// The same with this setting.
pub fn each_with(established: Established, case: impl Fn(Case)) {
    for workers in [1, 2, 3] {
        for six in [false, true] {
            eprintln!("workers {workers}, IPv{}", if six { 6 } else { 4 });
            case(Case::new(workers, six, established));
        }
    }
}
