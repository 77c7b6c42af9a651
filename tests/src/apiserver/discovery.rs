//! What is served: discovery in both forms, version and health, and as much OpenAPI as `kubectl` asks for.
//!
//! `kubectl apply` looks into OpenAPI v3 for one thing: whether a kind's PATCH takes `fieldValidation`, so that the
//! server and not the client checks fields. The documents say yes and have no schemas. They name no strategic merge
//! patch either, so `kubectl` computes its patches from the types it was built with. `kubectl explain` finds nothing.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Shared;
use super::failure::Failure;
use super::http::Answer;
use super::kinds::Resource;
use super::request::Request;

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What anybody may ask.
pub(crate) fn open(segments: &[&str]) -> Result<Answer, Failure> {
    match segments {
        ["version"] => Ok(Answer::json(
            200,
            json!({
                "major": "1", "minor": "33", "gitVersion": "v1.33.0-podgate-test", "gitCommit": "", "platform": "",
                "gitTreeState": "clean", "buildDate": "2025-01-01T00:00:00Z", "goVersion": "", "compiler": "",
            })
            .to_string(),
        )),
        ["healthz" | "livez" | "readyz"] => Ok(Answer::Whole(200, "text/plain".into(), "ok".into())),
        _ => Err(Failure::no_path()),
    }
}

/// Discovery and OpenAPI.
pub(crate) fn answer(shared: &Shared, request: &Request, segments: &[&str]) -> Result<Answer, Failure> {
    let kinds = &shared.kinds;
    let aggregated = request.accept.contains("g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let versions = versions(kinds);
    let of_group = |group: &str, version: &str| {
        let found = versions.get(group)?.get(version)?;
        Some(resource_list(group, version, found))
    };
    let whole = |value: Value| Ok(Answer::Whole(200, AGGREGATED.into(), value.to_string().into()));
    let document = match segments {
        [] => Some(
            json!({ "paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"] }),
        ),
        ["api"] if aggregated => return whole(discovery_list(&versions, true)),
        ["apis"] if aggregated => return whole(discovery_list(&versions, false)),
        ["api"] => {
            Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
        }
        ["api", version] => of_group("", version),
        ["apis"] => {
            let groups: Vec<Value> =
                versions.iter().filter_map(|(name, group)| api_group(name, group)).collect();
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", group] => versions.get(group).and_then(|found| api_group(group, found)),
        ["apis", group, version] => of_group(group, version),
        ["openapi", "v3"] => Some(openapi_index(&versions)),
        ["openapi", "v3", "api", version] => openapi(&versions, "", version),
        ["openapi", "v3", "apis", group, version] => openapi(&versions, group, version),
        _ => None,
    };
    document.map(|document| Answer::json(200, document.to_string())).ok_or_else(Failure::no_path)
}

/// Kinds by group and version.
type Versions = BTreeMap<&'static str, BTreeMap<&'static str, Vec<&'static Resource>>>;

fn versions(kinds: &[&'static Resource]) -> Versions {
    let mut versions = Versions::new();
    for kind in kinds {
        versions.entry(kind.group).or_default().entry(kind.version).or_default().push(kind);
    }
    versions
}

fn parts(resource: &Resource) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    let mut parts: Vec<(_, _, &'static [&'static str])> = Vec::new();
    if resource.status {
        parts.push(("status", resource.kind, &["get", "patch", "update"]));
    }
    if resource.kind == "Pod" {
        parts.push(("binding", "Binding", &["create"]));
    }
    parts
}

fn discovery_list(versions: &Versions, core: bool) -> Value {
    let scope = |namespaced| if namespaced { "Namespaced" } else { "Cluster" };
    let items = versions.iter().filter(|(group, _)| group.is_empty() == core).map(|(group, versions)| {
        let versions = versions.iter().map(|(version, kinds)| {
            let kind = |kind: &str| json!({ "group": group, "version": version, "kind": kind });
            let resources = kinds.iter().map(|resource| {
                let parts = parts(resource).into_iter().map(|(name, shown, verbs)| {
                    json!({ "subresource": name, "responseKind": kind(shown), "verbs": verbs })
                });
                json!({
                    "resource": resource.plural, "responseKind": kind(resource.kind), "verbs": VERBS,
                    "scope": scope(resource.namespaced), "singularResource": resource.singular,
                    "shortNames": resource.short, "categories": resource.categories,
                    "subresources": parts.collect::<Vec<_>>(),
                })
            });
            json!({ "version": version, "freshness": "Current", "resources": resources.collect::<Vec<_>>() })
        });
        let metadata = if core { json!({}) } else { json!({ "name": group }) };
        json!({ "metadata": metadata, "versions": versions.collect::<Vec<_>>() })
    });
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>(),
    })
}

fn api_group(name: &str, versions: &BTreeMap<&'static str, Vec<&'static Resource>>) -> Option<Value> {
    let version = |version: &&str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let preferred = versions.keys().next().filter(|_| !name.is_empty()).map(version)?;
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "preferredVersion": preferred,
        "versions": versions.keys().map(version).collect::<Vec<_>>(),
    }))
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn resource_list(group: &str, version: &str, kinds: &[&'static Resource]) -> Value {
    let mut resources = Vec::new();
    for resource in kinds {
        resources.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short, "categories": resource.categories,
        }));
        for (part, kind, verbs) in parts(resource) {
            resources.push(json!({
                "name": format!("{}/{part}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
            }));
        }
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": resources,
    })
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn openapi_index(versions: &Versions) -> Value {
    let mut paths = Map::new();
    for (group, versions) in versions {
        for version in versions.keys() {
            let path = path(group, version);
            let url = format!("/openapi/v3/{path}?hash=1");
            paths.insert(path, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths })
}

fn openapi(versions: &Versions, group: &str, version: &str) -> Option<Value> {
    let kinds = versions.get(group)?.get(version)?;
    let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" } });
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter).into();
    let mut paths = Map::new();
    for resource in kinds {
        let space = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let at = format!("/{}/{space}{}/{{name}}", path(group, version), resource.plural);
        paths.insert(
            at,
            json!({ "patch": {
                "parameters": parameters,
                "requestBody": { "content": { "application/merge-patch+json": {} } },
                "responses": { "200": { "description": "OK" } },
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": resource.kind },
            } }),
        );
    }
    Some(json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": "v1.33.0" }, "paths": paths,
        "components": { "schemas": {} },
    }))
}
