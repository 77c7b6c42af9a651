//! How fast: a rate as people write it, and the pacer that keeps it.
//!
//! The pacer compares what was spent with what is due since the start, in whole numbers, so errors do not add up: at any time
//! the packets sent are those that the rate allows, and at most one burst more. It reads no clock; the caller says what time it is.
//!
//! A sender that was kept from running (another program had its core) may catch up, but only so much ([`Pacer::CATCH_UP_NS`]): the
//! rest is given up and counted as slipped, because a flood to make up for a pause would measure something else. Whoever
//! reports a rate reports what slipped.

use std::fmt;
use std::str::FromStr;

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bits of frames, with the four bytes of the check sequence.
    Bits,
    /// Bits on an Ethernet line: frames, check sequence, preamble and gap, 20 bytes more for each frame.
    LineBits,
}

/// An amount each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Packets or bits a second; at least 1.
    pub amount: u64,
    /// Which.
    pub unit: Unit,
}

impl Rate {
    /// So many packets a second.
    #[must_use]
    pub fn packets(amount: f64) -> Self {
        Self { amount: (amount.round() as u64).max(1), unit: Unit::Packets }
    }

    /// What a frame counts, `length` in bytes without the check sequence.
    #[must_use]
    #[inline]
    pub fn cost(&self, length: usize) -> u64 {
        match self.unit {
            Unit::Packets => 1,
            Unit::Bits => 8 * (length as u64 + 4),
            Unit::LineBits => 8 * (length as u64 + 24),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a rate like 500kpps, 1.2Mpps, 800Mbps, 10Gbps or 10Gbps-line".to_owned();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| expected())?;
        let (scale, unit) = match rest.chars().next() {
            Some('k' | 'K') => (1e3, rest.get(1..)),
            Some('M') => (1e6, rest.get(1..)),
            Some('G') => (1e9, rest.get(1..)),
            _ => (1.0, Some(rest)),
        };
        let unit = match unit {
            Some("" | "pps") => Unit::Packets,
            Some("bps" | "bit/s" | "b/s") => Unit::Bits,
            Some("bps-line") => Unit::LineBits,
            _ => return Err(expected()),
        };
        let amount = number * scale;
        if !(1.0..=1e12).contains(&amount) {
            return Err("expected a rate of at least 1 and at most 10^12 a second".to_owned());
        }
        Ok(Self { amount: amount.round() as u64, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Packets => "pps",
            Unit::Bits => "b/s",
            Unit::LineBits => "b/s of the line",
        };
        write!(f, "{}{unit}", super::report::scaled(self.amount as f64))
    }
}

/// Grants bursts so that a rate is kept.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Option<Rate>,
    burst: usize,
    start_ns: u64,
    spent: u128,
    slipped: u128,
}

impl Pacer {
    /// How much a sender that was held up may make up for, in nanoseconds of its rate.
    pub const CATCH_UP_NS: u64 = 5_000_000;
    /// Packets of a burst if nothing limits the rate: system calls are spread over many.
    pub const FULL_BURST: usize = 256;

    /// From now on. Without a rate, everything is granted. Without a burst, as many packets as 20 microseconds of the rate
    /// hold, 1 to 64.
    #[must_use]
    pub fn new(rate: Option<Rate>, burst: Option<usize>, typical_length: usize, start_ns: u64) -> Self {
        let usual = rate.map_or(Self::FULL_BURST, |rate| {
            (rate.amount / rate.cost(typical_length).max(1) / 50_000).clamp(1, 64) as usize
        });
        Self { rate, burst: burst.unwrap_or(usual).max(1), start_ns, spent: 0, slipped: 0 }
    }

    /// How many packets may be sent now: a burst or none.
    #[inline]
    pub fn grant(&mut self, now_ns: u64) -> usize {
        let Some(rate) = self.rate else { return self.burst };
        let due = due(rate, now_ns.saturating_sub(self.start_ns));
        let behind = due.saturating_sub(self.spent);
        let most = due_most(rate);
        if behind > most {
            self.slipped += behind - most;
            self.spent += behind - most;
        }
        if self.spent <= due { self.burst } else { 0 }
    }

    /// A packet of this length was sent.
    #[inline]
    pub fn spend(&mut self, length: usize) {
        if let Some(rate) = self.rate {
            self.spent += u128::from(rate.cost(length));
        }
    }

