//! Pods that no policy can tell apart, neither as subject nor as peer.
//!
//! A class is a namespace, the noticed labels, what the named ports resolve to, and, rarely, which ipBlocks hold
//! the address (see [`Survey::address_blocks`]). Replicas share one, so selectors are evaluated and programs
//! composed once per class. Classes are numbered namespace by namespace: those of one namespace are one run.

use std::net::IpAddr;
use std::ops::Range;

use podgate_config::model::{Cluster, Pod};

use super::Scope;
use super::lists::{Interner, Lists, Map, number};
use super::ranges::AddressIndex;
use super::survey::Survey;
use super::vocabulary::FeatureIndex;

/// One address of one pod.
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) class: u32,
    pub(super) in_scope: bool,
}

/// The pods' addresses and their classes.
pub(super) struct Classes {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) addresses: AddressIndex,
    /// The classes by what selectors notice of them.
    pub(super) index: FeatureIndex,
    /// By namespace.
    pub(super) runs: Vec<Range<u32>>,
    /// What named ports resolve to, per class.
    pub(super) ports: Lists<(u32, u16)>,
    /// For each of [`Survey::address_blocks`], the classes whose address it holds, ascending.
    pub(super) by_block: Lists<u32>,
    /// Whether some pod of the class is to be judged here.
    pub(super) in_scope: Vec<bool>,
}

impl Classes {
    pub(super) fn new(cluster: &Cluster, survey: &Survey<'_>, scope: Scope<'_>) -> Self {
        let pods = addressed_pods(cluster);
        let addresses = AddressIndex::new(pods.iter().map(|(_, address)| *address));
        let pairs: Vec<(u32, u32)> = survey
            .address_blocks
            .iter()
            .filter_map(|&block| Some((block, survey.blocks.get(block as usize)?)))
            .flat_map(|(block, ranges)| addresses.inside(ranges).map(move |endpoint| (endpoint, block)))
            .collect();
        let endpoint_blocks = Lists::group(pods.len(), pairs.into_iter());

        let mut numbers = Interner::<Vec<u32>>::default();
        let (mut key, mut features, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all_features, mut all_ports, mut all_blocks) =
            (Lists::default(), Lists::default(), Lists::default());
        let mut class_namespaces: Vec<u32> = Vec::new();
        let mut in_scope: Vec<bool> = Vec::new();
        let mut endpoints = Vec::with_capacity(pods.len());
        // Pods come namespace by namespace.
        let mut namespace = (None, u32::MAX);
        for (position, &(pod, address)) in (0u32..).zip(&pods) {
            if namespace.0 != Some(&pod.name.namespace) {
                namespace = (Some(&pod.name.namespace), survey.namespace(&pod.name.namespace));
            }
            features.clear();
            survey.pod_selectors.features(&pod.labels, &mut features);
            ports.clear();
            survey.resolved_ports(pod, &mut ports);
            let blocks = endpoint_blocks.get(position);
            key.clear();
            key.extend([namespace.1, number(features.len()), number(ports.len())]);
            key.extend(features.iter().flat_map(|feature| feature.words()));
            key.extend(ports.iter().flat_map(|&(name, port)| [name, u32::from(port)]));
            key.extend(blocks);

            let (class, new) = numbers.intern_slice(&key);
            if new {
                all_features.push(features.iter().copied());
                all_ports.push(ports.iter().copied());
                all_blocks.push(blocks.iter().copied());
                class_namespaces.push(namespace.1);
                in_scope.push(false);
            }
            let judged = scope.holds(pod);
            if let Some(class_in_scope) = in_scope.get_mut(class as usize) {
                *class_in_scope |= judged;
            }
            endpoints.push(Endpoint { address, class, in_scope: judged });
        }
        let runs = (0..number(survey.namespaces.len()))
            .map(|namespace| {
                let start = class_namespaces.partition_point(|&other| other < namespace);
                let end = class_namespaces.partition_point(|&other| other <= namespace);
                number(start)..number(end)
            })
            .collect();
        let index = FeatureIndex::new(&survey.pod_selectors, all_features);
        let by_block = all_blocks.inverted(survey.blocks.len());
        Self { endpoints, addresses, index, runs, ports: all_ports, by_block, in_scope }
    }

    /// How many classes there are.
    pub(super) fn len(&self) -> u32 {
        self.index.len()
    }

    /// The runs of classes of some namespaces (ascending), neighbours joined.
    pub(super) fn runs_of(&self, namespaces: &[u32]) -> Vec<Range<u32>> {
        let mut joined: Vec<Range<u32>> = Vec::new();
        for run in namespaces.iter().filter_map(|&namespace| self.runs.get(namespace as usize)) {
            match joined.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ if run.is_empty() => {}
                _ => joined.push(run.clone()),
            }
        }
        joined
    }

    /// What the port name `name` resolves to on the pods of `class`.
    pub(super) fn port(&self, class: u32, name: u32) -> Option<u16> {
        self.ports.get(class).iter().find(|&&(known, _)| known == name).map(|&(_, port)| port)
    }
}

/// The addresses of the pods that policy sees as pods. "Succeeded/Failed pods own no address", hostNetwork pods
/// are their node, and of two pods that claim one address the first by name has it (as [`Cluster::pod_at`]).
fn addressed_pods(cluster: &Cluster) -> Vec<(&Pod, IpAddr)> {
    let mut taken: Map<IpAddr, ()> = Map::default();
    cluster
        .pods
        .values()
        .filter(|pod| pod.is_subject())
        .flat_map(|pod| pod.addresses.iter().map(move |&address| (pod, address)))
        .filter(|(_, address)| taken.insert(*address, ()).is_none())
        .collect()
}
