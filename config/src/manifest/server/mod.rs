//! Objects as an API server sends them: pages of lists, and events of watches.
//!
//! They are read by the code that reads manifests, into the same model. Three things differ, because nobody can be told to
//! mend a file:
//! - Only the fields that count are looked at. What a newer server says elsewhere is passed over.
//! - A NetworkPolicy is taken whole and never refused. A rule in which anything is not understood (a field, a kind of peer, a
//!   spelling of a network that we do not take) allows nothing, and the other rules stay. Anything else that is not
//!   understood in it may say whom it selects and what it means, so it isolates every pod of its namespace in both
//!   directions and allows nothing. What was known of it before does not matter: the same objects always mean the same.
//! - Any other object that is not understood counts as not there. A pod is then nobody's peer, and its port is closed.
//!
//! All of that comes with findings that say which object and which field it is.

#[cfg(test)]
mod tests;

use super::reader::Reader;
use super::yaml::json::{Keep, parse_kept};
use super::yaml::{Map, Value};
use super::{Finding, ObjectValue, meta, pod, policy};

/// What findings about a server's objects have for a file.
pub const SERVER: &str = "kubernetes";

/// Kinds of objects that are asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerKind {
    /// v1 Namespace.
    Namespace,
    /// v1 Pod.
    Pod,
    /// v1 Node.
    Node,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
}

impl ServerKind {
    /// `kind` of its objects.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// The path of all of its objects.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Namespace => "/api/v1/namespaces",
            Self::Pod => "/api/v1/pods",
            Self::Node => "/api/v1/nodes",
            Self::NetworkPolicy => "/apis/networking.k8s.io/v1/networkpolicies",
        }
    }

    fn keep(self) -> Keep<'static> {
        match self {
            Self::Namespace => Keep::Fields(&[("metadata", METADATA)]),
            Self::Pod => POD,
            Self::Node => NODE,
            Self::NetworkPolicy => Keep::Fields(&[("metadata", METADATA), ("spec", Keep::Whole)]),
        }
    }
}

const METADATA: Keep<'_> = Keep::Fields(&[
    ("name", Keep::Whole),
    ("namespace", Keep::Whole),
    ("uid", Keep::Whole),
    ("resourceVersion", Keep::Whole),
    ("labels", Keep::Whole),
]);
const CONTAINERS: Keep<'_> = Keep::Items(&Keep::Fields(&[
    (
        "ports",
        Keep::Items(&Keep::Fields(&[
            ("name", Keep::Whole),
            ("containerPort", Keep::Whole),
            ("protocol", Keep::Whole),
        ])),
    ),
    ("restartPolicy", Keep::Whole),
]));
const POD: Keep<'_> = Keep::Fields(&[
    ("metadata", METADATA),
    (
        "spec",
        Keep::Fields(&[
            ("hostNetwork", Keep::Whole),
            ("nodeName", Keep::Whole),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    (
        "status",
        Keep::Fields(&[
            ("phase", Keep::Whole),
            ("podIP", Keep::Whole),
            ("podIPs", Keep::Items(&Keep::Fields(&[("ip", Keep::Whole)]))),
        ]),
    ),
]);
const NODE: Keep<'_> = Keep::Fields(&[
    ("metadata", METADATA),
    (
        "status",
        Keep::Fields(&[(
            "addresses",
            Keep::Items(&Keep::Fields(&[("type", Keep::Whole), ("address", Keep::Whole)])),
        )]),
    ),
]);
const LIST_METADATA: Keep<'_> = Keep::Fields(&[("resourceVersion", Keep::Whole), ("continue", Keep::Whole)]);
const FAILURE: Keep<'_> = Keep::Fields(&[(
    "object",
    Keep::Fields(&[("code", Keep::Whole), ("reason", Keep::Whole), ("message", Keep::Whole)]),
)]);

/// An answer that no API server gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAnAnswer(String);

/// An object of a server, as far as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// `metadata.namespace`; empty for what has none.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: tells it from a successor of its name.
    pub uid: String,
    /// `metadata.resourceVersion`, never empty in an event.
    pub resource_version: String,
    /// What counts of it; `None` if nothing does.
    pub value: Option<ObjectValue>,
    /// What that is, if it is not all that the object says.
    pub instead: Option<Instead>,
    /// What is not understood, or looks wrong.
    pub findings: Vec<Finding>,
}

/// What counts of an object that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// Of a policy all but the rules that are not understood.
    OtherRules,
    /// A policy that isolates every pod of its namespace and allows nothing.
    Isolation,
    /// Nothing.
    Absence,
}

