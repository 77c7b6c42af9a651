//! The table of all settings.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Deny, Established, Idle, KubernetesApi, LogFormat, OnExit, PortSetting, Settings, Timeouts};
use crate::manifest::yaml::{self, Value};
use crate::model::{NodeName, ObjectName};

/// One setting.
pub struct Setting {
    /// Its key in files; variables have it in capitals behind `PODGATE_SET_`.
    pub key: &'static str,
    /// What it does, for the documentation.
    pub help: &'static str,
    /// What a value looks like.
    pub expected: &'static str,
    /// Whether it has any number of items.
    pub list: bool,
    /// Its value as a file would have it.
    pub get: fn(&Settings) -> String,
    /// Reads a value; one item if it is no list, or none for an empty one.
    pub(super) set: fn(&mut Settings, &[String]) -> Result<(), ()>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: None,
            kubernetes: KubernetesApi::None,
            kubernetes_watch: 45,
            kubernetes_relist: 900,
            kubernetes_events: false,
            files: Vec::new(),
            socket: PathBuf::from("/run/podgate/podgate.sock"),
            metrics_bind_address: Some(([127, 0, 0, 1], 9469).into()),
            workers: None,
            cores: Vec::new(),
            idle: Idle::Sleep,
            established: Established::Recheck,
            deny: Deny::Drop,
            on_exit: OnExit::Closed,
            ports: Vec::new(),
            ports_file: PathBuf::from("/run/podgate/ports.json"),
            uplinks: Vec::new(),
            direct: Vec::new(),
            host_mtu: 1500,
            bpffs: PathBuf::from("/run/podgate/bpf"),
            frames: 131_072,
            ring_size: 2048,
            flows: 262_144,
            flows_per_pod: 131_072,
            flow_history: 16_384,
            timeouts: Timeouts::default(),
            fragment_datagrams: 1024,
            fragment_held: 512,
            fragment_held_per_source: 128,
            fragment_timeout: 3,
            limit_pods: 1 << 17,
            limit_atoms: 1 << 16,
            limit_rows: 1 << 17,
            limit_program_words: 1 << 25,
            limit_range_boundaries: 1 << 22,
            limit_retired: 16,
            log_format: LogFormat::Text,
            log_levels: "info".to_owned(),
        }
    }
}

/// A setting of one value: how it is shown and read.
macro_rules! one {
    ($key:ident, $expected:expr, $help:expr, $get:expr, $read:expr) => {
        Setting {
            key: stringify!($key),
            help: $help,
            expected: $expected,
            list: false,
            get: |settings| $get(&settings.$key),
            set: |settings, items| {
                let text = items.first().map(String::as_str).unwrap_or_default();
                settings.$key = $read(text).ok_or(())?;
                Ok(())
            },
        }
    };
}

/// A setting of several values.
macro_rules! many {
    ($key:ident, $expected:expr, $help:expr, $get:expr, $read:expr) => {
        Setting {
            key: stringify!($key),
            help: $help,
            expected: $expected,
            list: true,
            get: |settings| {
                let items: Vec<String> = settings.$key.iter().map($get).collect();
                format!("[{}]", items.join(", "))
            },
            set: |settings, items| {
                settings.$key =
                    items.iter().map(|item| $read(item.as_str())).collect::<Option<_>>().ok_or(())?;
                Ok(())
            },
        }
    };
}

/// A number within bounds.
macro_rules! count {
    ($key:ident, $expected:expr, $min:expr, $max:expr, $help:expr) => {
        one!($key, $expected, $help, ToString::to_string, |text: &str| text
            .parse()
            .ok()
            .filter(|number| ($min..=$max).contains(number)))
    };
}

/// How long a connection may be silent in one of its states.
macro_rules! silence {
    ($key:ident, $state:expr) => {
        Setting {
            key: stringify!($key),
            help: concat!($state, ": how long such a connection may be silent"),
            expected: "seconds, at least 1",
            list: false,
            get: |settings| settings.timeouts.$key.to_string(),
            set: |settings, items| {
                let text = items.first().map(String::as_str).unwrap_or_default();
                settings.timeouts.$key = text.parse().ok().filter(|seconds| *seconds > 0).ok_or(())?;
                Ok(())
            },
        }
    };
}

