//! The endpoints, asked over a real connection, with a loop that answers what the test wants.

use std::sync::Arc;

use podgate_dataplane::counters::{Snapshot, TurnCounts};
use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::PortKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::http;
use super::metrics::{DeviceCounts, Metrics};
use crate::gateway::handle::{Ask, DropFeed, GatewayHandle, InForce};
use crate::status::{
    Decisions, EventCounts, KindStatus, PolicyHits, PortErrors, PortFlows, PortFragments, PortNeighbours,
    PortState, PortStatus, Problem, SourceStatus, Status,
};

fn status(ready: bool) -> Status {
    Status {
        version: "0.0.0".into(),
        pid: 1,
        uptime_seconds: 1,
        node: None,
        synced: ready,
        ready,
        generation_published: 3,
        generation_in_force: 2,
        problems: vec![Problem { error: true, subject: "source".into(), message: "p.yaml:1: bad".into() }],
        dead_workers: Vec::new(),
        sources: vec![SourceStatus {
            kind: "manifests".into(),
            paths: vec!["p.yaml".into()],
            synced: ready,
            files: 1,
            bad_files: 1,
            kinds: Vec::new(),
            events: None,
            changed_seconds_ago: 0,
            errors: vec!["p.yaml:1: bad".into()],
            warnings: Vec::new(),
            skipped: Default::default(),
        }],
        policy: Default::default(),
        ports: Vec::new(),
        workers: Vec::new(),
        drops: Default::default(),
        policies: vec![PolicyHits {
            policy: "shop/deny".into(),
            direction: "ingress".into(),
            decisions: Decisions { allowed: 0, denied: 7 },
        }],
    }
}

fn port(interface: &str, id: Option<u16>) -> PortStatus {
    PortStatus {
        interface: interface.into(),
        kind: "pod".into(),
        id,
        pod: Some("shop/a".into()),
        addresses: Vec::new(),
        mac: None,
        workers: Vec::new(),
        queue_changes: 0,
        state: PortState::Up,
        detail: None,
        flows: PortFlows { open: 1, embryonic: 2, evicted: 3, refused: 4, refused_seconds_ago: None },
        fragments: PortFragments { datagrams: 5, held: 6, refused: 7, ..PortFragments::default() },
        errors: PortErrors { sent: 8, refused: 9, refused_seconds_ago: None },
        neighbours: PortNeighbours { wanted: 10, refused: 11, refused_seconds_ago: None },
    }
}

/// A gateway whose loop knows only this; it ends with the test's runtime.
fn gateway(status: Status) -> GatewayHandle {
    let (asks, mut receiver) = mpsc::channel(8);
    let (_, in_force) = watch::channel(InForce::Closed);
    tokio::spawn(async move {
        while let Some(ask) = receiver.recv().await {
            match ask {
                Ask::Status(reply) => drop(reply.send(status.clone())),
                Ask::Metrics(reply) => drop(reply.send("podgate_up 1\n".to_owned())),
                Ask::Policies(_) | Ask::Flows(..) | Ask::PortAdd(..) | Ask::PortRemove(..) => {}
            }
        }
    });
    GatewayHandle::new(asks, in_force, Arc::new(DropFeed::default()))
}

