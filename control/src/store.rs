//! One cluster out of an API server and many files.
//!
//! Objects are taken in the order of sources; of two with the same kind and name the first is kept and the other
//! reported, so that the answer does not depend on which file was changed last and is the same after a restart. What the
//! API server has comes before all files.
//! [`merge`] takes everything at once and says what does not fit together; a [`Store`] follows the sources and says which
//! objects are others than before. Files come as a whole; an API server's objects come one by one, and cost no more than that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use podgate_config::manifest::server::{SERVER, ServerKind};
use podgate_config::manifest::{self, Finding, Object, ObjectValue, Severity};
use podgate_config::model::{Cluster, NamespaceName, NodeName, ObjectName, Pod};

use crate::source::kubernetes::{Changed, Said};
use crate::source::{FileId, FileObjects};

/// What all sources say together.
#[derive(Debug, Default)]
pub struct Merged {
    /// The objects.
    pub cluster: Cluster,
    /// Objects that are there twice, and what does not fit together (`review`).
    pub findings: Vec<Finding>,
}

/// What there is, as manifests call it.
const KINDS: [&str; 4] = [NAMESPACE, POD, NODE, NETWORK_POLICY];
const NAMESPACE: &str = "Namespace";
const POD: &str = "Pod";
const NODE: &str = "Node";
pub(crate) const NETWORK_POLICY: &str = "NetworkPolicy";

/// Where an object stands: file and document.
type Places = BTreeMap<(&'static str, String), (Arc<str>, usize)>;

/// Merges the files' objects. Pods without addresses keep none.
#[must_use]
pub fn merge(files: &[FileObjects]) -> Merged {
    merge_with(&[], files)
}

/// Merges an API server's objects and the files'.
#[must_use]
pub fn merge_with(api: &[ApiObject], files: &[FileObjects]) -> Merged {
    let mut cluster = Cluster::default();
    let mut findings = Vec::new();
    let mut places = Places::new();
    let server: Arc<str> = Arc::from(SERVER);
    let namespaces = namespaces(api, files);
    let mut homeless: BTreeMap<&NamespaceName, usize> = BTreeMap::new();
    for (key, value) in api {
        let (kind, name) = key.parts();
        places.insert((kind, name), (server.clone(), 0));
        match (key, value) {
            (Key::Pod(name), Some(_)) if !namespaces.contains(&name.namespace) => {
                *homeless.entry(&name.namespace).or_default() += 1;
            }
            (_, Some(value)) => insert(&mut cluster, value),
            (_, None) => {}
        }
    }
    findings.extend(homeless.into_iter().map(|(namespace, pods)| Finding {
        severity: Severity::Warning,
        file: SERVER.to_owned(),
        document: 0,
        kind: NAMESPACE.to_owned(),
        name: namespace.to_string(),
        field: String::new(),
        message: format!("is not known, so its pods ({pods}) count as not there"),
    }));
    let hidden = hidden_namespaces(api);
    for file in files {
        for object in file.objects.iter() {
            let (kind, name) = identify(&object.value);
            let place = (file.file.clone(), object.document);
            if matches!(&object.value, ObjectValue::Pod(pod) if hidden.contains(&pod.name.namespace)) {
                findings.push(Finding {
                    severity: Severity::Warning,
                    file: file.file.to_string(),
                    document: object.document,
                    kind: kind.to_owned(),
                    name,
                    field: "metadata.namespace".to_owned(),
                    message: "is not understood as the API server has it, so the pod counts as not there"
                        .to_owned(),
                });
                continue;
            }
            if let Some((first, document)) = places.get(&(kind, name.clone())) {
                let (severity, message) = match *document {
                    0 => (Severity::Warning, "the API server has it too, and its version counts".to_owned()),
                    _ => {
                        let kept = format!("the one in {first}:{document} is kept");
                        (Severity::Error, format!("there already, expected once; {kept}"))
                    }
                };
                findings.push(Finding {
                    severity,
                    file: file.file.to_string(),
                    document: object.document,
                    kind: kind.to_owned(),
                    name,
                    field: "metadata.name".to_owned(),
                    message,
                });
                continue;
            }
            places.insert((kind, name), place);
            insert(&mut cluster, &object.value);
        }
    }
    findings.extend(manifest::review(&cluster).into_iter().map(|finding| locate(finding, &places)));
    Merged { cluster, findings }
}

/// The namespaces that count.
fn namespaces<'o>(api: &'o [ApiObject], files: &'o [FileObjects]) -> HashSet<&'o NamespaceName> {
    let mut namespaces = HashSet::new();
    for object in files.iter().flat_map(|file| file.objects.iter()) {
        if let ObjectValue::Namespace(namespace) = &object.value {
            namespaces.insert(namespace.name());
        }
    }
    for (key, value) in api {
        if let Key::Namespace(name) = key {
            match value {
                Some(_) => namespaces.insert(name),
                None => namespaces.remove(name),
            };
        }
    }
    namespaces
}

/// The namespaces that the API server has and that are not understood: no pod counts there, whoever has it.
fn hidden_namespaces(api: &[ApiObject]) -> HashSet<&NamespaceName> {
    let mut hidden = HashSet::new();
    for (key, value) in api {
        if let (Key::Namespace(name), None) = (key, value) {
            hidden.insert(name);
        }
    }
    hidden
}

fn identify(value: &ObjectValue) -> (&'static str, String) {
    match value {
        ObjectValue::Namespace(namespace) => (NAMESPACE, namespace.name().to_string()),
        ObjectValue::Pod(pod) => (POD, pod.name.to_string()),
        ObjectValue::Node(node) => (NODE, node.name.to_string()),
        ObjectValue::NetworkPolicy(policy) => (NETWORK_POLICY, policy.name.to_string()),
    }
}

fn insert(cluster: &mut Cluster, value: &ObjectValue) {
    match value {
        ObjectValue::Namespace(namespace) => {
            cluster.namespaces.insert(namespace.name().clone(), namespace.clone());
        }
        ObjectValue::Pod(pod) => {
            cluster.pods.insert(pod.name.clone(), pod.as_ref().clone());
        }
        ObjectValue::Node(node) => {
            cluster.nodes.insert(node.name.clone(), node.clone());
        }
        ObjectValue::NetworkPolicy(policy) => {
            cluster.policies.insert(policy.name.clone(), policy.clone());
        }
    }
}

/// What is found by looking at all objects together still names the file to mend.
fn locate(mut finding: Finding, places: &Places) -> Finding {
    let kind = KINDS.into_iter().find(|kind| *kind == finding.kind);
    if finding.file.is_empty()
        && let Some(kind) = kind
        && let Some((file, document)) = places.get(&(kind, finding.name.clone()))
    {
        finding.file = file.to_string();
        finding.document = *document;
    }
    finding
}

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A namespace.
    Namespace(NamespaceName),
    /// A node.
    Node(NodeName),
    /// A policy.
    Policy(ObjectName),
    /// A pod.
    Pod(ObjectName),
}

