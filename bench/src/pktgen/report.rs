//! What is printed: text for people, JSON for scripts, and a live line while a run lasts.
//!
//! The live line goes to standard error and only to a terminal; results go to standard output. Rates count what was sent
//! over the time of sending, what arrived from the first to the last of it, and a sink by itself over its whole time; bits are those of frames with their check sequence. JSON has seconds, packets a second, bits a
//! second and nanoseconds, plain numbers without units, and field names do not change.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::run::{Progress, Sent, Trial, share};
use super::sequence::Account;
use super::sink::{Latency, Run, Sink};
use super::sizes::CHECK_SEQUENCE;

/// 1234567 as "1.235 M".
#[must_use]
pub fn scaled(value: f64) -> String {
    let (scale, unit) = match value.abs() {
        amount if amount >= 1e9 => (1e9, "G"),
        amount if amount >= 1e6 => (1e6, "M"),
        amount if amount >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    format!("{:.3} {unit}", value / scale)
}

/// 1234567 as "1,234,567".
#[must_use]
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds as people read them.
#[must_use]
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
        ns if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        ns if ns >= 1e3 => format!("{:.1} us", ns / 1e3),
        ns => format!("{ns:.0} ns"),
    }
}

/// A share as a percentage: 0 only if it is 0.
#[must_use]
pub fn percent(share: f64) -> String {
    match share {
        0.0 => "0 %".to_owned(),
        share if share < 1e-5 => format!("{:.1e} %", share * 100.0),
        share => format!("{:.3} %", share * 100.0),
    }
}

fn bits(packets: u64, bytes: u64) -> f64 {
    8.0 * (bytes + CHECK_SEQUENCE as u64 * packets) as f64
}

fn each_second(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// A row: what, how many, and rates over so many seconds.
#[must_use]
pub fn row(what: &str, packets: u64, bytes: u64, seconds: f64) -> String {
    let rate = scaled(each_second(packets as f64, seconds));
    let bit_rate = scaled(each_second(bits(packets, bytes), seconds));
    format!("{what:<12}{:>16}   {rate}pps   {bit_rate}b/s   {seconds:.3} s\n", grouped(packets))
}

fn count(what: &str, packets: u64, more: &str) -> String {
    format!("{what:<12}{:>16}   {more}", grouped(packets)).trim_end().to_owned() + "\n"
}

/// What was sent, as text.
#[must_use]
pub fn sent_text(sent: &Sent, dropped: u64) -> String {
    let mut text = row("sent", sent.packets, sent.bytes, sent.seconds);
    if sent.slipped > 0.0 {
        text += &format!(
            "{:<12}{:>16}   of the rate: the generator was held up\n",
            "slipped",
            percent(sent.slipped)
        );
    }
    if dropped > 0 {
        text += &count("", dropped, "of them dropped by the sending device");
    }
    text
}

/// What was sent, as JSON.
#[must_use]
pub fn sent_json(sent: &Sent, dropped: u64) -> Value {
    json!({
        "sent": sent.packets,
        "seconds": sent.seconds,
        "packets_per_second": sent.rate(),
        "bits_per_second": each_second(bits(sent.packets, sent.bytes), sent.seconds),
        "slipped": sent.slipped,
        "sending_device_dropped": dropped,
    })
}

fn account_text(account: &Account) -> String {
    let mut text = count("duplicates", account.duplicates, "");
    let furthest = match account.furthest {
        0 => String::new(),
        furthest => format!("by {} at most", grouped(furthest)),
    };
    text += &count("reordered", account.reordered, &furthest);
    if account.uncertain > 0 {
        text += &count("uncertain", account.uncertain, "came late or twice; it is not known any more");
    }
    text
}

fn latency_text(latency: Option<Latency>) -> String {
    let Some(Latency { min, p50, p90, p99, p999, max, .. }) = latency else { return String::new() };
    let [min, p50, p90, p99, p999, max] = [min, p50, p90, p99, p999, max].map(|ns| time(ns as f64));
    format!("latency     min {min}, p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}\n")
}

/// Percentiles as JSON; null if there are none.
#[must_use]
pub fn latency_json(latency: Option<Latency>) -> Value {
    latency.map_or(Value::Null, |latency| {
        let Latency { packets, min, mean, p50, p90, p99, p999, max } = latency;
        json!({ "packets": packets, "min": min, "mean": mean, "p50": p50, "p90": p90, "p99": p99, "p99.9": p999, "max": max })
    })
}

fn account_json(account: &Account) -> Value {
    let Account { unique, duplicates, reordered, furthest, uncertain, missing } = *account;
    json!({
        "unique": unique, "duplicates": duplicates, "reordered": reordered, "reordered_by_at_most": furthest,
        "uncertain": uncertain, "missing": missing,
    })
}

fn sink_text(sink: &Sink, lost: u64) -> String {
    let mut text = String::new();
    if sink.stragglers > 0 {
        text += &count("stragglers", sink.stragglers, "of other runs");
    }
    if sink.foreign > 0 {
        text += &count("foreign", sink.foreign, "without a stamp");
    }
    if lost > 0 {
        text += &count("sink lost", lost, "that arrived: it was too slow, not the device under test");
    }
    text
}

/// What became of a run with both ends, as text.
#[must_use]
pub fn trial_text(trial: &Trial) -> String {
    let mut text = sent_text(&trial.sent, trial.device_dropped);
    if let Some(run) = trial.sink.runs().first() {
        let account = run.account();
        text += &row("received", account.unique, trial_bytes(run), run.seconds());
        text += &count("lost", trial.lost, &percent(trial.loss()));
        text += &account_text(&account);
        text += &latency_text(run.latency());
    } else {
        text += &count("received", 0, "");
        text += &count("lost", trial.lost, &percent(trial.loss()));
    }
    text + &sink_text(&trial.sink, trial.sink_lost)
}

/// Bytes of the packets of a run, each counted once.
fn trial_bytes(run: &Run) -> u64 {
    let account = run.account();
    let all = account.unique + account.duplicates + account.uncertain;
    share(run.bytes(), account.unique, all)
}

/// What became of a run with both ends, as JSON.
#[must_use]
pub fn trial_json(trial: &Trial) -> Value {
    let run = trial.sink.runs().first();
    let account = run.map(Run::account).unwrap_or_default();
    let mut value = sent_json(&trial.sent, trial.device_dropped);
    let more = json!({
        "received": account.unique,
        "lost": trial.lost,
        "loss": trial.loss(),
        "duplicates": account.duplicates,
        "reordered": account.reordered,
        "reordered_by_at_most": account.furthest,
        "uncertain": account.uncertain,
        "stragglers": trial.sink.stragglers,
        "foreign": trial.sink.foreign,
        "sink_lost": trial.sink_lost,
        "latency_ns": latency_json(run.and_then(Run::latency)),
    });
    merge(&mut value, more);
    value
}

/// Adds the fields of one object to another.
pub fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(fields), Value::Object(more)) = (value, more) {
        fields.extend(more);
    }
}

