//! `rfc2544`: NDR and PDR for a list of frame sizes, with the log of all trials.
//!
//! For each size: warm-up, which also finds out how fast the generator is, then a search for no loss and one for little. If
//! the generator, its device or the sink was the limit, the line of the result says "at least" and who it was.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::super::rate::Rate;
use super::super::report::{Live, grouped, latency_json, percent, scaled, time};
use super::super::run::{Limits, Trial};
use super::super::search::{Blame, Entry, Found, Outcome, Terms, search};
use super::super::sink::Run;
use super::super::sizes::Sizes;
use super::super::traffic::Traffic;
use super::STOP;
use super::options::{self, Between, Form, Format, TrafficOptions, Usage, seconds_value};
use crate::machine::Machine;

/// Exit code of a search that found no rate for a size and target: 1 is that something went wrong.
const NO_RATE: u8 = 3;

#[derive(Args)]
pub(super) struct Rfc2544 {
    #[command(flatten)]
    between: Between,
    #[command(flatten)]
    traffic: TrafficOptions,
    /// Frame sizes to search for: bytes with check sequence, or imix.
    #[arg(long, default_value = "64,128,256,512,1024,1280,1518", value_delimiter = ',')]
    sizes: Vec<Sizes>,
    /// Length of a trial in seconds.
    #[arg(long, default_value = "5", value_parser = seconds_value)]
    trial: Duration,
    /// Length of the warm-up before each size in seconds.
    #[arg(long, default_value = "1", value_parser = seconds_value)]
    warm_up: Duration,
    /// The search ends when it is this close, as a share of the highest rate.
    #[arg(long, default_value = "1%", value_parser = resolution)]
    resolution: f64,
    /// The loss that PDR allows.
    #[arg(long, default_value = "0.5%", value_parser = options::share)]
    pdr_loss: f64,
    /// Trials in a row that a result must pass.
    #[arg(long, default_value = "3", value_parser = confirm)]
    confirm: u32,
    /// Highest rate to try, like 1.5Mpps or 800Mbps; what the generator reached in the warm-up without it.
    #[arg(long)]
    max_rate: Option<Rate>,
    /// Most trials of one search.
    #[arg(long, default_value = "40", value_parser = options::count_value)]
    most_trials: u64,
    /// Packets at once. Without it what 20 microseconds of the rate hold, 1 to 64.
    #[arg(long, value_parser = options::count_value)]
    burst: Option<u64>,
    #[command(flatten)]
    form: Form,
}

fn resolution(text: &str) -> Result<f64, String> {
    options::share(text)
        .ok()
        .filter(|share| (0.0001..=0.5).contains(share))
        .ok_or_else(|| "expected 0.01% to 50%".to_owned())
}

fn confirm(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|trials| (1..=10).contains(trials))
        .ok_or_else(|| "expected 1 to 10 trials".to_owned())
}

/// Whose fault the loss of a trial is.
fn blame(trial: &Trial) -> Blame {
    match () {
        // More than the half of it is known to have been lost elsewhere.
        () if 2 * trial.sink_lost > trial.lost && trial.sink_lost > 0 => Blame::Sink,
        () if 2 * trial.device_dropped > trial.lost && trial.device_dropped > 0 => Blame::Generator,
        () => Blame::Device,
    }
}

