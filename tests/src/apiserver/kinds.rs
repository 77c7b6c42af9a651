//! The kinds the server knows, one row each: all that makes one kind different from another is in this table.
//!
//! Where a kind is served under two groups (Event), both rows name the same `plural`, and the store keeps one form.
//! A new kind is a new row; columns of `kubectl get` ([`super::table`]) and defaults ([`super::defaults`]) are extra.

/// One kind under one group and version.
#[derive(Debug)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version in that group.
    pub version: &'static str,
    /// Name in paths; also the name of its place in the store.
    pub plural: &'static str,
    /// Name for one of it on the command line.
    pub singular: &'static str,
    /// Kind in documents.
    pub kind: &'static str,
    /// Short names on the command line.
    pub short: &'static [&'static str],
    /// Command line words for several kinds, as `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether `/status` is a subresource, so that other writes leave the status alone.
    pub status: bool,
    /// Whether `metadata.generation` counts changes of its spec.
    pub generation: bool,
    /// Field selectors beyond name and namespace, with the JSON pointer each one looks at.
    pub fields: &'static [(&'static str, &'static str)],
    /// Lists that are merged, not replaced: path without list places, and the keys (none: a set of values).
    pub lists: &'static [(&'static str, &'static [&'static str])],
    /// Maps that server-side apply takes or leaves as a whole.
    pub atomic: &'static [&'static str],
}

impl Resource {
    /// `apiVersion` in documents.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural` or `plural.group`, as error messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The keys of a merged list, `None` for one that is replaced.
    #[must_use]
    pub fn list_keys(&self, path: &str) -> Option<&'static [&'static str]> {
        EVERYWHERE.iter().chain(self.lists).find(|(known, _)| *known == path).map(|(_, keys)| *keys)
    }
}

const EVERYWHERE: &[(&str, &[&str])] =
    &[("metadata.ownerReferences", &["uid"]), ("metadata.finalizers", &[])];

const POD_LISTS: &[(&str, &[&str])] = &[
    ("spec.containers", &["name"]),
    ("spec.containers.ports", &["containerPort", "protocol"]),
    ("spec.containers.env", &["name"]),
    ("spec.containers.volumeMounts", &["mountPath"]),
    ("spec.initContainers", &["name"]),
    ("spec.initContainers.ports", &["containerPort", "protocol"]),
    ("spec.initContainers.env", &["name"]),
    ("spec.initContainers.volumeMounts", &["mountPath"]),
    ("spec.volumes", &["name"]),
    ("spec.imagePullSecrets", &["name"]),
    ("spec.hostAliases", &["ip"]),
    ("status.conditions", &["type"]),
    ("status.podIPs", &["ip"]),
    ("status.hostIPs", &["ip"]),
];

const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

const PLAIN: Resource = Resource {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    kind: "",
    short: &[],
    categories: &[],
    namespaced: true,
    status: false,
    generation: false,
    fields: &[],
    lists: &[],
    atomic: &[],
};

/// Namespaces: other modules look for them.
pub static NAMESPACES: Resource = Resource {
    plural: "namespaces",
    singular: "namespace",
    kind: "Namespace",
    short: &["ns"],
    namespaced: false,
    status: true,
    fields: &[("status.phase", "/status/phase")],
    lists: &[("status.conditions", &["type"])],
    ..PLAIN
};

/// Pods: they die gracefully.
pub static PODS: Resource = Resource {
    plural: "pods",
    singular: "pod",
    kind: "Pod",
    short: &["po"],
    categories: &["all"],
    status: true,
    generation: true,
    fields: &[
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.restartPolicy", "/spec/restartPolicy"),
        ("spec.schedulerName", "/spec/schedulerName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("spec.hostNetwork", "/spec/hostNetwork"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
        ("status.nominatedNodeName", "/status/nominatedNodeName"),
    ],
    lists: POD_LISTS,
    atomic: &["spec.nodeSelector"],
    ..PLAIN
};

static NODES: Resource = Resource {
    plural: "nodes",
    singular: "node",
    kind: "Node",
    short: &["no"],
    namespaced: false,
    status: true,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    lists: &[("status.conditions", &["type"]), ("status.addresses", &["type"]), ("spec.podCIDRs", &[])],
    ..PLAIN
};

static SERVICES: Resource = Resource {
    plural: "services",
    singular: "service",
    kind: "Service",
    short: &["svc"],
    categories: &["all"],
    status: true,
    fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    lists: &[("spec.ports", &["port", "protocol"]), ("status.conditions", &["type"])],
    atomic: &["spec.selector"],
    ..PLAIN
};

const EVENT: Resource = Resource {
    plural: "events",
    singular: "event",
    kind: "Event",
    short: &["ev"],
    fields: EVENT_FIELDS,
    ..PLAIN
};

/// Events in the form that the store keeps.
pub static EVENTS: Resource = EVENT;

static NEW_EVENTS: Resource = Resource { group: "events.k8s.io", ..EVENT };

static NETWORK_POLICIES: Resource = Resource {
    group: "networking.k8s.io",
    plural: "networkpolicies",
    singular: "networkpolicy",
    kind: "NetworkPolicy",
    short: &["netpol"],
    generation: true,
    atomic: &["spec.podSelector"],
    ..PLAIN
};

static ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    plural: "endpointslices",
    singular: "endpointslice",
    kind: "EndpointSlice",
    generation: true,
    ..PLAIN
};

static LEASES: Resource =
    Resource { group: "coordination.k8s.io", plural: "leases", singular: "lease", kind: "Lease", ..PLAIN };

static CLUSTER_NETWORK_POLICIES: Resource = Resource {
    group: "policy.networking.k8s.io",
    version: "v1alpha2",
    plural: "clusternetworkpolicies",
    singular: "clusternetworkpolicy",
    kind: "ClusterNetworkPolicy",
    short: &["cnp"],
    namespaced: false,
    status: true,
    generation: true,
    lists: &[("status.conditions", &["type"])],
    atomic: &["spec.subject"],
    ..PLAIN
};

/// All kinds; the last one only where a server has its CRD.
#[must_use]
pub fn all(cluster_network_policies: bool) -> Vec<&'static Resource> {
    let mut kinds = vec![
        &NAMESPACES,
        &PODS,
        &NODES,
        &SERVICES,
        &EVENTS,
        &NETWORK_POLICIES,
        &ENDPOINT_SLICES,
        &LEASES,
        &NEW_EVENTS,
    ];
    if cluster_network_policies {
        kinds.push(&CLUSTER_NETWORK_POLICIES);
    }
    kinds
}
