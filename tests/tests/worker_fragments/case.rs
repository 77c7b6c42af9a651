//! A gateway with two pods, and steps that send one frame each.
//!
//! Everything that comes out is compared byte for byte, drops are compared by reason, what waits is counted, and the rig itself
//! holds that every packet and frame is accounted for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use af_xdp::twin::Sent;
use podgate_config::model::*;
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::fragment::Charge;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::worker::{Established, WorkerSettings};
use podgate_tests::cluster::{ip, name, pod};
use podgate_tests::frames::From;
use podgate_tests::rig::{ROUTER_MAC, Rig, UPLINK, gateway_mac, peer_mac};

/// A rig with three pods, and what to expect of it.
pub struct Case {
    /// The gateway.
    pub rig: Rig,
    /// Its pods and policies.
    pub cluster: Cluster,
    /// The port of the pod `shop/a`, on the first worker.
    pub a: PortId,
    /// The port of the pod `shop/b`, on the last worker.
    pub b: PortId,
    /// Over IPv6?
    pub six: bool,
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
        for pod in [
            pod("shop/a", [ip("10.244.0.1"), ip("fd00:10:244::1")]),
            pod("shop/b", [ip("10.244.0.2"), ip("fd00:10:244::2")]),
            pod("shop/remote", [ip("10.244.9.9"), ip("fd00:10:244::9:9")]),
        ] {
            cluster.pods.insert(pod.name.clone(), pod);
        }
        let a = rig.add_pod(&name("shop/a"), WorkerId(0));
        let b = rig.add_pod(&name("shop/b"), WorkerId(workers - 1));
        rig.publish(&cluster);
        Self { rig, cluster, a, b, six, workers, drops: BTreeMap::new() }
    }

    /// Puts a policy in force besides those there are.
    pub fn policy(&mut self, policy: NetworkPolicy) {
        self.cluster.policies.insert(policy.name.clone(), policy);
        self.rig.publish(&self.cluster);
    }

    /// The one of the case's family.
    pub fn address(&self, v4: &str, v6: &str) -> IpAddr {
        ip(if self.six { v6 } else { v4 })
    }

    /// Address of `a`.
    pub fn a_ip(&self) -> IpAddr {
        self.address("10.244.0.1", "fd00:10:244::1")
    }

    /// Address of `b`.
    pub fn b_ip(&self) -> IpAddr {
        self.address("10.244.0.2", "fd00:10:244::2")
    }

    /// An address behind the uplink.
    pub fn outside_ip(&self) -> IpAddr {
        self.address("192.0.2.7", "2001:db8::7")
    }

    /// Packets from `a` to `b`.
    pub fn a_to_b(&self) -> From {
        From::new(self.a, self.a_ip(), self.b_ip())
    }

    /// Packets from `b` to `a`.
    pub fn b_to_a(&self) -> From {
        From::new(self.b, self.b_ip(), self.a_ip())
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
            let destination = if to == UPLINK { ROUTER_MAC } else { peer_mac(to) };
            assert_eq!(sent.bytes[..6], destination);
            assert_eq!(sent.bytes[6..12], gateway_mac(to));
            let mut expected = frame.to_vec();
            expected[..12].copy_from_slice(&sent.bytes[..12]);
            if self.six {
                expected[21] -= 1;
            } else {
                expected[22] -= 1;
                expected[24..26].copy_from_slice(&sent.bytes[24..26]);
                let header = etherparse::Ipv4Header::from_slice(&sent.bytes[14..]).unwrap().0;
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
            assert_eq!(sent.bytes, expected);
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