impl Rfc2544 {
    pub(super) fn run(&self) -> Result<ExitCode> {
        if let Some(size) = &self.traffic.size {
            return Err(Usage::error(format!("--size {size}: expected --sizes here")));
        }
        let mut spec = self.traffic.spec(self.between.macs()?)?;
        let Some(largest) = self.sizes.iter().max_by_key(|sizes| sizes.largest()) else {
            return Err(Usage::error("--sizes: expected at least one".to_owned()));
        };
        // A mix is raised to what is possible, as everywhere; a single size must be.
        let least = spec.sizes.smallest();
        let sizes: Vec<Sizes> = self
            .sizes
            .iter()
            .map(|sizes| match sizes {
                Sizes::Mix(mix) if mix.len() > 1 => sizes.clone().at_least(least),
                single => single.clone(),
            })
            .collect();
        for sizes in &sizes {
            spec.sizes = sizes.clone();
            Traffic::new(&spec, 0).map_err(|wrong| Usage::error(wrong.replace("--size ", "--sizes ")))?;
        }
        let mut traffic = Traffic::new(&spec, options::new_run()).map_err(Usage::error)?;
        let mut pair = self.between.open(spec.fields.destination, largest)?;
        let machine = Machine::observe();
        let text = self.form.output == Format::Text;
        if text {
            println!("{}", machine.describe());
            println!("{}\n{}", self.between.describe(&pair), self.traffic.describe_flows(&spec));
            println!("trials of {} s, resolution {}\n", self.trial.as_secs_f64(), percent(self.resolution));
        }
        let mut results = Vec::new();
        let mut summary = Vec::new();
        for sizes in &sizes {
            traffic.set_sizes(sizes).map_err(Usage::error)?;
            let mut once = |rate: Option<f64>, duration: Duration, live: &str| {
                let rate = rate.map(Rate::packets);
                let burst = self.burst.and_then(|burst| usize::try_from(burst).ok());
                let limits = Limits { rate, burst, duration, count: u64::MAX };
                let mut live = Live::new(live);
                let trial = pair.run(&mut traffic, &limits, &STOP, |progress| live.show(progress))?;
                if STOP.load(Ordering::Relaxed) {
                    anyhow::bail!("interrupted");
                }
                Ok(trial)
            };
            let warm = once(None, self.warm_up, &format!("{sizes}, warm-up "))?;
            let own = warm.sent.rate();
            let highest = match self.max_rate {
                Some(rate) => rate.amount as f64 / rate.cost(sizes.mean() as usize - 4) as f64,
                None => own,
            };
            if text {
                println!(
                    "{sizes}: the generator reaches {}pps, highest rate tried {}pps",
                    scaled(own),
                    scaled(highest)
                );
            }
            let terms = Terms {
                highest,
                resolution: self.resolution,
                confirm: self.confirm,
                most_trials: usize::try_from(self.most_trials).unwrap_or(usize::MAX),
            };
            let mut log: Vec<Entry> = Vec::new();
            let mut trials: Vec<Value> = Vec::new();
            let mut found = Vec::new();
            for (name, target) in [("NDR", 0.0), ("PDR", self.pdr_loss)] {
                let mut result = search(&terms, target, &mut log, |rate| {
                    let trial =
                        once(Some(rate), self.trial, &format!("{sizes}, {name} at {}pps ", scaled(rate)))?;
                    let outcome =
                        Outcome { sent_rate: trial.sent.rate(), loss: trial.loss(), blame: blame(&trial) };
                    let entry = Entry { rate, outcome };
                    if text {
                        println!("{}", line(trials.len() + 1, name, &entry, target, &trial));
                    }
                    trials.push(trial_value(name, &entry, target, &trial));
                    Ok(outcome)
                })?;
                if result.limit == Blame::Highest && self.max_rate.is_none() {
                    // No higher rate was tried because the generator has none.
                    result.limit = Blame::Generator;
                }
                if text {
                    println!("  {}", said(name, target, sizes, &result));
                }
                found.push((name, target, result));
            }
            summary.push((sizes, found.clone()));
            results.push(json!({
                "sizes": sizes.to_string(),
                "generator_packets_per_second": own,
                "highest_packets_per_second": highest,
                "results": found.iter().map(|(name, target, found)| found_value(name, *target, sizes, found)).collect::<Vec<_>>(),
                "trials": trials,
            }));
        }
        if text {
            println!();
            for (sizes, found) in &summary {
                for (name, target, found) in found {
                    println!("{:<28} {}", sizes.to_string(), said(name, *target, sizes, found));
                }
            }
        } else {
            println!(
                "{}",
                json!({
                    "machine": machine.describe(),
                    "sending": pair.transmitter.means(),
                    "receiving": pair.receiver.means(),
                    "trial_seconds": self.trial.as_secs_f64(),
                    "resolution": self.resolution,
                    "sizes": results,
                })
            );
        }
        let all = summary.iter().flat_map(|(_, found)| found);
        let fine = all.into_iter().all(|(_, _, found)| found.rate.is_some());
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(NO_RATE) })
    }
}

/// Frames' bits a second at a packet rate.
fn bits(sizes: &Sizes, rate: f64) -> f64 {
    8.0 * sizes.mean() * rate
}

fn verdict(entry: &Entry, target: f64) -> &'static str {
    match (entry.outcome.loss <= target, entry.reached(), entry.outcome.blame) {
        (true, true, _) => "pass",
        (true, false, _) => "pass, but the generator did not reach the rate",
        (false, _, Blame::Device | Blame::Highest) => "fail",
        (false, _, Blame::Generator) => "fail, lost by the sending device",
        (false, _, Blame::Sink) => "fail, lost by the sink",
    }
}

fn line(number: usize, name: &str, entry: &Entry, target: f64, trial: &Trial) -> String {
    let p99 = trial.sink.runs().first().and_then(Run::latency).map_or(String::new(), |latency| {
        format!("  p50 {} p99 {}", time(latency.p50 as f64), time(latency.p99 as f64))
    });
    format!(
        "  {number:>3} {name}  {}pps  sent {}pps  lost {} of {} ({}){p99}  {}",
        scaled(entry.rate),
        scaled(entry.outcome.sent_rate),
        grouped(trial.lost),
        grouped(trial.sent.packets),
        percent(entry.outcome.loss),
        verdict(entry, target)
    )
}

fn said(name: &str, target: f64, sizes: &Sizes, found: &Found) -> String {
    let Some(rate) = found.rate else {
        let why = if found.settled { "every rate lost more" } else { "the trials were used up before" };
        return format!("{name} (loss at most {}): none, {why} ({})", percent(target), found.limit);
    };
    let least = match found.limit {
        Blame::Device => String::new(),
        Blame::Highest => "at least, no higher rate was tried: ".to_owned(),
        other => format!("at least, the {other} was the limit: "),
    };
    let unsure = match (found.settled, found.confirmed) {
        (_, true) => "",
        (true, false) => " (not confirmed)",
        (false, false) => " (or more: the trials were used up before the search was over)",
    };
    format!(
        "{name} (loss at most {}): {least}{}pps, {}b/s{unsure}",
        percent(target),
        scaled(rate),
        scaled(bits(sizes, rate))
    )
}

fn found_value(name: &str, target: f64, sizes: &Sizes, found: &Found) -> Value {
    json!({
        "name": name,
        "loss_allowed": target,
        "packets_per_second": found.rate,
        "bits_per_second": found.rate.map(|rate| bits(sizes, rate)),
        "limit": found.limit.to_string(),
        "settled": found.settled,
        "confirmed": found.confirmed,
    })
}

fn trial_value(name: &str, entry: &Entry, target: f64, trial: &Trial) -> Value {
    json!({
        "search": name,
        "packets_per_second": entry.rate,
        "sent_packets_per_second": entry.outcome.sent_rate,
        "sent": trial.sent.packets,
        "lost": trial.lost,
        "loss": entry.outcome.loss,
        "sink_lost": trial.sink_lost,
        "sending_device_dropped": trial.device_dropped,
        "latency_ns": latency_json(trial.sink.runs().first().and_then(Run::latency)),
        "verdict": verdict(entry, target),
    })
}
