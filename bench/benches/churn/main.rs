//! What a thousand changes a second cost a worker.
//!
//! A worker on a core of its own forwards packets of established connections, one in a hundred of a new one, between 32
//! pods of a cluster of 10,000 pods and 10,000 policies, while a control thread on another core makes changes spread over the
//! cluster and publishes what comes of them, at the gateway's own pace. Intervals are taken in turn:
//!
//! - *quiet*: nothing changes;
//! - *churn*: the changes;
//! - *generations*: as many publications, of tables that stay as they are. Every connection is judged again once for each,
//!   and nothing else happens: this is that share of what churn costs;
//! - *elsewhere*: the changes to a copy of everything that no worker looks at. This is what the two cores cost each other.
//!
//! A rate is packets for each second of processor time of the worker's thread, so that others who use its core do not
//! count. Putting frames on the wires and taking them off is part of that time, as the kernel's part is on a node; the time
//! in turns alone is shown beside it.

mod control;
mod traffic;

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use control::{Churn, Done, Work};
use podgate_bench::machine::Machine;
use podgate_bench::spread::{Spread, quantile};
use podgate_bench::world::{Shape, cluster};
use podgate_control::gateway::pace::{APART, SETTLE};
use traffic::{Interval, Node, Traffic};

#[derive(Parser)]
#[command(about = "What a thousand changes a second cost a worker")]
struct Args {
    /// Seconds of churn; everything takes about four times as long.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Established connections.
    #[arg(long, default_value_t = 4000)]
    connections: usize,
    /// Changes a second.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Milliseconds for which a burst is waited for.
    #[arg(long, default_value_t = SETTLE.as_millis() as u64)]
    settle: u64,
    /// Milliseconds between publications.
    #[arg(long, default_value_t = APART.as_millis() as u64)]
    apart: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Whose work an interval sees, and what it is called.
const KINDS: [(&str, Option<(usize, Work)>); 4] = [
    ("quiet", None),
    ("churn", Some((0, Work::Changes))),
    ("generations", Some((0, Work::Generations))),
    ("elsewhere", Some((1, Work::Changes))),
];
/// Length of an interval, and what is run before it is counted.
const INTERVAL: Duration = Duration::from_secs(1);
const WARM: Duration = Duration::from_millis(50);

/// Intervals of one kind.
#[derive(Default)]
struct Series {
    intervals: Vec<Interval>,
    done: Vec<Done>,
}

impl Series {
    fn rates(&self) -> Vec<f64> {
        self.intervals.iter().map(|of| of.packets as f64 / of.processor.as_secs_f64()).collect()
    }

    fn turn_rates(&self) -> Vec<f64> {
        self.intervals.iter().map(|of| of.in_turns_packets as f64 / of.in_turns.as_secs_f64()).collect()
    }

    fn share(&self, part: impl Fn(&Interval) -> u64) -> f64 {
        let packets: u64 = self.intervals.iter().map(|of| of.packets).sum();
        self.intervals.iter().map(part).sum::<u64>() as f64 / packets.max(1) as f64
    }

