//! Settings of the gateway: what there is, what it means, and where each value came from.
//!
//! One [`TABLE`] drives the settings file (YAML), `--set key=value`, the variables `PODGATE_SET_<KEY>`, `podgate config`, and
//! the documentation, so none of them can know a setting that another does not. Later sources win: default, file,
//! environment, command line. A value is checked where it is read; [`Settings`] holds only valid ones.

mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::manifest::yaml::{self, Value};
use crate::model::{NodeName, ObjectName};

pub use table::{Setting, TABLE, markdown};

/// Variables that begin so are settings.
const PREFIX: &str = "PODGATE_SET_";

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps in poll until a packet comes: costs a wake-up.
    Sleep,
    /// Looks again and again: takes a whole core.
    Spin,
}

/// What a policy change means for connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Established {
    /// Each is judged again by the new policies and cut if they deny it.
    Recheck,
    /// They go on.
    Keep,
}

/// `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubernetesApi {
    /// No API server is followed.
    None,
    /// The one of the cluster that this process is a pod of.
    InCluster,
    /// The one that this kubeconfig file's current context names.
    Kubeconfig(PathBuf),
}

/// `deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// In silence.
    Drop,
    /// With a TCP reset or an ICMP error.
    Reject,
}

/// What a clean exit leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Ports that drop everything, until the next start.
    Closed,
    /// Ports without a program: whatever the kernel routes passes without judgement.
    Open,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A pod's port that the settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSetting {
    /// The host end of the pod's veth pair.
    pub interface: String,
    /// Whose it is.
    pub pod: ObjectName,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `node`.
    pub node: Option<NodeName>,
    /// `kubernetes`.
    pub kubernetes: KubernetesApi,
    /// `kubernetes_watch`, in seconds.
    pub kubernetes_watch: u32,
    /// `kubernetes_relist`, in seconds.
    pub kubernetes_relist: u32,
    /// `kubernetes_events`.
    pub kubernetes_events: bool,
    /// `files`.
    pub files: Vec<PathBuf>,
    /// `socket`.
    pub socket: PathBuf,
    /// `metrics_bind_address`.
    pub metrics_bind_address: Option<SocketAddr>,
    /// `workers`; `None` = as many as the process may use CPUs.
    pub workers: Option<u8>,
    /// `cores`; empty = the first ones that the process may use.
    pub cores: Vec<usize>,
    /// `idle`.
    pub idle: Idle,
    /// `established`.
    pub established: Established,
    /// `deny`.
    pub deny: Deny,
    /// `on_exit`.
    pub on_exit: OnExit,
    /// `ports`.
    pub ports: Vec<PortSetting>,
    /// `ports_file`.
    pub ports_file: PathBuf,
    /// `uplinks`.
    pub uplinks: Vec<String>,
    /// `direct`.
    pub direct: Vec<IpNet>,
    /// `host_mtu`.
    pub host_mtu: u32,
    /// `bpffs`.
    pub bpffs: PathBuf,
    /// `frames`.
    pub frames: u32,
    /// `ring_size`.
    pub ring_size: u32,
    /// `flows`.
    pub flows: u32,
    /// `flows_per_pod`.
    pub flows_per_pod: u32,
    /// `flow_history`.
    pub flow_history: u32,
    /// `tcp_timeout_syn_sent` and the others.
    pub timeouts: Timeouts,
    /// `fragment_datagrams`.
    pub fragment_datagrams: u32,
    /// `fragment_held`.
    pub fragment_held: u32,
    /// `fragment_held_per_source`.
    pub fragment_held_per_source: u32,
    /// `fragment_timeout`, in seconds.
    pub fragment_timeout: u32,
    /// `limit_pods`.
    pub limit_pods: usize,
    /// `limit_atoms`.
    pub limit_atoms: usize,
    /// `limit_rows`.
    pub limit_rows: usize,
    /// `limit_program_words`.
    pub limit_program_words: usize,
    /// `limit_range_boundaries`.
    pub limit_range_boundaries: usize,
    /// `limit_retired`.
    pub limit_retired: usize,
    /// `log_format`.
    pub log_format: LogFormat,
    /// `log_levels`.
    pub log_levels: String,
}

