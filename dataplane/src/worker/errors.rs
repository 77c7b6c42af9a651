//! How often a worker answers what it drops: with ICMP errors, and with resets.
//!
//! Each port has a budget of its own with each worker: an error is charged to the port by which the packet came that it is
//! about. So no port makes a worker work without end, and none keeps others from learning what they must know (a path's MTU).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::by_port::{ByPort, Events};
use crate::clock::Instant64;
use crate::packet::PortId;

/// The errors and resets of one worker about what came by a port, as others may read it at any time.
#[derive(Debug, Default)]
pub struct ErrorCharge {
    /// Of the burst, since `refilled`.
    used: AtomicU32,
    refilled: AtomicU64,
    sent: AtomicU64,
    refused: Events,
}

impl ErrorCharge {
    /// Those that were made, since the start.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Those that were not sent because there had been too many.
    #[must_use]
    pub fn refused(&self) -> &Events {
        &self.refused
    }
}

/// How many errors may be sent about what comes by a port: bursts of [`ErrorBudget::BURST`], then one each millisecond
/// (RFC 4443, 2.4(f)).
#[derive(Debug)]
pub(super) struct ErrorBudget {
    refused: u64,
    charges: ByPort<ErrorCharge>,
}

impl ErrorBudget {
    const BURST: u32 = 100;
    const INTERVAL: Duration = Duration::from_millis(1);

    /// Full ones.
    pub fn new() -> Self {
        Self { refused: 0, charges: ByPort::new() }
    }

    /// May one be made about a packet that came by `port`?
    pub fn take(&mut self, port: PortId, now: Instant64) -> bool {
        let Some(charge) = self.charges.of(port) else { return false };
        let mut used = charge.used.load(Ordering::Relaxed);
        let refilled = Instant64::from_nanos(charge.refilled.load(Ordering::Relaxed));
        let earned = now.since(refilled).as_nanos() / Self::INTERVAL.as_nanos();
        if earned > 0 {
            used = used.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
            charge.refilled.store(now.as_nanos(), Ordering::Relaxed);
        }
        let granted = used < Self::BURST;
        charge.used.store(used + u32::from(granted), Ordering::Relaxed);
        if !granted {
            self.refused = self.refused.wrapping_add(1);
            charge.refused.add(now);
        }
        granted
    }

    /// One was made.
    pub fn count_sent(&self, port: PortId) {
        if let Some(charge) = self.charges.of(port) {
            charge.sent.store(charge.sent().wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Errors that it has kept back since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What is charged to each port.
    pub fn charges(&self) -> &ByPort<ErrorCharge> {
        &self.charges
    }
}