/// What a sink by itself saw, as text. It knows no sender's count: what is missing is missing between numbers.
#[must_use]
pub fn seen_text(sink: &Sink, seconds: f64, lost: u64) -> String {
    let mut text = row("received", sink.packets, sink.bytes, seconds);
    for run in sink.runs() {
        let account = run.account();
        if sink.runs().len() > 1 {
            text += &format!("run {}\n", run.id);
        }
        text += &row("unique", account.unique, trial_bytes(run), run.seconds());
        text += &count("missing", account.missing, "of the numbers before the last that came");
        text += &account_text(&account);
        text += &latency_text(run.latency());
    }
    text + &sink_text(sink, lost)
}

/// What a sink by itself saw, as JSON.
#[must_use]
pub fn seen_json(sink: &Sink, seconds: f64, lost: u64) -> Value {
    let runs: Vec<Value> = sink
        .runs()
        .iter()
        .map(|run| {
            let mut value = account_json(&run.account());
            merge(
                &mut value,
                json!({
                    "run": run.id, "seconds": run.seconds(), "latency_ns": latency_json(run.latency()),
                }),
            );
            value
        })
        .collect();
    json!({
        "received": sink.packets,
        "seconds": seconds,
        "packets_per_second": each_second(sink.packets as f64, seconds),
        "bits_per_second": each_second(bits(sink.packets, sink.bytes), seconds),
        "foreign": sink.foreign,
        "stragglers": sink.stragglers,
        "sink_lost": lost,
        "runs": runs,
    })
}

/// A line that is written over and over.
pub struct Live {
    wanted: bool,
    what: String,
    start: Instant,
    last: Instant,
    /// Counts at the time of `last`.
    sent: u64,
    received: u64,
    shown: bool,
}

impl Live {
    /// For what is written at its begin. Silent unless standard error is a terminal.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        let now = Instant::now();
        let wanted = std::io::stderr().is_terminal();
        Self { wanted, what: what.into(), start: now, last: now, sent: 0, received: 0, shown: false }
    }

    /// Shows what was done so far, if it is time to.
    pub fn show(&mut self, progress: &Progress) {
        let since = self.last.elapsed();
        if !self.wanted || since < Duration::from_millis(500) {
            return;
        }
        let [sent, received] =
            [&progress.sent, &progress.received].map(|count| count.load(Ordering::Relaxed));
        let part = |what: &str, now: u64, before: u64| match now {
            0 => String::new(),
            now => {
                let rate = scaled(now.saturating_sub(before) as f64 / since.as_secs_f64());
                format!("   {what} {} ({rate}pps)", grouped(now))
            }
        };
        let line = format!(
            "{}{:5.1} s{}{}",
            self.what,
            self.start.elapsed().as_secs_f64(),
            part("sent", sent, self.sent),
            part("received", received, self.received)
        );
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
        (self.last, self.sent, self.received, self.shown) = (Instant::now(), sent, received, true);
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
            self.shown = false;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.5, 1500.0, 1_234_567.0, 2e9].map(scaled), ["0.500 ", "1.500 k", "1.235 M", "2.000 G"]);
        assert_eq!([999.0, 1500.0, 2.5e6, 3e9].map(time), ["999 ns", "1.5 us", "2.50 ms", "3.00 s"]);
        assert_eq!([0.0, 1e-7, 0.005, 1.0].map(percent), ["0 %", "1.0e-5 %", "0.500 %", "100.000 %"]);
    }

    #[test]
    fn rates_count_the_check_sequence() {
        let sent = Sent { packets: 1000, bytes: 60_000, seconds: 2.0, slipped: 0.0 };
        assert_eq!(
            sent_text(&sent, 0),
            "sent                   1,000   500.000 pps   256.000 kb/s   2.000 s\n"
        );
        assert_eq!(sent_json(&sent, 3)["bits_per_second"], 256_000.0);
    }
}