/// How long a connection may be silent in each of its states, in seconds. Names and defaults are those of Linux's
/// connection tracking (Documentation/networking/nf_conntrack-sysctl.rst) where it has the state; only SCTP's shortest are
/// longer here, because an end may wait 60 seconds before it sends a lost packet again (RFC 9260, RTO.Max).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the settings' own, and the table says what each means")]
pub struct Timeouts {
    pub tcp_timeout_syn_sent: u32,
    pub tcp_timeout_syn_recv: u32,
    pub tcp_timeout_established: u32,
    pub tcp_timeout_fin_wait: u32,
    pub tcp_timeout_close_wait: u32,
    pub tcp_timeout_last_ack: u32,
    pub tcp_timeout_time_wait: u32,
    pub tcp_timeout_close: u32,
    pub udp_timeout: u32,
    pub udp_timeout_stream: u32,
    pub sctp_timeout_cookie_wait: u32,
    pub sctp_timeout_cookie_echoed: u32,
    pub sctp_timeout_established: u32,
    pub sctp_timeout_shutdown: u32,
    pub sctp_timeout_closed: u32,
    pub icmp_timeout: u32,
    pub generic_timeout: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_timeout_syn_sent: 120,
            tcp_timeout_syn_recv: 60,
            tcp_timeout_established: 432_000,
            tcp_timeout_fin_wait: 120,
            tcp_timeout_close_wait: 60,
            tcp_timeout_last_ack: 30,
            tcp_timeout_time_wait: 120,
            tcp_timeout_close: 10,
            udp_timeout: 30,
            udp_timeout_stream: 120,
            sctp_timeout_cookie_wait: 65,
            sctp_timeout_cookie_echoed: 65,
            sctp_timeout_established: 210,
            sctp_timeout_shutdown: 65,
            sctp_timeout_closed: 10,
            icmp_timeout: 30,
            generic_timeout: 600,
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The settings file of this name.
    File(String),
    /// This environment variable.
    Environment(String),
    /// `--set`.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(name) => f.write_str(name),
            Self::Environment(name) => write!(f, "${name}"),
            Self::CommandLine => f.write_str("--set"),
        }
    }
}

/// A setting that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {key}: {message}")]
pub struct SettingsError {
    /// Where it stands.
    pub origin: Origin,
    /// Its key; empty if it is about the whole file.
    pub key: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

/// Settings with the origin of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The values.
    pub settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
}

/// One line of `podgate config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The setting's key.
    pub key: &'static str,
    /// Its value as a settings file would have it.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Default for Effective {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            origins: TABLE.iter().map(|setting| (setting.key, Origin::Default)).collect(),
        }
    }
}

impl Effective {
    /// Every setting, in the order of the table.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        TABLE
            .iter()
            .map(|setting| Line {
                key: setting.key,
                value: (setting.get)(&self.settings),
                origin: self.origins.get(setting.key).cloned().unwrap_or(Origin::Default),
            })
            .collect()
    }

    /// Where a setting came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    fn set(&mut self, key: &str, items: &[String], origin: &Origin) -> Result<(), SettingsError> {
        let error = |message| SettingsError { origin: origin.clone(), key: key.to_owned(), message };
        let Some(setting) = TABLE.iter().find(|setting| setting.key == key) else {
            return Err(error("is no setting; `podgate config` lists all".to_owned()));
        };
        if !setting.list && items.len() > 1 {
            return Err(error(format!("is a list, expected {}", setting.expected)));
        }
        (setting.set)(&mut self.settings, items)
            .map_err(|()| error(format!("is {:?}, expected {}", items.join(","), setting.expected)))?;
        self.origins.insert(setting.key, origin.clone());
        Ok(())
    }
}

