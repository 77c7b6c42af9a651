//! How often a worker answers what it drops: with ICMP errors, and with resets.
//!
//! All ports of a worker share one budget, so that no port makes it work without end. Who uses it up is counted by port: an
//! error is charged to the port by which the packet came that it is about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::by_port::{ByPort, Events};
use crate::clock::Instant64;
use crate::packet::PortId;

/// The errors and resets of one worker about what came by a port, as others may read it at any time.
#[derive(Debug, Default)]
pub struct ErrorCharge {
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

/// How many errors may be sent: bursts of [`ErrorBudget::BURST`], then one each millisecond (RFC 4443, 2.4(f)).
#[derive(Debug)]
pub(super) struct ErrorBudget {
    left: u32,
    refilled: Instant64,
    refused: u64,
    charges: ByPort<ErrorCharge>,
}

impl ErrorBudget {
    const BURST: u32 = 100;
    const INTERVAL: Duration = Duration::from_millis(1);

    /// A full one.
    pub fn new() -> Self {
        Self { left: Self::BURST, refilled: Instant64::from_nanos(0), refused: 0, charges: ByPort::new() }
    }

    /// May one be made about a packet that came by `port`?
    pub fn take(&mut self, port: PortId, now: Instant64) -> bool {
        let earned = now.since(self.refilled).as_nanos() / Self::INTERVAL.as_nanos();
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(Self::BURST);
            self.refilled = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        self.refused = self.refused.wrapping_add(u64::from(!granted));
        if !granted && let Some(charge) = self.charges.of(port) {
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
