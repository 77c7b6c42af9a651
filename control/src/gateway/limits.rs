//! Who fills what is limited: what the workers charge to each port, and when that is worth a word.

use std::time::Instant;

use podgate_dataplane::by_port::{ByPort, Events};
use podgate_dataplane::clock::{Clock, Instant64, MonotonicClock};
use podgate_dataplane::fragment::{self, Limits};
use podgate_dataplane::packet::{PortId, PortKind};
use podgate_dataplane::worker::WorkerView;

use super::Gateway;
use crate::status::{PortErrors, PortFlows, PortFragments, PortNeighbours, PortStatus, Problem};

/// For so many seconds after a refusal it is told as a problem.
const RECENT_SECONDS: u64 = 60;

/// From this part of its share on, in percent, who has fragments is told.
const LARGE_PERCENT: u64 = 50;

impl Gateway {
    /// Writes into a port's status what is charged to it, by all workers.
    pub(super) fn add_charges(&self, port: &mut PortStatus) {
        let Some(id) = port.id.map(PortId) else { return };
        let now = MonotonicClock::new().now();
        let (mut flows, mut fragments, mut errors) =
            (PortFlows::default(), PortFragments::default(), PortErrors::default());
        for charge in self.charges(id, |view| &view.charges) {
            flows.open += u64::from(charge.flows());
            flows.embryonic += u64::from(charge.embryonic());
            flows.evicted += charge.evicted();
            add_refused((&mut flows.refused, &mut flows.refused_seconds_ago), charge.refused(), now);
        }
        let shares = shares(&self.options.fragments, port);
        for charge in self.charges(id, |view| &view.fragments) {
            fragments.datagrams += u64::from(charge.datagrams());
            fragments.held += u64::from(charge.held());
            fragments.share_percent = fragments.share_percent.max(percent(charge, shares));
            let refused = (&mut fragments.refused, &mut fragments.refused_seconds_ago);
            add_refused(refused, charge.refused(), now);
        }
        for charge in self.charges(id, |view| &view.errors) {
            errors.sent += charge.sent();
            add_refused((&mut errors.refused, &mut errors.refused_seconds_ago), charge.refused(), now);
        }
        (port.flows, port.fragments, port.errors) = (flows, fragments, errors);
        port.neighbours = self.neighbours.status(id, Instant::now());
    }

    fn charges<'a, T: 'a>(
        &'a self,
        id: PortId,
        of: impl Fn(&'a WorkerView) -> &'a ByPort<T>,
    ) -> impl Iterator<Item = &'a T> {
        self.engine.views().filter_map(move |view| of(view).of(id))
    }

    /// Who comes close to a limit, or has met one lately.
    pub(super) fn limit_problems(&self, ports: &[PortStatus]) -> Vec<Problem> {
        let half = self.options.flows.min(self.options.flows_per_pod) as u64 / 2;
        let problem = |subject: &str, message| Problem { error: false, subject: subject.to_owned(), message };
        let flows = ports.iter().flat_map(|port| flow_messages(port, half));
        let flows = flows.map(|message| problem("flows", message));
        let fragments =
            ports.iter().filter_map(fragment_message).map(|message| problem("fragments", message));
        let errors = ports.iter().filter_map(error_message).map(|message| problem("errors", message));
        let neighbours =
            ports.iter().filter_map(neighbour_message).map(|message| problem("neighbours", message));
        flows.chain(fragments).chain(errors).chain(neighbours).collect()
    }
}

fn add_refused((count, seconds_ago): (&mut u64, &mut Option<u64>), refused: &Events, now: Instant64) {
    *count += refused.count();
    if let Some(latest) = refused.latest() {
        let seconds = now.since(latest).as_secs();
        *seconds_ago = Some(seconds_ago.map_or(seconds, |other| other.min(seconds)));
    }
}

/// How many datagrams and fragments a port may have in one worker: a pod sends from its own addresses alone.
fn shares(limits: &Limits, port: &PortStatus) -> (usize, usize) {
    let most = (Limits::per_port(limits.datagrams), Limits::per_port(limits.held));
    if port.kind != PortKind::Pod.name() {
        return most;
    }
    let addresses = port.addresses.len().max(1);
    let own = |per_source: usize| per_source.saturating_mul(addresses);
    (most.0.min(own(limits.datagrams_per_source())), most.1.min(own(limits.held_per_source)))
}

fn percent(charge: &fragment::Charge, (datagrams, held): (usize, usize)) -> u64 {
    let of = |has: u32, most: usize| u64::from(has) * 100 / (most as u64).max(1);
    of(charge.datagrams(), datagrams).max(of(charge.held(), held))
}

fn is_recent(seconds_ago: Option<u64>) -> bool {
    seconds_ago.is_some_and(|seconds| seconds < RECENT_SECONDS)
}

fn ago(seconds_ago: Option<u64>) -> String {
    match seconds_ago {
        Some(0) | None => "just now".to_owned(),
        Some(seconds) => format!("{seconds} s ago"),
    }
}

fn flow_messages(port: &PortStatus, half: u64) -> Vec<String> {
    let (whose, flows) = (port.whose(), &port.flows);
    let mut messages = Vec::new();
    if flows.embryonic >= half {
        messages.push(format!(
            "{whose} has {} connections that are not established: a flood? Its oldest ones make room for new ones",
            flows.embryonic
        ));
    }
    if is_recent(flows.refused_seconds_ago) {
        messages.push(format!(
            "{} new connections of {whose} found no room, the last one {}; it has {}",
            flows.refused,
            ago(flows.refused_seconds_ago),
            flows.open
        ));
    }
    messages
}