/// All settings, in the order of the documentation.
pub static TABLE: &[Setting] = &[
    one!(
        node,
        "a node's name",
        "The node that this gateway serves; the addresses of its Node object count as the node's own. Empty: with an API server, what NODE_NAME says or else the host's name; otherwise those of the kernel alone",
        |node: &Option<NodeName>| node.as_ref().map(|node| quote(&node.to_string())).unwrap_or_default(),
        |text: &str| if text.is_empty() { Some(None) } else { NodeName::parse(text).ok().map(Some) }
    ),
    one!(
        kubernetes,
        "`none`, `in-cluster`, or the path of a kubeconfig file",
        "The API server to follow: none, that of the cluster that podgate is a pod of, or that of a kubeconfig's current context. Of an object that is in manifests too, the API server's version counts",
        |api: &KubernetesApi| match api {
            KubernetesApi::None => "none".to_owned(),
            KubernetesApi::InCluster => "in-cluster".to_owned(),
            KubernetesApi::Kubeconfig(file) => quote(&file.display().to_string()),
        },
        |text: &str| match text {
            "none" => Some(KubernetesApi::None),
            "in-cluster" => Some(KubernetesApi::InCluster),
            file => path(file).map(KubernetesApi::Kubeconfig),
        }
    ),
    count!(
        kubernetes_watch,
        "a number from 1 to 260",
        1,
        260,
        "Seconds that a watch of the API server lasts before the next one begins, give or take a tenth. A connection that is dead without a word, and a server that was restored from a backup, are noticed after that"
    ),
    count!(
        kubernetes_relist,
        "a number from 10 to 86400",
        10,
        86_400,
        "Seconds after which everything is listed again and compared, give or take a tenth; not before a watch is over (`kubernetes_watch`), nor before fifty times as long as a list takes"
    ),
    one!(
        kubernetes_events,
        "`false` or `true`",
        "Whether objects of the API server that cannot be applied are told of in Kubernetes Events. That needs the right to make them: `podgate config --rbac`",
        ToString::to_string,
        |text: &str| text.parse().ok()
    ),
    many!(
        files,
        "paths",
        "Manifest files and folders to enforce and to watch, besides those of -f",
        |path| quote(&path.display().to_string()),
        path
    ),
    one!(
        socket,
        "a path",
        "The admin socket, by which the podgate command talks with the gateway",
        show_path,
        path
    ),
    one!(
        metrics_bind_address,
        "ADDRESS:PORT, or `none`",
        "Where /metrics, /livez and /readyz are served",
        |address: &Option<std::net::SocketAddr>| address
            .map_or_else(|| "none".to_owned(), |address| quote(&address.to_string())),
        |text: &str| if text == "none" { Some(None) } else { text.parse().ok().map(Some) }
    ),
    one!(
        workers,
        "`all`, or a number from 1 to 255",
        "Threads that forward packets, each on a core of its own. all: one for each CPU that the process may use",
        |workers: &Option<u8>| workers.map_or_else(|| "all".to_owned(), |workers| workers.to_string()),
        |text: &str| match text {
            "all" => Some(None),
            number => number.parse::<u8>().ok().filter(|workers| *workers > 0).map(Some),
        }
    ),
    many!(
        cores,
        "numbers of CPUs",
        "The CPUs of the workers, in order. Empty: the first ones that the process may use",
        ToString::to_string,
        |text: &str| text.parse().ok()
    ),
    one!(
        idle,
        "`sleep` or `spin`",
        "What a worker without packets does. sleep: waits for the kernel's word. spin: looks again and again, which is quicker and takes the whole core",
        |idle: &Idle| match idle {
            Idle::Sleep => "sleep".to_owned(),
            Idle::Spin => "spin".to_owned(),
        },
        |text: &str| match text {
            "sleep" => Some(Idle::Sleep),
            "spin" => Some(Idle::Spin),
            _ => None,
        }
    ),
    one!(
        established,
        "`recheck` or `keep`",
        "What a policy change means for open connections. recheck: each is judged again, and cut if it is denied now. keep: they go on",
        |established: &Established| match established {
            Established::Recheck => "recheck".to_owned(),
            Established::Keep => "keep".to_owned(),
        },
        |text: &str| match text {
            "recheck" => Some(Established::Recheck),
            "keep" => Some(Established::Keep),
            _ => None,
        }
    ),
    one!(
        deny,
        "`drop` or `reject`",
        "What the sender of a denied packet learns. drop: nothing. reject: TCP is reset, everything else is answered with ICMP administratively prohibited, at most some 1000 times a second and worker",
        |deny: &Deny| match deny {
            Deny::Drop => "drop".to_owned(),
            Deny::Reject => "reject".to_owned(),
        },
        |text: &str| match text {
            "drop" => Some(Deny::Drop),
            "reject" => Some(Deny::Reject),
            _ => None,
        }
    ),
    one!(
        on_exit,
        "`closed` or `open`",
        "What a clean exit leaves behind. closed: nothing passes until the next start. open: whatever the kernel routes passes without judgement",
        |on_exit: &OnExit| match on_exit {
            OnExit::Closed => "closed".to_owned(),
            OnExit::Open => "open".to_owned(),
        },
        |text: &str| match text {
            "closed" => Some(OnExit::Closed),
            "open" => Some(OnExit::Open),
            _ => None,
        }
    ),
    many!(
        ports,
        "entries of INTERFACE NAMESPACE/POD ADDRESS [ADDRESS]",
        "Pod ports that are always there; others come by `podgate port add`",
        |port: &PortSetting| {
            let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
            quote(&format!("{} {} {}", port.interface, port.pod, addresses.join(" ")))
        },
        port
    ),
    one!(
        ports_file,
        "a path",
        "Where ports that were added by `podgate port add` are kept over a restart",
        show_path,
        path
    ),
    many!(
        uplinks,
        "names of interfaces",
        "Interfaces to the outside whose packets for pods are taken without a detour through the kernel",
        |name| quote(name),
        |text: &str| interface(text)
    ),
    many!(
        direct,
        "networks as 10.0.0.0/8",
        "Networks that are reached by an uplink directly; everything else outside goes by the kernel",
        |network| quote(&network.to_string()),
        |text: &str| text.parse().ok()
    ),
    count!(
        host_mtu,
        "a number from 1280 to 65535",
        1280,
        65_535,
        "MTU of the veth pair into the kernel's own network"
    ),
    one!(bpffs, "a path", "The bpf file system for pins; mounted there if none is", show_path, path),
    count!(
        frames,
        "a number from 4096 to 1048576",
        4096,
        1_048_576,
        "Packet buffers of 4096 bytes, for all ports together"
    ),
    one!(
        ring_size,
        "a power of two from 64 to 32768",
        "Entries of each ring between kernel and gateway, for each queue of each port",
        ToString::to_string,
        |text: &str| text
            .parse()
            .ok()
            .filter(|size: &u32| size.is_power_of_two() && (64..=32_768).contains(size))
    ),
    count!(
        flows,
        "a number from 1024 to 16777216",
        1024,
        16_777_216,
        "Connections that each worker remembers at most"
    ),
    count!(
        flows_per_pod,
        "a number from 64 to 16777216",
        64,
        16_777_216,
        "How many of them may be charged to one pod: to the one that opens them, or, if that is outside, to the one that they go to"
    ),
    count!(
        flow_history,
        "a number from 0 to 1048576",
        0,
        1 << 20,
        "Connections that are over that each worker remembers, about 200 bytes each, for `podgate explain --sport`: an eighth of them such that were not established, so that a flood does not wash out the others"
    ),
    silence!(tcp_timeout_syn_sent, "TCP: a SYN was seen"),
    silence!(tcp_timeout_syn_recv, "TCP: it was answered"),
    silence!(tcp_timeout_established, "TCP: the handshake is over"),
    silence!(tcp_timeout_fin_wait, "TCP: one end is done"),
    silence!(tcp_timeout_close_wait, "TCP: the other end has acknowledged that, and may go on sending"),
    silence!(tcp_timeout_last_ack, "TCP: both ends are done"),
    silence!(tcp_timeout_time_wait, "TCP: both have acknowledged that"),
    silence!(tcp_timeout_close, "TCP: it was reset"),
    silence!(udp_timeout, "UDP: no answer yet"),
    silence!(udp_timeout_stream, "UDP: packets went both ways"),
    silence!(sctp_timeout_cookie_wait, "SCTP: an INIT was seen"),
    silence!(sctp_timeout_cookie_echoed, "SCTP: the cookie went back"),
    silence!(sctp_timeout_established, "SCTP: the cookie was taken"),
    silence!(sctp_timeout_shutdown, "SCTP: one end ends it"),
    silence!(sctp_timeout_closed, "SCTP: it is over"),
    silence!(icmp_timeout, "ICMP and ICMPv6 queries"),
    silence!(generic_timeout, "Every other protocol"),
    count!(
        fragment_datagrams,
        "a number from 16 to 65536",
        16,
        65_536,
        "Datagrams in fragments that each worker remembers at most: one source a quarter of them, one port three quarters"
    ),
    count!(
        fragment_held,
        "a number from 16 to 16384",
        16,
        16_384,
        "Fragments that each worker holds at most, because the first one of their datagram has not come: one port three quarters of them, one datagram 64, and none larger than four packet buffers"
    ),
    count!(
        fragment_held_per_source,
        "a number from 1 to 16384",
        1,
        16_384,
        "How many of them one source may have at most"
    ),
    count!(
        fragment_timeout,
        "a number from 1 to 60",
        1,
        60,
        "Seconds that a datagram may take from the first of its fragments that comes to the last. The ends themselves wait for 30 and more; a gateway only has to outwait slow links and packets that overtake each other"
    ),
    count!(
        limit_pods,
        "a number from 1 to 1048576",
        1,
        1 << 20,
        "Live pods with an address, in the whole cluster"
    ),
    count!(limit_atoms, "a number from 1 to 1048576", 1, 1 << 20, "Classes of pods that policies tell apart"),
    count!(limit_rows, "a number from 1 to 16777216", 1, 1 << 24, "Distinct sets of peers in all policies"),
    count!(
        limit_program_words,
        "a number from 1 to 1073741824",
        1,
        1 << 30,
        "Size of all compiled policies, in words of 4 bytes"
    ),
    count!(
        limit_range_boundaries,
        "a number from 1 to 1073741824",
        1,
        1 << 30,
        "Boundaries of all ipBlock ranges"
    ),
    count!(
        limit_retired,
        "a number from 1 to 1024",
        1,
        1024,
        "Replaced snapshots that may wait for a worker to let go of them. If so many do, the worker is stuck, and nothing more is published until it goes on"
    ),
    one!(
        log_format,
        "`text` or `json`",
        "How logs look, on standard error",
        |format: &LogFormat| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
        |text: &str| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    ),
    one!(
        log_levels,
        "LEVEL or MODULE=LEVEL, joined by commas",
        "What is logged: error, warn, info, debug or trace, by module",
        |levels: &String| quote(levels),
        |text: &str| (!text.is_empty()).then(|| text.to_owned())
    ),
];

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn show_path(path: &std::path::Path) -> String {
    quote(&path.display().to_string())
}

