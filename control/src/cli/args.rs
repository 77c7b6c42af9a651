//! The command line: every command, its options and an example of each.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::console::Format;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/podgate/podgate.sock";

/// Podgate enforces Kubernetes NetworkPolicy in user space, on AF_XDP.
#[derive(Debug, Parser)]
#[command(name = "podgate", version, max_term_width = 110, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 fine (a deny is an answer, not an error), 1 bad news, 2 usage or environment.\n\n\
    Example:\n  podgate check -f policies/\n  podgate explain -f policies/ --from shop/web --to shop/db --port 5432"
)]
pub struct Cli {
    /// How answers are printed; json means one document, or one object a line for streams
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub output: Format,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground
    #[command(
        after_help = "Examples:\n  podgate run --config /etc/podgate/podgate.yaml -f /etc/podgate/manifests\n  \
        podgate run --kubeconfig /etc/podgate/kubeconfig --node-name node-1\n  \
        podgate run --set kubernetes=in-cluster"
    )]
    Run(RunArgs),
    /// Validate manifests as strictly as the API server does
    #[command(after_help = "One line per finding:\n  \
        file:document: kind namespace/name: field: what is wrong, what is expected\n\n\
        Exit code 1 for what the API server would refuse; warnings leave it at 0.\n\n\
        Example:\n  podgate check -f config/examples/shop")]
    Check(FilesArgs),
    /// Say whether a connection is allowed, and who decided
    #[command(
        after_help = "END is namespace/pod or an address. A live pod's address means the pod, a Node's the node, \
        anything else the outside. With -f both ends are judged, every pod as on its own node.\n\n\
        --probes takes one JSON object a line and writes each back, in order, with its verdict:\n  \
        {\"from\":{\"pod\":\"shop/web\"},\"to\":{\"ip\":\"10.244.0.7\"},\"port\":80,\"protocol\":\"TCP\"}\n\n\
        --sport asks about one connection, which is there or was a while ago: where it is, which rules admitted it, and \
        how it ended. Either of its ends may be --from. Name an end by its address if the pod is gone.\n\n\
        Examples:\n  podgate explain -f policies/ --from shop/web --to shop/db --port 5432\n  \
        podgate explain --socket /run/podgate/podgate.sock --from 192.0.2.1 --to shop/web --port 53 --protocol UDP\n  \
        podgate explain -f policies/ --probes probes.jsonl\n  \
        podgate explain --socket /run/podgate/podgate.sock --from shop/web --to shop/db --port 5432 --sport 40112"
    )]
    Explain(ExplainArgs),
    /// Print who reaches whom, pods by pods, on one port
    #[command(after_help = "Example:\n  podgate matrix -f config/examples/shop --port 80")]
    Matrix(MatrixArgs),
    /// Say how the running gateway is
    #[command(
        after_help = "With `policies`: for each NetworkPolicy whether it is in force as its file says, since which \
        generation, whom it selects and what it decided. Exit code 1 if one is not.\n\n\
        Examples:\n  podgate status --socket /run/podgate/lab.sock\n  \
        podgate status policies --socket /run/podgate/lab.sock"
    )]
    Status(StatusArgs),
    /// Print dropped packets and the reason of each
    #[command(after_help = "Example:\n  podgate drops --follow --socket /run/podgate/lab.sock")]
    Drops(DropsArgs),
    /// Tell the running gateway which interface leads to which pod
    #[command(subcommand)]
    Port(PortCommand),
    /// Print the effective settings and where each came from
    #[command(
        after_help = "Exit code 1 if a setting is not valid, 2 if that keeps --rbac from its answer.\n\n\
        Example:\n  podgate config --config /etc/podgate/podgate.yaml --set workers=2\n  podgate config --markdown\n  \
        podgate config --rbac --set kubernetes_events=true | kubectl apply -f -"
    )]
    Config(ConfigArgs),
    /// Build pods on this machine and watch policy being enforced
    #[command(subcommand)]
    Lab(LabCommand),
}