impl Key {
    /// Of an object that a server has; `None` if no object can have that name.
    #[must_use]
    pub fn of_server(kind: ServerKind, namespace: &str, name: &str) -> Option<Self> {
        match kind {
            ServerKind::Namespace => NamespaceName::parse(name).ok().map(Self::Namespace),
            ServerKind::Node => NodeName::parse(name).ok().map(Self::Node),
            ServerKind::Pod => ObjectName::parse(namespace, name).ok().map(Self::Pod),
            ServerKind::NetworkPolicy => ObjectName::parse(namespace, name).ok().map(Self::Policy),
        }
    }

    /// Kind and name.
    fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Namespace(name) => (NAMESPACE, name.to_string()),
            Self::Node(name) => (NODE, name.to_string()),
            Self::Policy(name) => (NETWORK_POLICY, name.to_string()),
            Self::Pod(name) => (POD, name.to_string()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.parts();
        write!(f, "{kind} {name}")
    }
}

impl From<&ObjectValue> for Key {
    fn from(value: &ObjectValue) -> Self {
        match value {
            ObjectValue::Namespace(namespace) => Self::Namespace(namespace.name().clone()),
            ObjectValue::Pod(pod) => Self::Pod(pod.name.clone()),
            ObjectValue::Node(node) => Self::Node(node.name.clone()),
            ObjectValue::NetworkPolicy(policy) => Self::Policy(policy.name.clone()),
        }
    }
}

/// Where an object stands: its file, and its place among the file's objects.
type Place = (Arc<FileId>, usize);

/// What a file says, one object after the other.
type Objects = Arc<[Object]>;

/// An object that an API server has; without a value if it is not understood.
pub type ApiObject = (Key, Option<Arc<ObjectValue>>);

/// The objects of an API server, and those of all files, file by file.
///
/// An object of the API server that is not understood hides those of files all the same, and a namespace its pods with it. A
/// pod of the API server counts as not there as long as its namespace is not known: the two come by different watches, and
/// without labels it would be a peer of whoever asks for namespaces that do not have one.
#[derive(Debug, Default)]
pub struct Store {
    api: HashMap<Key, Option<Arc<ObjectValue>>>,
    files: BTreeMap<Arc<FileId>, Objects>,
    /// Where the objects of a name stand in files; the first counts.
    places: HashMap<Key, BTreeSet<Place>>,
}