    /// When the next burst is due, on the clock that `grant` was told of.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        let Some(rate) = self.rate else { return self.start_ns };
        let wait = (self.spent * 1_000_000_000).div_ceil(u128::from(rate.amount));
        self.start_ns.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// What was given up because the sender was held up, of all that was due: 0 to 1.
    #[must_use]
    pub fn slipped(&self) -> f64 {
        if self.spent == 0 { 0.0 } else { self.slipped as f64 / self.spent as f64 }
    }
}

fn due(rate: Rate, elapsed_ns: u64) -> u128 {
    u128::from(elapsed_ns) * u128::from(rate.amount) / 1_000_000_000
}

/// What may be made up for.
fn due_most(rate: Rate) -> u128 {
    // At least a few packets, or slow rates would slip by their own grain.
    due(rate, Pacer::CATCH_UP_NS).max(4 * u128::from(rate.cost(1514)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, amount, unit) in [
            ("1000", 1_000, Unit::Packets),
            ("1.5Mpps", 1_500_000, Unit::Packets),
            ("10kpps", 10_000, Unit::Packets),
            ("2.5Gbps", 2_500_000_000, Unit::Bits),
            ("800Mbit/s", 800_000_000, Unit::Bits),
            ("10Gbps-line", 10_000_000_000, Unit::LineBits),
        ] {
            assert_eq!(text.parse(), Ok(Rate { amount, unit }), "{text}");
        }
        for bad in ["", "fast", "0", "-1", "1Xpps", "1.2.3", "1Mpp", "99999Gbps", "Mpps"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_frame_on_the_line_counts_all_its_bytes() {
        let rate = |unit| Rate { amount: 1, unit };
        assert_eq!(
            [Unit::Packets, Unit::Bits, Unit::LineBits].map(|unit| rate(unit).cost(60)),
            [1, 512, 672]
        );
    }

    proptest! {
        /// A sender that looks often enough sends what the rate allows, to the burst, whatever the grain of its looks.
        #[test]
        fn the_rate_is_exact_over_time(
            amount in 1_000u64..5_000_000, bits: bool, burst in 1usize..65, steps in proptest::collection::vec(1u64..100_000, 1..2000),
            length in 60usize..1514,
        ) {
            let rate = Rate { amount: if bits { amount * 1000 } else { amount }, unit: if bits { Unit::Bits } else { Unit::Packets } };
            let mut pacer = Pacer::new(Some(rate), Some(burst), length, 500);
            let (mut now, mut sent) = (500u64, 0u64);
            for step in steps {
                // The sender of a real link may spend until nothing is due.
                loop {
                    let granted = pacer.grant(now);
                    if granted == 0 { break }
                    for _ in 0..granted { pacer.spend(length); sent += 1 }
                }
                let spent = u128::from(sent) * u128::from(rate.cost(length));
                let due = u128::from(now - 500) * u128::from(rate.amount) / 1_000_000_000;
                let one_burst = burst as u128 * u128::from(rate.cost(length));
                prop_assert!(spent > due && spent <= due + one_burst, "{spent} {due}");
                prop_assert!(pacer.next_ns() > now);
                // Not before, and then indeed.
                let mut early = pacer.clone();
                prop_assert_eq!(early.grant(pacer.next_ns() - 1), 0);
                prop_assert_eq!(pacer.clone().grant(pacer.next_ns()), burst);
                now += step;
            }
            prop_assert_eq!(pacer.slipped(), 0.0);
        }

        /// After a pause no flood: what is made up for is bounded, the rest is counted.
        #[test]
        fn a_pause_slips(amount in 10_000u64..5_000_000, pause_ms in 20u64..5_000) {
            let rate = Rate { amount, unit: Unit::Packets };
            let mut pacer = Pacer::new(Some(rate), Some(1), 60, 0);
            let mut sent = 0u64;
            while pacer.grant(pause_ms * 1_000_000) > 0 { pacer.spend(60); sent += 1 }
            let most = amount * Pacer::CATCH_UP_NS / 1_000_000_000;
            prop_assert!(sent >= most.min(4) && sent <= most.max(6064) + 1);
            let due = amount as f64 * pause_ms as f64 / 1e3;
            prop_assert!((pacer.slipped() * due + sent as f64 - due).abs() < due * 0.01 + 4.0);
        }
    }

    #[test]
    fn without_a_rate_everything_is_granted() {
        let mut pacer = Pacer::new(None, None, 60, 0);
        assert_eq!((pacer.grant(0), pacer.grant(0), pacer.next_ns()), (256, 256, 0));
    }
}