async fn get(gateway: GatewayHandle, path: &str) -> (u16, String) {
    let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(http::serve(listener, gateway));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let (code, body) = get(gateway(status(false)), "/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("[-]source manifests"), "{body}");
    let (code, body) = get(gateway(status(true)), "/readyz").await;
    assert_eq!((code, body.as_str()), (200, "ready\n"));
    let (code, body) = get(gateway(status(true)), "/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(body.contains("[+]source manifests") && body.contains("[!]source: p.yaml:1: bad"), "{body}");
}

/// A gateway that follows an API server, which is away.
fn without_server() -> Status {
    let kind = |kind: &str, current| KindStatus {
        kind: kind.into(),
        synced: true,
        current,
        objects: 5,
        version: "17".into(),
        lists: 2,
        failures: 3,
        error: (!current).then(|| "it was silent for 15 s".into()),
        away_seconds: (!current).then_some(200),
    };
    let kinds = vec![kind("Pod", false), kind("Node", true), kind("NetworkPolicy", false)];
    let errors = KindStatus::problems(&kinds);
    let mut status = status(true);
    status.problems = errors
        .iter()
        .map(|line| Problem { error: true, subject: "source".into(), message: line.clone() })
        .collect();
    status.sources[0] = SourceStatus {
        kind: "kubernetes".into(),
        files: 0,
        bad_files: 0,
        kinds,
        events: Some(EventCounts { told: 7, failed: 1 }),
        errors,
        ..status.sources[0].clone()
    };
    status
}

#[tokio::test]
async fn a_server_that_is_away_leaves_it_ready_and_is_told() {
    let (code, body) = get(gateway(without_server()), "/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(body.contains("[+]source kubernetes synced"), "{body}");
    let line = "[!]source: the API server is not followed for 3 min (Pod, NetworkPolicy): it was silent for 15 s; what \
                it said last stays in force\n";
    assert!(body.contains(line), "{body}");
    let text = Metrics::new().unwrap().render(&without_server(), &[], &[], 0);
    for line in [
        "podgate_source_synced{source=\"kubernetes\"} 1",
        "podgate_source_errors{source=\"kubernetes\"} 1",
        "podgate_source_current{source=\"kubernetes\",kind=\"Pod\"} 0",
        "podgate_source_current{source=\"kubernetes\",kind=\"Node\"} 1",
        "podgate_source_objects{source=\"kubernetes\",kind=\"Pod\"} 5",
        "podgate_source_lists_total{source=\"kubernetes\",kind=\"Pod\"} 2",
        "podgate_source_failures_total{source=\"kubernetes\",kind=\"Pod\"} 3",
        "podgate_source_events_total{source=\"kubernetes\"} 7",
        "podgate_source_events_failed_total{source=\"kubernetes\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn live_is_who_answers() {
    assert_eq!(get(gateway(status(false)), "/livez").await.0, 200);
    assert_eq!(get(gateway(status(false)), "/healthz").await.0, 200);
    assert_eq!(get(gateway(status(false)), "/metrics").await, (200, "podgate_up 1\n".to_owned()));
    assert_eq!(get(gateway(status(false)), "/nothing").await.0, 404);
    let (code, body) = get(gateway(Status { dead_workers: vec![1], ..status(true) }), "/livez").await;
    assert_eq!((code, body.as_str()), (503, "workers [1] have ended; start podgate again\n"));
    let (asks, receiver) = mpsc::channel(8);
    drop(receiver);
    let dead = GatewayHandle::new(asks, watch::channel(InForce::Closed).1, Arc::default());
    assert_eq!(get(dead, "/livez").await.0, 503);
}

#[test]
fn the_exposition_holds_every_counter_and_no_leftovers() {
    let metrics = Metrics::new().unwrap();
    metrics.compiled(std::time::Duration::from_millis(3));
    let worker = podgate_dataplane::counters::WorkerCounters::new();
    let mut turn = TurnCounts::new();
    turn.received(PortKind::Pod, 60);
    turn.dropped(DropReason::PolicyEgress, PortKind::Pod);
    worker.flush(&mut turn, 0);
    let workers = [worker.snapshot()];
    let devices =
        [DeviceCounts { interface: "veth0".into(), counters: vec![("podgate_xdp_rx_dropped_total", 5)] }];
    let with_ports = Status { ports: vec![port("va", Some(4)), port("vb", None)], ..status(true) };
    let text = metrics.render(&with_ports, &workers, &devices, 2);
    for line in [
        "podgate_received_packets_total{worker=\"0\",port_kind=\"pod\"} 1",
        "podgate_dropped_packets_total{reason=\"policy_egress\",direction=\"egress\",port_kind=\"pod\"} 1",
        "podgate_dropped_packets_total{reason=\"spoofed_source\",direction=\"ingress\",port_kind=\"host\"} 0",
        "podgate_policy_connections_total{policy=\"shop/deny\",direction=\"ingress\",verdict=\"deny\"} 7",
        "podgate_xdp_rx_dropped_total{interface=\"veth0\"} 5",
        "podgate_port_flows{interface=\"va\",pod=\"shop/a\"} 1",
        "podgate_port_flows_embryonic{interface=\"va\",pod=\"shop/a\"} 2",
        "podgate_port_flows_evicted_total{interface=\"va\",pod=\"shop/a\"} 3",
        "podgate_port_flows_refused_total{interface=\"va\",pod=\"shop/a\"} 4",
        "podgate_port_fragmented_datagrams{interface=\"va\",pod=\"shop/a\"} 5",
        "podgate_port_held_fragments{interface=\"va\",pod=\"shop/a\"} 6",
        "podgate_port_fragments_refused_total{interface=\"va\",pod=\"shop/a\"} 7",
        "podgate_port_errors_total{interface=\"va\",pod=\"shop/a\"} 8",
        "podgate_port_errors_refused_total{interface=\"va\",pod=\"shop/a\"} 9",
        "podgate_port_neighbours_wanted{interface=\"va\",pod=\"shop/a\"} 10",
        "podgate_port_neighbours_refused_total{interface=\"va\",pod=\"shop/a\"} 11",
        "podgate_lost_drop_records_total 2",
        "podgate_generation_in_force 2",
        "podgate_source_bad_files{source=\"manifests\"} 1",
        "podgate_compile_seconds_count 1",
        "podgate_compile_seconds_bucket{le=\"0.005\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("interface=\"vb\""), "a port that is down is charged nothing");
    let again = metrics.render(&status(true), &[], &[], 0);
    assert!(!again.contains("veth0"), "a port that is gone leaves nothing behind");
    assert!(!Snapshot::default().counts.drops(DropReason::PolicyEgress).iter().any(|n| *n > 0));
}