impl Store {
    /// Takes over what an API server says of these objects now, and gives the names whose objects came, went or are others.
    pub fn take_api(&mut self, changes: Vec<Changed>) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        let mut namespaces = HashSet::new();
        for (key, said) in changes {
            let (api, file) = (self.api.get(&key).cloned(), self.place(&key));
            if let Key::Namespace(name) = &key
                && matches!(api, Some(None)) != matches!(said, Said::NotUnderstood)
            {
                namespaces.insert(name.clone());
            }
            match said {
                Said::Is(value) => drop(self.api.insert(key.clone(), Some(value))),
                Said::NotUnderstood => drop(self.api.insert(key.clone(), None)),
                Said::Gone => drop(self.api.remove(&key)),
            }
            let before = match &api {
                Some(value) => value.as_deref(),
                None => file.as_ref().and_then(|(objects, place)| Some(&objects.get(*place)?.value)),
            };
            let now = self.said(&key);
            if before == now {
                continue;
            }
            if let Key::Namespace(name) = &key
                && before.is_some() != now.is_some()
            {
                namespaces.insert(name.clone());
            }
            changed.insert(key);
        }
        changed.extend(self.pods_in(&namespaces));
        changed
    }

    /// All pods in these namespaces, which counted or count. Looks at every object that there is: namespaces seldom come and go.
    fn pods_in(&self, namespaces: &HashSet<NamespaceName>) -> Vec<Key> {
        if namespaces.is_empty() {
            return Vec::new();
        }
        let is_in = |key: &&Key| matches!(key, Key::Pod(name) if namespaces.contains(&name.namespace));
        self.api.keys().chain(self.places.keys()).filter(is_in).cloned().collect()
    }

    /// Takes over what the files say now, in the order of sources, and gives the names whose objects came, went or are
    /// others. Files that are the same as before (the same list in memory) are not looked at.
    pub fn update(&mut self, now: &[FileObjects]) -> BTreeSet<Key> {
        let mut changed: Vec<(Arc<FileId>, Option<Objects>)> = Vec::new();
        let mut left: BTreeSet<Arc<FileId>> = self.files.keys().cloned().collect();
        for file in now {
            left.remove(&file.id);
            let known = self.files.get(&file.id);
            if !known.is_some_and(|known| Arc::ptr_eq(known, &file.objects)) {
                changed.push((file.id.clone(), Some(file.objects.clone())));
            }
        }
        changed.extend(left.into_iter().map(|gone| (gone, None)));

        let mut before: BTreeMap<Key, Option<(Objects, usize)>> = BTreeMap::new();
        for (id, objects) in &changed {
            let old = self.files.get(id).into_iter().flat_map(|objects| objects.iter());
            for object in old.chain(objects.iter().flat_map(|objects| objects.iter())) {
                let key = Key::from(&object.value);
                let found = self.place(&key);
                before.entry(key).or_insert(found);
            }
        }
        for (id, objects) in changed {
            let old = match &objects {
                Some(objects) => self.files.insert(id.clone(), objects.clone()),
                None => self.files.remove(&id),
            };
            for (place, object) in old.iter().flat_map(|objects| objects.iter()).enumerate() {
                let key = Key::from(&object.value);
                if let Some(places) = self.places.get_mut(&key) {
                    places.remove(&(id.clone(), place));
                    if places.is_empty() {
                        self.places.remove(&key);
                    }
                }
            }
            for (place, object) in objects.iter().flat_map(|objects| objects.iter()).enumerate() {
                self.places.entry(Key::from(&object.value)).or_default().insert((id.clone(), place));
            }
        }
        let mut namespaces = HashSet::new();
        before.retain(|key, before| {
            let before = before.as_ref().and_then(|(objects, place)| objects.get(*place));
            let (before, now) = (before.map(|object| &object.value), self.said(key));
            let differs = !self.is_of_api(key) && before != now;
            if let Key::Namespace(name) = key
                && differs
                && before.is_some() != now.is_some()
            {
                namespaces.insert(name.clone());
            }
            differs
        });
        let mut changed: BTreeSet<Key> = before.into_keys().collect();
        changed.extend(self.pods_in(&namespaces));
        changed
    }

    /// Where in the files the object of this name stands.
    fn place(&self, key: &Key) -> Option<(Objects, usize)> {
        let (id, place) = self.places.get(key)?.first()?;
        Some((self.files.get(id)?.clone(), *place))
    }

    /// The object of this name, if it counts.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&ObjectValue> {
        if let Key::Pod(name) = key {
            let namespace = Key::Namespace(name.namespace.clone());
            let hidden = matches!(self.api.get(&namespace), Some(None));
            if hidden || self.is_of_api(key) && self.said(&namespace).is_none() {
                return None;
            }
        }
        self.said(key)
    }

    /// What the source that counts says of this name.
    fn said(&self, key: &Key) -> Option<&ObjectValue> {
        if let Some(value) = self.api.get(key) {
            return value.as_deref();
        }
        let (id, place) = self.places.get(key)?.first()?;
        self.files.get(id)?.get(*place).map(|object| &object.value)
    }

    /// The API server's objects, in no order.
    #[must_use]
    pub fn api_objects(&self) -> Vec<ApiObject> {
        self.api.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether the object of this name is the API server's.
    #[must_use]
    pub fn is_of_api(&self, key: &Key) -> bool {
        self.api.contains_key(key)
    }

    /// The file that the object of this name stands in; `None` if it is the API server's.
    #[must_use]
    pub fn file(&self, key: &Key) -> Option<&Path> {
        let places = self.places.get(key).filter(|_| !self.is_of_api(key))?;
        places.first().map(|(id, _)| id.path.as_path())
    }

    /// The pod of this name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        match self.get(&Key::Pod(name.clone()))? {
            ObjectValue::Pod(pod) => Some(pod),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use podgate_config::manifest::decode;

    use super::*;

    #[test]
    fn findings_about_all_objects_name_the_file_to_mend() {
        let text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {}\n";
        let merged = merge(&[file("a.yaml", text)]);
        let lines: Vec<String> = merged.findings.iter().map(ToString::to_string).collect();
        assert!(
            lines.iter().any(|line| line.starts_with("a.yaml:1: NetworkPolicy default/p: ")),
            "{lines:?}"
        );
    }

    fn file(name: &str, text: &str) -> FileObjects {
        let objects = decode(name, text.as_bytes()).objects.into();
        FileObjects { id: Arc::new(FileId { root: 0, path: name.into() }), file: Arc::from(name), objects }
    }

    /// The first file counts; what it does not say any more is the second one's. Nothing else is reported.
    #[test]
    fn a_store_says_what_is_another_than_before() {
        let pod = |name: &str, label: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{is: {label}}}}}, spec: {{}}}}\n---\n"
            )
        };
        let key = |name: &str| Key::Pod(ObjectName::parse("default", name).unwrap());
        let label = |store: &Store, name: &str| {
            let pod = store.pod(&ObjectName::parse("default", name).unwrap())?;
            pod.labels.iter().next().map(|(_, value)| value.as_str().to_owned())
        };
        let a = file("a.yaml", &[pod("web", "first"), pod("db", "only")].concat());
        let b = file("b.yaml", &[pod("web", "second"), pod("cache", "only")].concat());
        let mut store = Store::default();
        assert_eq!(store.update(&[a.clone(), b.clone()]), [key("cache"), key("db"), key("web")].into());
        assert_eq!(label(&store, "web").as_deref(), Some("first"));
        assert_eq!(store.update(&[a.clone(), b.clone()]), BTreeSet::new());
        // Written anew with the same content, and one object moved within the file.
        let again = file("a.yaml", &[pod("db", "only"), pod("web", "first")].concat());
        assert_eq!(store.update(&[again, b.clone()]), BTreeSet::new());
        let less = file("a.yaml", &pod("db", "other"));
        assert_eq!(store.update(&[less, b.clone()]), [key("db"), key("web")].into());
        assert_eq!(label(&store, "web").as_deref(), Some("second"));
        // The file goes; one that comes before all others hides what they say.
        assert_eq!(store.update(std::slice::from_ref(&b)), [key("db")].into());
        let first = file("0.yaml", &pod("cache", "hidden"));
        assert_eq!(store.update(&[first, b]), [key("cache")].into());
        assert_eq!((label(&store, "cache").as_deref(), label(&store, "db")), (Some("hidden"), None));
    }

    fn namespace(name: &str) -> Changed {
        let text = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}");
        let value = decode("", text.as_bytes()).objects.remove(0).value;
        (Key::from(&value), Said::Is(Arc::new(value)))
    }

    /// Otherwise it would be in every namespace selector that asks for the absence of a label.
    #[test]
    fn a_pod_counts_when_its_namespace_is_known() {
        let text = "{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop}, spec: {}}";
        let pod = decode("", text.as_bytes()).objects.remove(0).value;
        let web = Key::from(&pod);
        let mut store = Store::default();
        store.take_api(vec![(web.clone(), Said::Is(Arc::new(pod)))]);
        assert!(store.get(&web).is_none());
        let merged = merge_with(&store.api_objects(), &[]);
        assert!(merged.cluster.pods.is_empty());
        assert!(
            merged.findings[0].to_string().contains("its pods (1) count as not there"),
            "{:?}",
            merged.findings
        );

        let (shop, said) = namespace("shop");
        let both: BTreeSet<Key> = [shop.clone(), web.clone()].into();
        assert_eq!(store.take_api(vec![(shop.clone(), said.clone())]), both);
        assert!(store.get(&web).is_some());
        assert_eq!(store.take_api(vec![(shop.clone(), Said::NotUnderstood)]), both);
        assert!(store.get(&web).is_none());
        assert!(!store.take_api(vec![(shop.clone(), Said::Gone)]).contains(&shop));
        // A file knows it, too.
        let files = [file("n.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")];
        assert_eq!(store.update(&files), both);
        assert!(store.get(&web).is_some());
        assert_eq!(merge_with(&store.api_objects(), &files).cluster.pods.len(), 1);
        assert_eq!(store.update(&[]), both);
        // Pods of files need none.
        store.take_api(vec![(web.clone(), Said::Gone)]);
        let files = [file("p.yaml", text)];
        store.update(&files);
        assert!(store.get(&web).is_some());
        // But none counts in a namespace of which nobody can tell the labels.
        assert_eq!(store.take_api(vec![(shop.clone(), Said::NotUnderstood)]), [web.clone()].into());
        assert!(store.get(&web).is_none());
        let merged = merge_with(&store.api_objects(), &files);
        assert!(merged.cluster.pods.is_empty());
        assert!(
            merged.findings[0].to_string().starts_with("p.yaml:1: Pod shop/web: "),
            "{:?}",
            merged.findings
        );
        assert_eq!(store.take_api(vec![(shop, Said::Gone)]), [web.clone()].into());
        assert!(store.get(&web).is_some());
    }

    /// The API server's version counts, and what only the files say shows again when the server has it no more.
    #[test]
    fn an_api_servers_objects_come_before_those_of_files() {
        let text = |label: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: web, labels: {{is: {label}}}}}, spec: {{}}}}"
            )
        };
        let served = |label: &str| {
            let value = decode("", text(label).as_bytes()).objects.remove(0).value;
            (Key::from(&value), Said::Is(Arc::new(value)))
        };
        let web = Key::Pod(ObjectName::parse("default", "web").unwrap());
        let is = |store: &Store, label: &str| {
            store.get(&web).is_some_and(|value| served(label).1 == Said::Is(Arc::new(value.clone())))
        };
        let mut store = Store::default();
        store.take_api(vec![namespace("default")]);
        let files = [file("a.yaml", &text("file"))];
        assert_eq!(store.take_api(vec![served("api")]), [web.clone()].into());
        assert_eq!(store.update(&files), BTreeSet::new());
        assert!(is(&store, "api") && store.is_of_api(&web) && store.file(&web).is_none());
        assert_eq!(store.take_api(vec![served("api")]), BTreeSet::new());
        assert_eq!(store.update(&[file("a.yaml", &text("hidden"))]), BTreeSet::new());
        // What is not understood hides what files say, too.
        assert_eq!(store.take_api(vec![(web.clone(), Said::NotUnderstood)]), [web.clone()].into());
        assert!(store.get(&web).is_none() && store.is_of_api(&web));
        let hidden = merge_with(&store.api_objects(), &files);
        assert!(hidden.cluster.pods.is_empty() && hidden.findings.len() == 1, "{:?}", hidden.findings);
        assert_eq!(store.take_api(vec![(web.clone(), Said::Gone)]), [web.clone()].into());
        assert!(is(&store, "hidden") && store.file(&web).is_some());
        assert_eq!(store.take_api(vec![(web.clone(), Said::Gone)]), BTreeSet::new());
        // The same as the file says is no change.
        assert_eq!(store.take_api(vec![served("hidden")]), BTreeSet::new());
        assert_eq!(store.update(&[]), BTreeSet::new());
        assert_eq!(store.take_api(vec![(web.clone(), Said::Gone)]), [web.clone()].into());

        store.take_api(vec![served("api")]);
        let both = merge_with(&store.api_objects(), &files);
        let lines: Vec<String> = both.findings.iter().map(ToString::to_string).collect();
        assert!(lines[0].starts_with("a.yaml:1: Pod default/web: "), "{lines:?}");
        assert!(lines[0].ends_with("its version counts"), "{lines:?}");
        assert_eq!(both.cluster.pods.len(), 1);
    }
}
