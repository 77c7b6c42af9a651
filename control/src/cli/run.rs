//! `podgate run` and `podgate config`: the settings, and what becomes of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use podgate_config::model::NodeName;
use podgate_config::settings::{
    self, Deny, Effective, Established, Idle, KubernetesApi, LogFormat, OnExit, Origin, Settings,
    SettingsError,
};
use podgate_dataplane::flow::Timeouts;
use podgate_dataplane::fragment;
use serde::Serialize;

use super::args::{ConfigArgs, RunArgs, SettingsArgs};
use super::console::{Console, Outcome, Table, Tone};
use crate::admin::protocol::PortSpec;
use crate::compiler::Limits;
use crate::daemon::{self, DaemonOptions};
use crate::gateway::options::{Options, usable_cpus};
use crate::source::kubernetes::events::Reporter;
use crate::source::kubernetes::{Access, Timing, rbac};
use crate::telemetry::logs;

/// `podgate run`. Returns after SIGTERM or SIGINT.
pub fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let settings = valid(&args.settings)?;
    logs::start(settings.log_format == LogFormat::Json, &settings.log_levels)?;
    daemon::run(options(settings, args)?)?;
    Ok(Outcome::Fine)
}

#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: String,
    origin: String,
}

/// `podgate config`. Settings that are not valid are bad news.
pub fn config(args: &ConfigArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    if args.markdown {
        console.text(&settings::markdown())?;
        return Ok(Outcome::Fine);
    }
    if args.rbac {
        return rights(args, console);
    }
    let effective = match load(&args.settings)? {
        Ok(effective) => effective,
        Err(errors) => {
            for error in &errors {
                console.line(console.paint(Tone::Bad, error))?;
            }
            return Ok(Outcome::BadNews);
        }
    };
    let rows = effective.lines();
    if console.json() {
        let rows: Vec<Row> = rows
            .into_iter()
            .map(|row| Row { key: row.key, value: row.value, origin: row.origin.to_string() })
            .collect();
        console.document(&rows)?;
    } else {
        let mut table = Table::new(&["setting", "value", "origin"]);
        for row in rows {
            let tone = (row.origin == Origin::Default).then_some(Tone::Faint);
            table.toned([(row.key.to_owned(), None), (row.value, tone), (row.origin.to_string(), tone)]);
        }
        table.print(console, "")?;
    }
    Ok(Outcome::Fine)
}

/// Reads the settings of all sources, which must be valid.
fn valid(args: &SettingsArgs) -> anyhow::Result<Settings> {
    load(args)?.map(|effective| effective.settings).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("settings are not valid:\n  {}", lines.join("\n  "))
    })
}

/// The rights that these settings need at the API server. They go on to kubectl, so errors must not stand among them.
fn rights(args: &ConfigArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let settings = valid(&args.settings)?;
    console.text(&rbac::manifests(settings.kubernetes_events))?;
    Ok(Outcome::Fine)
}

/// Reads the settings of all sources. The outer error is that the file cannot be read.
fn load(args: &SettingsArgs) -> anyhow::Result<Result<Effective, Vec<SettingsError>>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("settings file {}", path.display()));
    let bytes = args.config.as_deref().map(read).transpose()?;
    let name = args.config.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    // A variable that is not UTF-8 cannot be a setting.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let file = bytes.as_deref().map(|bytes| (name.as_str(), bytes));
    Ok(settings::load(file, environment, &args.set))
}

/// The settings in the daemon's terms.
fn options(settings: Settings, args: &RunArgs) -> anyhow::Result<DaemonOptions> {
    let cores = cores(&settings)?;
    let ports = settings.ports.iter().map(|port| PortSpec {
        interface: port.interface.clone(),
        pod: port.pod.to_string(),
        uid: None,
        addresses: port.addresses.clone(),
        mac: None,
    });
    let fragments = fragments(&settings);
    let access = access(&settings, args);
    let node = node(&settings, args, access.is_some())?;
    let kubernetes = access.map(|access| (access, timing(&settings), reporter(&settings, node.as_ref())));
    let gateway = Options {
        node,
        files: settings.files.iter().chain(&args.files).cloned().collect(),
        ports_file: settings.ports_file,
        bpffs: settings.bpffs,
        ports: ports.collect(),
        uplinks: settings.uplinks.into_iter().collect(),
        direct: settings.direct,
        host_mtu: settings.host_mtu,
        cores,
        spin: settings.idle == Idle::Spin,
        keep_established: settings.established == Established::Keep,
        reject: settings.deny == Deny::Reject,
        flows: settings.flows as usize,
        flows_per_pod: settings.flows_per_pod as usize,
        flow_history: settings.flow_history as usize,
        timeouts: timeouts(&settings.timeouts),
        fragments,
        frames: settings.frames,
        ring_size: settings.ring_size,
        limits: Limits {
            pods: settings.limit_pods,
            atoms: settings.limit_atoms,
            rows: settings.limit_rows,
            program_words: settings.limit_program_words,
            range_boundaries: settings.limit_range_boundaries,
            ..Limits::default()
        },
        retired: settings.limit_retired,
        open_on_exit: settings.on_exit == OnExit::Open,
    };
    let metrics = settings.metrics_bind_address;
    Ok(DaemonOptions { gateway, kubernetes, socket: settings.socket, metrics })
}