/// Manifests.
#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Manifest files or folders (read recursively: *.yaml, *.yml, *.json); repeatable
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "PATH")]
    pub files: Vec<PathBuf>,
}

/// Manifests, or the running gateway.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct WorldArgs {
    /// Manifest files or folders (read recursively: *.yaml, *.yml, *.json); repeatable
    #[arg(short, long = "file", num_args = 1.., value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Ask the running gateway at this socket instead
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// The running gateway.
#[derive(Debug, Args)]
pub struct SocketArgs {
    /// The gateway's admin socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "PODGATE_SOCKET")]
    pub socket: PathBuf,
}

/// `podgate status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// One part of it alone, in detail
    #[arg(value_enum)]
    pub part: Option<StatusPart>,
    /// The gateway.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What `podgate status` may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StatusPart {
    /// Every NetworkPolicy: whether it is in force, since when, and what it decided
    Policies,
}

/// Settings from a file, the environment (`PODGATE_SET_<KEY>`) and the command line.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// Settings file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override one setting; repeatable. Wins over `PODGATE_SET_<KEY>` variables, and these over the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `podgate run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Manifest files or folders to enforce and watch, besides those of the settings; repeatable
    #[arg(short, long = "file", num_args = 1.., value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Follow the API server of this kubeconfig's current context; the setting `kubernetes` has `in-cluster` too
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The node to serve; with an API server $NODE_NAME or else the host's name if nothing says it
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
}

/// `podgate explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// What to ask.
    #[command(flatten)]
    pub world: WorldArgs,
    /// Who opens the connection: namespace/pod or an address
    #[arg(long, value_name = "END", required_unless_present = "probes")]
    pub from: Option<String>,
    /// Who is asked: namespace/pod or an address
    #[arg(long, value_name = "END", required_unless_present = "probes")]
    pub to: Option<String>,
    /// Destination port; leave it out where the protocol has none
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// TCP, UDP, SCTP, ICMP or an IP protocol number
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    pub protocol: String,
    /// Ask the running gateway what became of the connection from this source port (ICMP: with this identifier), now or of late
    #[arg(long, value_name = "N")]
    pub sport: Option<u16>,
    /// Answer one question a line from this file, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "port", "sport"])]
    pub probes: Option<PathBuf>,
}

/// `podgate matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// What to ask.
    #[command(flatten)]
    pub world: WorldArgs,
    /// Destination port; leave it out where the protocol has none
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// TCP, UDP, SCTP, ICMP or an IP protocol number
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    pub protocol: String,
}

/// `podgate drops`.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// The gateway.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Go on printing until interrupted; without it, print what was dropped lately and end
    #[arg(long)]
    pub follow: bool,
}

/// `podgate port`.
#[derive(Debug, Subcommand)]
pub enum PortCommand {
    /// Attach a pod's interface
    #[command(after_help = "Example:\n  podgate port add --interface veth0a1b --pod shop/web \
        --address 10.244.0.7 --address fd00:10:244::7")]
    Add(PortAddArgs),
    /// Detach a pod's interface; its traffic stops
    #[command(after_help = "Example:\n  podgate port remove --interface veth0a1b")]
    Remove(PortRemoveArgs),
    /// Print all ports
    #[command(after_help = "Example:\n  podgate port list -o json")]
    List(SocketArgs),
}

/// `podgate port add`.
#[derive(Debug, Args)]
pub struct PortAddArgs {
    /// The gateway.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The host end of the pod's veth pair
    #[arg(long, value_name = "NAME")]
    pub interface: String,
    /// Whose it is
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub pod: String,
    /// The pod's metadata.uid: one that is made again under its name is not behind this interface
    #[arg(long, value_name = "UID")]
    pub uid: Option<String>,
    /// An address of the pod: at most one IPv4 and one IPv6; repeatable
    #[arg(long = "address", value_name = "IP", required = true)]
    pub addresses: Vec<IpAddr>,
    /// The pod's own MAC address, if the kernel cannot be asked for it
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
}

