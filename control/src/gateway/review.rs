//! What does not fit together among the objects in force.
//!
//! Looking at everything takes longer than compiling a change does, so it is done aside, on the objects as they were when it
//! began, and again if they have changed since; the larger the cluster, the longer the pause. Nothing that packets depend on
//! waits for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podgate_config::manifest::server::SERVER;
use podgate_config::manifest::{Finding, Severity};
use tokio::sync::mpsc;

use super::Gateway;
use crate::store;

/// Warnings of one change of the sources that are logged; errors all are.
const WARNINGS_LOGGED: usize = 50;
/// How many times as long as a look took is waited until the next one.
const PAUSE: u32 = 20;

/// What a look found, and how long it took.
pub(super) struct Found {
    findings: Vec<Finding>,
    took: Duration,
}

/// Looks that were taken and are to be taken.
pub(super) struct Review {
    /// The objects have changed since the last look began.
    pub(super) wanted: bool,
    pub(super) found: mpsc::Receiver<Found>,
    report: mpsc::Sender<Found>,
    running: bool,
    not_before: Instant,
    told: BTreeSet<String>,
}

impl Default for Review {
    fn default() -> Self {
        let (report, found) = mpsc::channel(1);
        let (told, not_before) = (BTreeSet::new(), Instant::now());
        Self { wanted: true, found, report, running: false, not_before, told }
    }
}

impl Gateway {
    /// Begins to look if something has changed and the last look is long enough ago.
    pub(super) fn begin_review(&mut self) {
        let review = &mut self.review;
        if !review.wanted || review.running || review.not_before > Instant::now() {
            return;
        }
        (review.wanted, review.running) = (false, true);
        let (objects, report) = (self.source.borrow().objects.clone(), review.report.clone());
        let api = self.publisher.store().api_objects();
        tokio::task::spawn_blocking(move || {
            let begin = Instant::now();
            let findings = store::merge_with(&api, &objects).findings;
            // The gateway may have ended.
            let _ = report.blocking_send(Found { findings, took: begin.elapsed() });
        });
    }

    pub(super) fn reviewed(&mut self, found: Found) {
        self.review.running = false;
        self.review.not_before = Instant::now() + found.took * PAUSE;
        self.publisher.findings = found.findings;
        self.tell_findings();
    }

    /// Logs what is wrong with the objects, each finding once until it is gone.
    fn tell_findings(&mut self) {
        let state = self.source.borrow();
        let mut now = BTreeSet::new();
        let mut warnings = 0;
        let of_api = self.publisher.troubles.values().flat_map(|trouble| &trouble.findings);
        for finding in state.findings.iter().chain(of_api).chain(&self.publisher.findings) {
            if finding.severity == Severity::Warning && finding.file == SERVER {
                // Nobody who reads this log wrote it, and in a cluster something always selects nobody: the status has it.
                continue;
            }
            let text = finding.to_string();
            if !self.review.told.contains(&text) {
                match finding.severity {
                    Severity::Error => tracing::error!("{text}"),
                    Severity::Warning => {
                        if warnings < WARNINGS_LOGGED {
                            tracing::warn!("{text}");
                        }
                        warnings += 1;
                    }
                }
            }
            now.insert(text);
        }
        if warnings > WARNINGS_LOGGED {
            tracing::warn!("{warnings} warnings at once; `podgate status -o json` has all of them");
        }
        let mended = self.review.told.difference(&now);
        mended.take(WARNINGS_LOGGED).for_each(|text| tracing::info!("mended: {text}"));
        drop(state);
        self.review.told = now;
    }
}