/// How the API server is reached.
fn access(settings: &Settings, args: &RunArgs) -> Option<Access> {
    match (&args.kubeconfig, &settings.kubernetes) {
        (Some(file), _) | (None, KubernetesApi::Kubeconfig(file)) => Some(Access::Kubeconfig(file.clone())),
        (None, KubernetesApi::InCluster) => Some(Access::InCluster),
        (None, KubernetesApi::None) => None,
    }
}

/// How it is followed.
fn timing(settings: &Settings) -> Timing {
    Timing {
        watch: Duration::from_secs(settings.kubernetes_watch.into()),
        relist: Duration::from_secs(settings.kubernetes_relist.into()),
        ..Timing::default()
    }
}

/// Who makes Events there.
fn reporter(settings: &Settings, node: Option<&NodeName>) -> Option<Reporter> {
    let node = || node.map(ToString::to_string).unwrap_or_default();
    settings.kubernetes_events.then(|| Reporter::of(&node()))
}

/// The node that is served. Nobody else than an API server knows nodes by the names of hosts.
fn node(settings: &Settings, args: &RunArgs, api: bool) -> anyhow::Result<Option<NodeName>> {
    let parse = |origin: &str, name: &str| {
        NodeName::parse(name.trim()).map(Some).map_err(|error| anyhow::anyhow!("{origin}: {error}"))
    };
    if let Some(name) = &args.node_name {
        return parse("--node-name", name);
    }
    if settings.node.is_some() || !api {
        return Ok(settings.node.clone());
    }
    if let Some(name) = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()) {
        return parse("$NODE_NAME", &name);
    }
    // As kubelet does it.
    parse("the host's name; give --node-name", &crate::host_name()?.to_lowercase())
}

fn timeouts(settings: &settings::Timeouts) -> Timeouts {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Timeouts {
        tcp_timeout_syn_sent: seconds(settings.tcp_timeout_syn_sent),
        tcp_timeout_syn_recv: seconds(settings.tcp_timeout_syn_recv),
        tcp_timeout_established: seconds(settings.tcp_timeout_established),
        tcp_timeout_fin_wait: seconds(settings.tcp_timeout_fin_wait),
        tcp_timeout_close_wait: seconds(settings.tcp_timeout_close_wait),
        tcp_timeout_last_ack: seconds(settings.tcp_timeout_last_ack),
        tcp_timeout_time_wait: seconds(settings.tcp_timeout_time_wait),
        tcp_timeout_close: seconds(settings.tcp_timeout_close),
        udp_timeout: seconds(settings.udp_timeout),
        udp_timeout_stream: seconds(settings.udp_timeout_stream),
        sctp_timeout_cookie_wait: seconds(settings.sctp_timeout_cookie_wait),
        sctp_timeout_cookie_echoed: seconds(settings.sctp_timeout_cookie_echoed),
        sctp_timeout_established: seconds(settings.sctp_timeout_established),
        sctp_timeout_shutdown: seconds(settings.sctp_timeout_shutdown),
        sctp_timeout_closed: seconds(settings.sctp_timeout_closed),
        icmp_timeout: seconds(settings.icmp_timeout),
        generic_timeout: seconds(settings.generic_timeout),
    }
}

fn fragments(settings: &Settings) -> fragment::Limits {
    fragment::Limits {
        datagrams: settings.fragment_datagrams as usize,
        held: settings.fragment_held as usize,
        held_per_source: settings.fragment_held_per_source as usize,
        timeout: Duration::from_secs(settings.fragment_timeout.into()),
    }
}

/// The workers' CPUs: as many as there shall be workers, out of those named or those that the process may use.
fn cores(settings: &Settings) -> anyhow::Result<Vec<usize>> {
    let named = if settings.cores.is_empty() {
        usable_cpus().context("reading the CPUs that the process may use")?
    } else {
        settings.cores.clone()
    };
    let workers = settings.workers.map_or(named.len().min(usize::from(u8::MAX)), usize::from);
    anyhow::ensure!(
        workers <= named.len(),
        "workers: is {workers}, expected at most {}, the number of CPUs in `cores` or usable by this process ({named:?})",
        named.len()
    );
    Ok(named.into_iter().take(workers).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_defaults_are_the_data_planes() {
        assert_eq!(timeouts(&settings::Timeouts::default()), Timeouts::default());
        assert_eq!(fragments(&Settings::default()), fragment::Limits::default());
    }
}
