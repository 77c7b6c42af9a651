//! From a worker's drop record to a line that a person understands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podgate_dataplane::clock::Instant64;
use podgate_dataplane::record::DropRecord;

use super::history::History;
use crate::admin::protocol::DropLine;

/// Names what the record has numbers for. `now` is this moment on the worker's clock, `interfaces` are the ports'.
#[must_use]
pub fn line(
    record: &DropRecord,
    now: Instant64,
    interfaces: &BTreeMap<u16, String>,
    history: &History,
    lost: u64,
) -> DropLine {
    let basis = history.get(record.generation);
    let name = |address: IpAddr| {
        let names = &basis.or_else(|| history.current().map(|current| &**current))?.names;
        names.get(&address).map(ToString::to_string)
    };
    let policies = match (basis, record.decided_by) {
        (Some(basis), Some((_, verdict))) => {
            basis.compiled.origins.isolating(verdict.program).map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    };
    let (source, destination) = record.addresses.unzip();
    DropLine {
        time_ms: wall_clock_ms(now.since(record.time)),
        reason: record.reason.name().to_owned(),
        interface: interfaces.get(&record.port.0).cloned().unwrap_or_else(|| format!("port {}", record.port)),
        worker: record.worker.0,
        source: source.and_then(name),
        source_address: source,
        source_port: record.source_port,
        destination: destination.and_then(name),
        destination_address: destination,
        destination_port: record.destination_port,
        protocol: record.addresses.map(|_| record.protocol),
        policies,
        lost,
    }
}

/// Milliseconds since 1970 of a moment that long ago.
fn wall_clock_ms(ago: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}