/// As YAML has it, in quotes where it would be taken for something else.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '=');
    // Also of what is text here alone: whoever else reads the output takes `no` for false.
    let is_text = matches!(yaml::resolve(text), Value::Str(_));
    if is_text && !text.starts_with(['-', '.', '=']) && text.chars().all(plain) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// An interface's name as the kernel takes it.
fn interface(text: &str) -> Option<String> {
    let valid = (1..=15).contains(&text.len()) && !text.contains(|c: char| c == '/' || c.is_whitespace());
    (valid && text != "." && text != "..").then(|| text.to_owned())
}

fn port(text: &str) -> Option<PortSetting> {
    let mut words = text.split_whitespace();
    let interface = interface(words.next()?)?;
    let (namespace, name) = words.next()?.split_once('/')?;
    let pod = ObjectName::parse(namespace, name).ok()?;
    let addresses = words.map(|word| word.parse().ok()).collect::<Option<Vec<IpAddr>>>()?;
    let fours = addresses.iter().filter(|address| address.is_ipv4()).count();
    (!addresses.is_empty() && fours <= 1 && addresses.len() - fours <= 1).then_some(PortSetting {
        interface,
        pod,
        addresses,
    })
}

/// The table as Markdown, for the documentation.
#[must_use]
pub fn markdown() -> String {
    let defaults = Settings::default();
    let mut text = String::from("| setting | default | value | meaning |\n|---|---|---|---|\n");
    for setting in TABLE {
        let default = (setting.get)(&defaults);
        let default = if default.is_empty() { "empty".to_owned() } else { format!("`{default}`") };
        text.push_str(&format!(
            "| `{}` | {default} | {} | {} |\n",
            setting.key, setting.expected, setting.help
        ));
    }
    text
}
