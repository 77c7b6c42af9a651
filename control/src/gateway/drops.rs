//! From a worker's drop record to a line that a person understands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podgate_dataplane::clock::Instant64;
use podgate_dataplane::policy::Tier;
use podgate_dataplane::record::DropRecord;

use super::publish::Publisher;
use crate::admin::protocol::DropLine;
use crate::explain::Asked;

/// Names what the record has numbers for. `now` is this moment on the worker's clock, `interfaces` are the ports'.
#[must_use]
pub fn line(
    record: &DropRecord,
    now: Instant64,
    interfaces: &BTreeMap<u16, String>,
    publisher: &Publisher,
    lost: u64,
) -> DropLine {
    let name = |address: IpAddr| publisher.world().with(|world| publisher.name_in(world.live(), address));
    let by_policies = record.decided_by.filter(|(_, verdict)| verdict.tier == Tier::NetworkPolicy);
    let policies = by_policies.map_or_else(Vec::new, |(_, verdict)| {
        let named = publisher.world().with(|world| {
            let isolating = world
                .live()
                .compiler_of(record.generation)
                .isolating_then(verdict.program, record.generation)?;
            Some(isolating.into_iter().map(ToString::to_string).collect())
        });
        named.unwrap_or_default()
    });
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
pub(super) fn wall_clock_ms(ago: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}