/// Reads all sources. `file` is its name and content; `environment` may hold any variables; `overrides` are the
/// `key=value` of `--set`.
///
/// # Errors
/// Everything that is wrong, in order.
pub fn load(
    file: Option<(&str, &[u8])>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[String],
) -> Result<Effective, Vec<SettingsError>> {
    let mut effective = Effective::default();
    let mut errors = Vec::new();
    if let Some((name, bytes)) = file {
        let origin = Origin::File(name.to_owned());
        for (key, items) in read_file(bytes, &origin, &mut errors) {
            errors.extend(effective.set(&key, &items, &origin).err());
        }
    }
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort();
    for (name, value) in variables {
        // Once: PODGATE_SET_PODGATE_SET_NODE is no other name of PODGATE_SET_NODE.
        let key = name.strip_prefix(PREFIX).unwrap_or_default().to_lowercase();
        errors.extend(effective.set(&key, &split(&value, &key), &Origin::Environment(name)).err());
    }
    for text in overrides {
        match text.split_once('=') {
            Some((key, value)) => {
                errors
                    .extend(effective.set(key.trim(), &split(value, key.trim()), &Origin::CommandLine).err());
            }
            None => errors.push(SettingsError {
                origin: Origin::CommandLine,
                key: text.clone(),
                message: "has no value, expected key=value".to_owned(),
            }),
        }
    }
    if errors.is_empty() { Ok(effective) } else { Err(errors) }
}

/// A value of a variable or of `--set`: commas separate the items of a list.
fn split(value: &str, key: &str) -> Vec<String> {
    let list = TABLE.iter().any(|setting| setting.key == key && setting.list);
    if !list {
        return vec![value.trim().to_owned()];
    }
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(ToOwned::to_owned).collect()
}

fn read_file(bytes: &[u8], origin: &Origin, errors: &mut Vec<SettingsError>) -> Vec<(String, Vec<String>)> {
    let mut fail = |key: &str, message: String| {
        errors.push(SettingsError { origin: origin.clone(), key: key.to_owned(), message });
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        fail("", "is not UTF-8, expected YAML".to_owned());
        return Vec::new();
    };
    let mut found = Vec::new();
    for (document, value) in yaml::documents_of_text(text) {
        let map = match value {
            Ok(Value::Map(map)) if document == 1 => map,
            Ok(other) => {
                let what = if document > 1 { "a second document".to_owned() } else { other.describe() };
                fail("", format!("is {what}, expected one object of settings"));
                continue;
            }
            Err(message) => {
                fail("", message);
                continue;
            }
        };
        for (key, value) in map.fields {
            let items = match &value {
                Value::List(items) => items.iter().map(scalar).collect(),
                Value::Null => Some(Vec::new()),
                other => scalar(other).map(|item| vec![item]),
            };
            match items {
                Some(items) => found.push((key, items)),
                None => fail(&key, format!("is {}, expected a value or a list of values", value.describe())),
            }
        }
    }
    found
}

