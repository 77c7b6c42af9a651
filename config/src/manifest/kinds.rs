//! Kinds that are almost ours.
//!
//! A kind that is not ours is skipped. A policy whose kind or apiVersion is misspelt must not be: it would be out of
//! force without a word, where the API server refuses it ("no matches for kind"). Only the API server's own groups are
//! looked at; those of others may call anything by our names, as Calico does with NetworkPolicy.

use super::reader::letters_off;

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

/// The field that keeps an object from being one of ours, and what is wrong with it; `None` for kinds of others.
pub fn misspelt(version: &str, kind: &str) -> Option<(&'static str, String)> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    // Groups of others have a domain name of their own.
    if group.contains('.') && !group.ends_with(".k8s.io") && letters_off(group, "networking.k8s.io") > 3 {
        return None;
    }
    let ours = OURS.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(kind));
    if let Some((ours, expected)) = ours {
        return Some(match *ours == kind {
            true => ("apiVersion", format!("is {version:?}, expected {expected} for a {kind}")),
            false => ("kind", format!("is {kind:?}, expected {ours}")),
        });
    }
    is_nearly_a_policy(kind).then(|| ("kind", format!("is {kind:?}, expected NetworkPolicy")))
}

/// Whether somebody who wrote this meant NetworkPolicy: its plural, its short name, a slip of two letters. Other kinds of
/// its group come with every release and are none of our business.
fn is_nearly_a_policy(kind: &str) -> bool {
    let kind: String = kind.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    let kind = kind.strip_suffix("list").unwrap_or(&kind);
    kind == "netpol" || ["networkpolicy", "networkpolicies"].iter().any(|name| letters_off(kind, name) <= 2)
}