fn fragment_message(port: &PortStatus) -> Option<String> {
    let (whose, fragments) = (port.whose(), &port.fragments);
    let is_refused = is_recent(fragments.refused_seconds_ago);
    if fragments.share_percent < LARGE_PERCENT && !is_refused {
        return None;
    }
    let mut message = format!(
        "{whose} has {} datagrams in fragments, and {} fragments that wait: {} % of its share",
        fragments.datagrams, fragments.held, fragments.share_percent
    );
    if is_refused {
        let ago = ago(fragments.refused_seconds_ago);
        message += &format!("; {} found no room, the last one {ago}", fragments.refused);
    }
    Some(message)
}

fn error_message(port: &PortStatus) -> Option<String> {
    let PortErrors { sent, refused, refused_seconds_ago } = port.errors;
    is_recent(refused_seconds_ago).then(|| {
        format!(
            "{refused} errors and resets about packets of {} were not sent, the last one {}, after {sent} that were",
            port.whose(),
            ago(refused_seconds_ago)
        )
    })
}

fn neighbour_message(port: &PortStatus) -> Option<String> {
    let PortNeighbours { wanted, refused, refused_seconds_ago } = port.neighbours;
    is_recent(refused_seconds_ago).then(|| {
        format!(
            "{} has sent to {wanted} neighbours that nobody has found yet; {refused} packets wanted more of them, \
             the last one {}",
            port.whose(),
            ago(refused_seconds_ago)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PortState;

    fn port(kind: PortKind, addresses: &[&str]) -> PortStatus {
        PortStatus {
            interface: "v0".to_owned(),
            kind: kind.name().to_owned(),
            id: Some(1),
            pod: (kind == PortKind::Pod).then(|| "shop/web".to_owned()),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mac: None,
            workers: vec![0],
            queue_changes: 0,
            state: PortState::Up,
            detail: None,
            flows: PortFlows::default(),
            fragments: PortFragments::default(),
            errors: PortErrors::default(),
            neighbours: PortNeighbours::default(),
        }
    }

    #[test]
    fn a_pod_has_the_shares_of_its_addresses_and_an_uplink_those_of_a_port() {
        let limits = Limits { datagrams: 100, held: 80, held_per_source: 20, ..Limits::default() };
        let one = port(PortKind::Pod, &["10.0.0.1"]);
        assert_eq!(shares(&limits, &one), (25, 20));
        assert_eq!(shares(&limits, &port(PortKind::Pod, &["10.0.0.1", "fd00::1"])), (50, 40));
        assert_eq!(shares(&limits, &port(PortKind::Uplink, &[])), (75, 60));
        let wide = Limits { held_per_source: 80, ..limits };
        assert_eq!(shares(&wide, &one), (25, 60));
    }

    #[test]
    fn who_fills_a_limit_is_told() {
        let (mut pod, mut uplink) = (port(PortKind::Pod, &["10.0.0.1"]), port(PortKind::Uplink, &[]));
        assert_eq!(fragment_message(&pod), None);
        pod.fragments = PortFragments { datagrams: 7, held: 49, share_percent: 49, ..pod.fragments };
        assert_eq!(fragment_message(&pod), None);
        pod.fragments = PortFragments { held: 50, share_percent: 50, ..pod.fragments };
        assert_eq!(
            fragment_message(&pod).unwrap(),
            "shop/web has 7 datagrams in fragments, and 50 fragments that wait: 50 % of its share"
        );
        uplink.fragments = PortFragments { refused: 3, refused_seconds_ago: Some(59), ..uplink.fragments };
        assert_eq!(
            fragment_message(&uplink).unwrap(),
            "uplink v0 has 0 datagrams in fragments, and 0 fragments that wait: 0 % of its share; 3 found no room, \
             the last one 59 s ago"
        );
        uplink.fragments.refused_seconds_ago = Some(60);
        assert_eq!(fragment_message(&uplink), None, "that was long ago");

        assert!(error_message(&pod).is_none() && flow_messages(&pod, 10).is_empty());
        pod.errors = PortErrors { sent: 100, refused: 2, refused_seconds_ago: Some(0) };
        assert_eq!(
            error_message(&pod).unwrap(),
            "2 errors and resets about packets of shop/web were not sent, the last one just now, after 100 that were"
        );
        assert!(neighbour_message(&pod).is_none());
        pod.neighbours = PortNeighbours { wanted: 256, refused: 9, refused_seconds_ago: Some(2) };
        assert_eq!(
            neighbour_message(&pod).unwrap(),
            "shop/web has sent to 256 neighbours that nobody has found yet; 9 packets wanted more of them, the last one \
             2 s ago"
        );
        pod.flows =
            PortFlows { open: 12, embryonic: 10, refused: 5, refused_seconds_ago: Some(1), evicted: 0 };
        assert_eq!(
            flow_messages(&pod, 11),
            ["5 new connections of shop/web found no room, the last one 1 s ago; it has 12"]
        );
        assert_eq!(flow_messages(&pod, 10).len(), 2);
    }
}