    fn a_second(&self, part: impl Fn(&Done) -> u64) -> f64 {
        let seconds: f64 = self.done.iter().map(|done| done.elapsed.as_secs_f64()).sum();
        self.done.iter().map(part).sum::<u64>() as f64 / seconds.max(1e-9)
    }
}

fn spread(values: &[f64], decimals: usize) -> String {
    Spread::of(values).map_or("-".to_owned(), |of| {
        format!("{:.decimals$} ({:.decimals$} to {:.decimals$})", of.median, of.min, of.max)
    })
}

fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

fn main() -> Result<()> {
    let args = Args::parse();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (&[control_core, worker_core, ..], true) = (cores.as_slice(), args.rate > 0) else {
        anyhow::bail!("needs two cores and a rate above 0");
    };
    println!("{}", Machine::observe().describe());
    let cluster = cluster(Shape::LARGE, 1)?;
    let node = Node::of(&cluster);
    let pace = (Duration::from_millis(args.settle), Duration::from_millis(args.apart));
    let mut controls = [Churn::new(&cluster, &node, pace)?, Churn::new(&cluster, &node, pace)?];
    let [Churn { control: first, .. }, _] = &controls;
    ensure!(core_affinity::set_for_current(worker_core), "cannot pin to core {}", worker_core.id);
    let reader = first.publisher.reader_handle().register();
    let mut traffic = Traffic::new(&node, first.live.tables(), reader, args.connections)?;

    let mut series: [Series; KINDS.len()] = Default::default();
    let (tell, told) = mpsc::channel();
    let (report, reports) = mpsc::channel();
    std::thread::scope(|scope| -> Result<()> {
        // Dropped when this returns, for whatever reason: the thread ends then.
        let tell = tell;
        scope.spawn(move || {
            core_affinity::set_for_current(control_core);
            while let Ok((place, work)) = told.recv() {
                let done = controls
                    .get_mut(place)
                    .map(|control: &mut Churn| control.run(work, args.rate, INTERVAL + WARM * 2));
                if report.send(done).is_err() {
                    return;
                }
            }
        });
        traffic.run(INTERVAL)?;
        for round in 0..args.seconds {
            for (place, ((_, work), series)) in KINDS.iter().zip(&mut series).enumerate() {
                // After a rest of either kind there is nothing left to do for the other one.
                tell.send(work.unwrap_or((place % 2, Work::Rest)))?;
                traffic.run(WARM)?;
                series.intervals.push(traffic.run(INTERVAL)?);
                let done = reports.recv()?.context("no such control side")??;
                series.done.push(done);
            }
            if round == 0 {
                let passed = series.first().map_or(0.0, |quiet| quiet.share(|of| of.passed));
                ensure!(passed > 0.99, "only {:.1} % of the packets passed", passed * 100.0);
            }
        }
        Ok(())
    })?;
    tell_all(&args, &series);
    Ok(())
}

fn tell_all(args: &Args, series: &[Series; KINDS.len()]) {
    println!(
        "{} established connections, {} changes a second, settled for {} ms, publications {} ms apart; {} intervals of 1 s \
         of each kind\n",
        args.connections, args.rate, args.settle, args.apart, args.seconds
    );
    println!(
        "| | Mpps | of quiet | turns alone, of quiet | changes/s | publications/s | judged again | passed | opened | \
         publication p50, p99 ms |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    let [quiet, ..] = series;
    for ((name, _), of) in KINDS.iter().zip(series) {
        let mut took: Vec<Duration> = of.done.iter().flat_map(|done| done.took.iter().copied()).collect();
        took.sort_unstable();
        let at = |share: f64| quantile(&took, share).unwrap_or_default().as_secs_f64() * 1e3;
        println!(
            "| {name} | {} | {} | {} | {:.0} | {:.0} | {:.1} % | {:.2} % | {:.2} % | {:.2}, {:.2} |",
            spread(&of.rates().iter().map(|rate| rate / 1e6).collect::<Vec<_>>(), 2),
            spread(&ratios(&of.rates(), &quiet.rates()), 3),
            spread(&ratios(&of.turn_rates(), &quiet.turn_rates()), 3),
            of.a_second(|done| done.changes),
            of.a_second(|done| done.publications),
            of.share(|of| of.judged_again) * 100.0,
            of.share(|of| of.passed) * 100.0,
            of.share(|of| of.opened) * 100.0,
            at(0.5),
            at(0.99),
        );
    }
    let refused: u64 = series.iter().flat_map(|of| &of.done).map(|done| done.refused).sum();
    let cut: u64 = series.iter().flat_map(|of| &of.intervals).map(|of| of.cut).sum();
    println!("\n{refused} publications were refused; {cut} connections were cut");
    // What a publication costs the worker's core, whatever its packets are: seconds of a second.
    let medians: Vec<f64> = series
        .iter()
        .map(|of| {
            let lost =
                ratios(&of.rates(), &quiet.rates()).iter().map(|ratio| 1.0 - ratio).collect::<Vec<_>>();
            Spread::of(&lost).map_or(0.0, |of| of.median)
        })
        .collect();
    if let [_, churn, generations, elsewhere] = medians.as_slice() {
        let [_, _, bare, _] = series;
        let judged = bare.intervals.iter().map(|of| of.judged_again as f64 / of.processor.as_secs_f64());
        let judged = Spread::of(&judged.collect::<Vec<_>>()).map_or(0.0, |of| of.median);
        println!(
            "churn costs {:.1} % of the worker's rate; judging connections again alone {:.1} % ({:.0} ns for each of {judged:.0} \
             a second), the other core's work alone {:.1} %",
            churn * 100.0,
            generations * 100.0,
            generations / judged.max(1.0) * 1e9,
            elsewhere * 100.0,
        );
    }
}
