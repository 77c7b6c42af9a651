//! Kinds that are almost ours.
//!
//! A kind that is not ours is skipped. A policy whose kind or apiVersion is misspelt must not be: it would be out of
//! force without a word, where the API server refuses it ("no matches for kind"). Only the API server's own groups are
//! looked at; those of others may call anything by our names, as Calico does with NetworkPolicy.

/// Our kinds, and the version of each.
const OURS: &[(&str, &str)] = &[
    ("Namespace", "v1"),
    ("Node", "v1"),
    ("Pod", "v1"),
    ("NetworkPolicy", "networking.k8s.io/v1"),
    ("Deployment", "apps/v1"),
    ("ReplicaSet", "apps/v1"),
    ("StatefulSet", "apps/v1"),
    ("DaemonSet", "apps/v1"),
    ("Job", "batch/v1"),
];

/// The other kinds of networking.k8s.io (k8s.io/api/networking).
const NETWORKING: &[&str] = &["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"];

/// The field that keeps an object from being one of ours, and what is wrong with it; `None` for kinds of others.
pub fn misspelt(version: &str, kind: &str) -> Option<(&'static str, String)> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    // Groups of others have a domain name of their own.
    if group.contains('.') && !group.ends_with("networking.k8s.io") {
        return None;
    }
    let ours = OURS.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(kind));
    if let Some((ours, expected)) = ours {
        return Some(match *ours == kind {
            true => ("apiVersion", format!("is {version:?}, expected {expected} for a {kind}")),
            false => ("kind", format!("is {kind:?}, expected {ours}")),
        });
    }
    let item = kind.strip_suffix("List").unwrap_or(kind);
    (group == "networking.k8s.io" && !NETWORKING.contains(&item))
        .then(|| ("kind", format!("is {kind:?}, expected NetworkPolicy or another kind of {group}")))
}