/// The text of a value; only JSON that is no YAML has other than texts here.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_file(text: &str) -> Result<Effective, Vec<String>> {
        load(Some(("f.yaml", text.as_bytes())), [], &[])
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn later_sources_win() {
        let variable = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let effective = load(
            Some(("f.yaml", b"workers: 2\nidle: spin\nuplinks: [eth0, eth1]\nnode: a\n")),
            [variable("PODGATE_SET_IDLE", "sleep"), variable("PODGATE_SET_NODE", "b"), variable("HOME", "/")],
            &["node=c".to_owned(), "direct=10.0.0.0/8, fd00::/64".to_owned()],
        )
        .unwrap();
        let settings = &effective.settings;
        assert_eq!((settings.workers, settings.idle), (Some(2), Idle::Sleep));
        assert_eq!(settings.node.as_ref().map(ToString::to_string).as_deref(), Some("c"));
        assert_eq!((settings.uplinks.len(), settings.direct.len()), (2, 2));
        assert_eq!(effective.origin("workers"), &Origin::File("f.yaml".to_owned()));
        assert_eq!(effective.origin("idle").to_string(), "$PODGATE_SET_IDLE");
        assert_eq!(effective.origin("node"), &Origin::CommandLine);
        assert_eq!(effective.origin("socket"), &Origin::Default);
    }

    #[test]
    fn every_setting_reads_what_it_shows() {
        let default = Effective::default();
        let text: String =
            default.lines().iter().map(|line| format!("{}: {}\n", line.key, line.value)).collect();
        assert_eq!(load_file(&text).unwrap().settings, default.settings, "{text}");
        for setting in TABLE {
            let line = format!("| `{}` |", setting.key);
            assert!(markdown().contains(&line), "{line}");
        }
    }

    #[test]
    fn a_value_is_the_text_that_stands_there() {
        let node = |text: &str| {
            let settings = load_file(&format!("node: {text}\n")).unwrap().settings;
            settings.node.map(|node| node.to_string())
        };
        for name in [
            "no",
            "on",
            "true",
            "0123",
            "0x10",
            "1e3",
            "1.0",
            "9",
            "0",
            "0b1",
            "99999999999999999999",
            "null",
        ] {
            // What is shown reads back, also where plain text would be nothing or another value to other readers.
            let effective = load(None, [], &[format!("node={name}")]).unwrap();
            let shown = effective.lines().into_iter().find(|line| line.key == "node").unwrap().value;
            assert_eq!(node(&shown).as_deref(), Some(name), "{shown}");
            assert!(shown.starts_with('"'), "{shown}");
            if name != "null" {
                assert_eq!(node(name).as_deref(), Some(name));
            }
        }
        for nothing in ["", "~", "null", "''"] {
            assert_eq!(node(nothing), None, "{nothing}");
        }
        assert_eq!(load_file("uplinks: [on, 0123, 1_0]\n").unwrap().settings.uplinks, ["on", "0123", "1_0"]);
        for path in ["-", "--", "no", "null", "1e3", "...", "=", "a b", "a: b", "#", "é", "/a-b_c.d=e"] {
            let effective = load(None, [], &[format!("socket={path}"), format!("files=x,{path}")]).unwrap();
            let text: String =
                effective.lines().iter().map(|line| format!("{}: {}\n", line.key, line.value)).collect();
            assert_eq!(load_file(&text).unwrap().settings, effective.settings, "{text}");
        }
        // JSON that is no YAML has values of its own.
        let json = "{\n\t\"node\": \"0123\",\n\t\"workers\": 2,\n\t\"cores\": [\n\t\t0,\n\t\t1\n\t]\n}\n";
        let settings = load_file(json).unwrap().settings;
        assert_eq!((settings.workers, settings.cores.len()), (Some(2), 2));
        assert_eq!(settings.node.map(|node| node.to_string()).as_deref(), Some("0123"));
    }

    #[test]
    fn the_prefix_of_a_variable_counts_once() {
        let variable = ("PODGATE_SET_PODGATE_SET_NODE".to_owned(), "a".to_owned());
        let errors = load(None, [variable], &[]).unwrap_err();
        assert_eq!(
            errors[0].to_string(),
            "$PODGATE_SET_PODGATE_SET_NODE: podgate_set_node: is no setting; `podgate config` lists all"
        );
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let errors = load_file(
            "workers: 0\nidle: maybe\ncolour: red\nring_size: 100\ndirect: [10.0.0.0]\nnode: [a, b]\nports: [veth0]\nfiles: {a: b}\n",
        )
        .unwrap_err();
        assert_eq!(
            errors,
            [
                "f.yaml: files: is an object, expected a value or a list of values",
                "f.yaml: workers: is \"0\", expected `all`, or a number from 1 to 255",
                "f.yaml: idle: is \"maybe\", expected `sleep` or `spin`",
                "f.yaml: colour: is no setting; `podgate config` lists all",
                "f.yaml: ring_size: is \"100\", expected a power of two from 64 to 32768",
                "f.yaml: direct: is \"10.0.0.0\", expected networks as 10.0.0.0/8",
                "f.yaml: node: is a list, expected a node's name",
                "f.yaml: ports: is \"veth0\", expected entries of INTERFACE NAMESPACE/POD ADDRESS [ADDRESS]",
            ]
        );
        assert!(load_file("- a\n").is_err());
        assert!(load_file("a: [\n").is_err());
        assert!(load(None, [], &["workers".to_owned()]).is_err());
    }

    #[test]
    fn ports_of_the_settings() {
        let effective =
            load_file("ports: [veth0 shop/web 10.0.0.1 fd00::1]\nmetrics_bind_address: none\n").unwrap();
        let port = &effective.settings.ports[0];
        assert_eq!((port.interface.as_str(), port.pod.to_string().as_str()), ("veth0", "shop/web"));
        assert_eq!(port.addresses.len(), 2);
        assert_eq!(effective.settings.metrics_bind_address, None);
        assert!(load_file("ports: [veth0 shop/web 10.0.0.1 10.0.0.2]\n").is_err());
    }
}