impl Instead {
    /// As the end of a sentence.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::OtherRules => "rules that are not understood allow nothing, the rest of it is in force",
            Self::Isolation => {
                "every pod of its namespace is isolated in both directions, and it allows nothing"
            }
            Self::Absence => "it counts as not there",
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The state of the server that all pages of the list show, never empty.
    pub resource_version: String,
    /// What to ask for the next page with; `None` after the last one.
    pub next: Option<String>,
    /// Its objects.
    pub objects: Vec<Served>,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerEvent {
    /// The object is new, or another than before.
    Applied(Served),
    /// It is gone. The version is that of its deletion.
    Deleted(Served),
    /// Nothing happened up to this version.
    Bookmark(String),
    /// The watch has failed.
    Failed {
        /// As an HTTP status: 410 means that the version is too old.
        code: u16,
        /// One line.
        message: String,
    },
}

/// Reads a page of a list of this kind.
///
/// # Errors
/// [`NotAnAnswer`] if the whole is not what a server answers. Single objects have findings.
pub fn page(kind: ServerKind, json: &[u8]) -> Result<Page, NotAnAnswer> {
    let object = kind.keep();
    let keep = Keep::Fields(&[("metadata", LIST_METADATA), ("items", Keep::Items(&object))]);
    let value = parse_kept(json, keep).map_err(|error| NotAnAnswer(format!("a list is no JSON: {error}")))?;
    let list = map(&value).ok_or_else(|| NotAnAnswer("a list is no object".to_owned()))?;
    let metadata = list.get("metadata").and_then(map);
    let text = |field| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let resource_version = text("resourceVersion").unwrap_or_default().to_owned();
    if resource_version.is_empty() {
        return Err(NotAnAnswer("a list has no metadata.resourceVersion".to_owned()));
    }
    let items = match list.get("items") {
        None => &[][..],
        Some(Value::List(items)) => items,
        Some(other) => return Err(NotAnAnswer(format!("the items of a list are {}", other.describe()))),
    };
    Ok(Page {
        resource_version,
        next: text("continue").filter(|next| !next.is_empty()).map(ToOwned::to_owned),
        objects: items.iter().map(|item| served(kind, item)).collect(),
    })
}

/// Reads a line of a watch of this kind.
///
/// # Errors
/// [`NotAnAnswer`] if it is no event.
pub fn event(kind: ServerKind, json: &[u8]) -> Result<ServerEvent, NotAnAnswer> {
    let no_event = |what: &str| NotAnAnswer(format!("a line of a watch is no event: {what}"));
    let no_json = |error: serde_json::Error| no_event(&error.to_string());
    let keep = Keep::Fields(&[("type", Keep::Whole), ("object", kind.keep())]);
    let value = parse_kept(json, keep).map_err(no_json)?;
    let line = map(&value).ok_or_else(|| no_event("it is no object"))?;
    let object = line.get("object").ok_or_else(|| no_event("it has no object"))?;
    let versioned = |served: Served| match served.resource_version.is_empty() {
        true => Err(no_event("its object has no metadata.resourceVersion")),
        false => Ok(served),
    };
    match line.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => versioned(served(kind, object)).map(ServerEvent::Applied),
        Some("DELETED") => versioned(served(kind, object)).map(ServerEvent::Deleted),
        Some("BOOKMARK") => {
            let version = text_of(object, "resourceVersion");
            let version = version.ok_or_else(|| no_event("a bookmark has no metadata.resourceVersion"))?;
            Ok(ServerEvent::Bookmark(version.to_owned()))
        }
        Some("ERROR") => {
            let value = parse_kept(json, FAILURE).map_err(no_json)?;
            let status = map(&value).and_then(|line| line.get("object")).and_then(map);
            let field = |name| status.and_then(|status| status.get(name));
            let code = field("code").and_then(Value::integer).and_then(|code| u16::try_from(code).ok());
            let text = |name| field(name).and_then(Value::as_str).unwrap_or_default();
            let message = if text("message").is_empty() { text("reason") } else { text("message") };
            Ok(ServerEvent::Failed { code: code.unwrap_or_default(), message: message.to_owned() })
        }
        Some(other) => Err(no_event(&format!("its type is {other:?}"))),
        None => Err(no_event("it has no type")),
    }
}

fn map(value: &Value) -> Option<&Map> {
    match value {
        Value::Map(map) => Some(map),
        _ => None,
    }
}

/// A text of an object's metadata that is not empty.
fn text_of<'v>(object: &'v Value, field: &str) -> Option<&'v str> {
    let metadata = map(object)?.get("metadata").and_then(map)?;
    metadata.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn served(kind: ServerKind, object: &Value) -> Served {
    let mut findings = Vec::new();
    let mut reader = Reader::new(SERVER, 0, &mut findings);
    reader.kind = kind.name().to_owned();
    let mut rules_count = false;
    let value = reader.map(object, "").and_then(|object| match kind {
        ServerKind::Namespace => meta::namespace(&mut reader, object).map(ObjectValue::Namespace),
        ServerKind::Pod => {
            let pod = pod::pod(&mut reader, object).filter(|_| !reader.failed())?;
            Some(ObjectValue::Pod(Box::new(pod)))
        }
        ServerKind::Node => meta::node(&mut reader, object).map(ObjectValue::Node),
        ServerKind::NetworkPolicy => {
            let policy;
            (policy, rules_count) = policy::policy_of_server(&mut reader, object)?;
            Some(ObjectValue::NetworkPolicy(policy.into()))
        }
    });
    let instead = match (&value, rules_count) {
        _ if !reader.failed() => None,
        (None, _) => Some(Instead::Absence),
        (Some(_), true) => Some(Instead::OtherRules),
        (Some(_), false) => Some(Instead::Isolation),
    };
    let text = |field| text_of(object, field).unwrap_or_default().to_owned();
    Served {
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        value,
        instead,
        findings,
    }
}