/// `podgate port remove`.
#[derive(Debug, Args)]
pub struct PortRemoveArgs {
    /// The gateway.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The host end of the pod's veth pair
    #[arg(long, value_name = "NAME")]
    pub interface: String,
}

/// `podgate config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Print the table of all settings for the documentation instead
    #[arg(long)]
    pub markdown: bool,
    /// Print the ServiceAccount and the ClusterRole that following an API server needs with these settings instead
    #[arg(long, conflicts_with = "markdown")]
    pub rbac: bool,
}

/// `podgate lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Give each pod of the manifests a network namespace behind one gateway
    #[command(
        after_help = "With an API server the lab is one of its nodes: the pods that are bound to it live here, and the lab \
        does for them what a kubelet does. It takes no node on which one is at work.\n\n\
        Examples:\n  podgate lab up -f config/examples/shop\n  ip netns exec web.shop curl http://api.shop:8080\n  \
        podgate lab up --with-test-api -f config/examples/shop\n  podgate lab up --kubeconfig ~/.kube/config --node lab"
    )]
    Up(LabUpArgs),
    /// Remove the lab, also what is left of one that was killed
    #[command(after_help = "Example:\n  podgate lab down")]
    Down,
    /// Up, connect everyone with everyone, compare with what is expected, down
    #[command(after_help = "Exit code 1 if anything observed differs from what is expected.\n\n\
        Example:\n  podgate lab demo --workers 2")]
    Demo(LabDemoArgs),
    /// Say what the lab consists of and how its gateway is
    #[command(after_help = "Example:\n  podgate lab status")]
    Status,
    /// What `up` leaves running; not for people
    #[command(hide = true, after_help = "Example:\n  podgate lab supervise '{\"files\":[],...}'")]
    Supervise(LabSuperviseArgs),
}

/// `podgate lab supervise`.
#[derive(Debug, Args)]
pub struct LabSuperviseArgs {
    /// What the lab is made of, as JSON
    pub options: String,
}

/// `podgate lab up`.
#[derive(Debug, Args)]
pub struct LabUpArgs {
    /// Manifest files or folders (read recursively: *.yaml, *.yml, *.json); repeatable. They are watched; with
    /// --with-test-api they are what it begins with
    #[arg(short, long = "file", num_args = 1.., value_name = "PATH",
        required_unless_present_any = ["kubeconfig", "with_test_api"])]
    pub files: Vec<PathBuf>,
    /// Follow the API server of this kubeconfig's current context, as its node --node
    #[arg(long, value_name = "FILE", requires = "node", conflicts_with_all = ["files", "with_test_api"])]
    pub kubeconfig: Option<PathBuf>,
    /// Follow a test API server that comes and goes with the lab, for machines without a cluster
    #[arg(long)]
    pub with_test_api: bool,
    /// Everything else.
    #[command(flatten)]
    pub shape: LabShape,
    /// The node whose pods live in the lab, if the manifests know several or there is an API server
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// `podgate lab demo`.
#[derive(Debug, Args)]
pub struct LabDemoArgs {
    /// Another example than the shop; a folder with expectations beside its manifests
    #[arg(short, long = "file", num_args = 1.., value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Everything else.
    #[command(flatten)]
    pub shape: LabShape,
}

/// What a lab looks like besides its manifests.
#[derive(Debug, Args)]
pub struct LabShape {
    /// Workers of the gateway; as many as there are CPUs if left out
    #[arg(long, value_name = "N")]
    pub workers: Option<u8>,
    /// A host behind an uplink port, outside of the cluster; repeatable
    #[arg(long = "external", value_name = "NAME=IPv4[,IPv6]")]
    pub externals: Vec<String>,
    /// MTU of the pods' interfaces
    #[arg(long, value_name = "N")]
    pub mtu: Option<u16>,
    /// Override one setting of the gateway; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}
