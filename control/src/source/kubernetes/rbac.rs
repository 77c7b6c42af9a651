//! The rights that following an API server needs, as manifests to apply.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::FOLLOWED;
use super::error::resource;

/// Where the account is, unless somebody edits it.
const NAMESPACE: &str = "kube-system";

/// A ServiceAccount, a ClusterRole with no more than is asked of the server, and their ClusterRoleBinding, as YAML.
#[must_use]
pub fn manifests(events: bool) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for followed in FOLLOWED {
        groups.entry(group(followed.kind.path())).or_default().push(resource(followed.kind));
    }
    let mut rules = String::new();
    let mut rule = |group: &str, resources: &str, verbs: &str| {
        // Writing to a text does not fail.
        let _ = write!(rules, "- apiGroups: [\"{group}\"]\n  resources: [{resources}]\n  verbs: [{verbs}]\n");
    };
    for (group, resources) in groups {
        rule(group, &resources.join(", "), "list, watch");
    }
    if events {
        rule("", "events", "create, patch");
    }
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata:
  name: podgate
  namespace: {NAMESPACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: podgate
rules:
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: podgate
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: podgate
subjects:
- kind: ServiceAccount
  name: podgate
  namespace: {NAMESPACE}
"
    )
}

/// `/apis/GROUP/VERSION/...`; those of `/api` have no group.
fn group(path: &str) -> &str {
    path.strip_prefix("/apis/").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHOUT_EVENTS: &str = r#"- apiGroups: [""]
  resources: [namespaces, nodes, pods]
  verbs: [list, watch]
- apiGroups: ["networking.k8s.io"]
  resources: [networkpolicies]
  verbs: [list, watch]
"#;

    fn rules(events: bool) -> String {
        let manifests = manifests(events);
        let (_, rest) = manifests.split_once("\nrules:\n").unwrap();
        let (rules, binding) = rest.split_once("---\n").unwrap();
        assert!(!binding.contains("rules:"), "one role has all of them");
        rules.to_owned()
    }

    #[test]
    fn no_more_than_is_asked_for() {
        assert_eq!(rules(false), WITHOUT_EVENTS);
        let event_rule = "- apiGroups: [\"\"]\n  resources: [events]\n  verbs: [create, patch]\n";
        assert_eq!(rules(true), format!("{WITHOUT_EVENTS}{event_rule}"));
    }
}
