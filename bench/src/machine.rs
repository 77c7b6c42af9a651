//! What a figure was measured on.
//!
//! A rate without its machine is a rumour. Every report of this crate opens with [`Machine::describe`]: processor,
//! kernel, cores, and the core-to-core latency of this very moment, because virtual machines move between regimes
//! (30 ns and 250 ns between the same two cores) that change AF_XDP rates by a third.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

/// Where a measurement ran.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `model name` of /proc/cpuinfo.
    pub processor: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Cores this process may use.
    pub cores: usize,
    /// One-way latency between the first two cores in nanoseconds; `None` with a single core.
    pub core_to_core_ns: Option<f64>,
}

impl Machine {
    /// Reads what the kernel says and measures the core-to-core latency (about 50 ms).
    #[must_use]
    pub fn observe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()))
            .unwrap_or("unknown")
            .to_owned();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let core_to_core_ns = match cores.as_slice() {
            [a, b, ..] => Some(core_to_core(*a, *b)),
            _ => None,
        };
        Self { processor, kernel, cores: cores.len(), core_to_core_ns }
    }

    /// One line for the head of a report.
    #[must_use]
    pub fn describe(&self) -> String {
        let latency =
            self.core_to_core_ns.map_or("one core".to_owned(), |ns| format!("core-to-core {ns:.0} ns"));
        format!("{}, kernel {}, {} cores, {latency}", self.processor, self.kernel, self.cores)
    }
}

/// One-way latency of a cache line bounced between two pinned threads; the best of several rounds.
fn core_to_core(a: core_affinity::CoreId, b: core_affinity::CoreId) -> f64 {
    const TURNS: u32 = 20_000;
    const ROUNDS: usize = 7;
    let ball = Arc::new(AtomicU32::new(0));
    let far = Arc::clone(&ball);
    let partner = thread::spawn(move || {
        core_affinity::set_for_current(b);
        for turn in 0..TURNS * ROUNDS as u32 {
            while far.load(Ordering::Acquire) != 2 * turn + 1 {
                std::hint::spin_loop();
            }
            far.store(2 * turn + 2, Ordering::Release);
        }
    });
    let near = thread::spawn(move || {
        core_affinity::set_for_current(a);
        let mut best = f64::INFINITY;
        for round in 0..ROUNDS as u32 {
            let start = Instant::now();
            for turn in round * TURNS..(round + 1) * TURNS {
                ball.store(2 * turn + 1, Ordering::Release);
                while ball.load(Ordering::Acquire) != 2 * turn + 2 {
                    std::hint::spin_loop();
                }
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(TURNS) / 2.0);
        }
        best
    });
    let best = near.join().unwrap_or(f64::NAN);
    let _ = partner.join();
    best
}
