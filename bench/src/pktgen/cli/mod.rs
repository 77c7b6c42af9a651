//! The command line: options, and the commands by themselves.
//!
//! Every fault of the input is one line that names the option, its value and what was expected. Exit codes: 0 fine, 1 a run that
//! failed or lost more than `--max-loss`, 2 usage, 3 a search that found no rate. All commands are bounded in time, and end at once at SIGINT or SIGTERM,
//! with what they have; only a search that is not over has nothing to say but its log.

mod options;
mod rfc2544;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use self::options::{
    Between, Form, Format, LimitOptions, TrafficOptions, Usage, link_options, parse_mac, seconds_value,
};
use self::rfc2544::Rfc2544;
use super::flows::{Addresses, Choice, Fields, Plan, Ports};
use super::frames::{Protocol, Shape};
use super::link::{Device, Means, Receiver, Transmitter};
use super::pcap;
use super::report::{self, Live};
use super::run::{Limits, Manner, Progress, pin, receive, send};
use super::sink::Sink;
use super::sizes::{CHECK_SEQUENCE, SMALLEST, Sizes};
use super::traffic::{Feed, Replay, Spec, Traffic};
use crate::machine::Machine;

/// Set by SIGINT and SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Generates packets, and accounts for those that arrive.
///
/// Examples:
///   podgate-pktgen run --tx eth1 --rx eth2 --destination-mac 02:00:00:00:00:01 --source 198.18.0.1 \
///       --destination 198.19.0.0/24 --flows 10000 --size imix --rate 500kpps --seconds 10
///   podgate-pktgen rfc2544 --tx eth1 --rx eth2 --source 198.18.0.1 --destination 198.19.0.1 --sizes 64,512,1518,imix
///   podgate-pktgen sink --interface eth2 --seconds 20
#[derive(Parser)]
#[command(version, verbatim_doc_comment, max_term_width = 110)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Sends on one device.
    Send(Send),
    /// Receives on one device and accounts for what arrives. AF_XDP takes all that arrives there from the kernel.
    Sink(SinkCommand),
    /// Sends on one device, receives on another, and compares.
    Run(Run),
    /// Searches for the highest rate without loss (NDR) and with little (PDR), for each of several frame sizes.
    Rfc2544(Rfc2544),
    /// Sends TCP SYNs without stamps, each of a connection of its own.
    Flood(Flood),
    /// Sends the packets of a capture file again.
    Replay(ReplayCommand),
    /// Says what machine this is and measures its core-to-core latency.
    Machine,
}

/// Where to send.
#[derive(Args)]
struct Line {
    /// Device to send on; its queue 0 is used.
    #[arg(long)]
    interface: String,
    /// Network namespace of the device, by name or path.
    #[arg(long)]
    netns: Option<String>,
    /// Core to run on.
    #[arg(long)]
    core: Option<usize>,
    #[command(flatten)]
    link: link_options::Link,
    #[command(flatten)]
    form: Form,
}

impl Line {
    fn device(&self) -> Device {
        Device { name: self.interface.clone(), netns: self.netns.clone() }
    }

    /// Sends what `feed` has, and reports.
    fn run(
        &self,
        device: &Device,
        feed: &mut impl Feed,
        limits: &Limits,
        what: &str,
        least: usize,
    ) -> Result<()> {
        let mut transmitter = Transmitter::open(device, self.link.link)?;
        if least > transmitter.longest() {
            let most = transmitter.longest() + CHECK_SEQUENCE;
            return Err(Usage::error(format!(
                "--size: expected at most {most} bytes over {}",
                transmitter.means()
            )));
        }
        let before = device.counters()?.transmit_dropped;
        let progress = Progress::default();
        let mut live = Live::new("");
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                pin(self.core)?;
                send(&mut transmitter, feed, limits, &STOP, &progress)
            });
            while !sender.is_finished() {
                live.show(&progress);
                thread::sleep(Duration::from_millis(10));
            }
            sender.join().map_err(|_| anyhow::anyhow!("the sender ended early"))?
        })?;
        live.clear();
        let dropped = device.counters()?.transmit_dropped.saturating_sub(before);
        let means = transmitter.means();
        match self.form.output {
            Format::Text => {
                print!("{device} ({means}): {what}\n{}", report::sent_text(&sent, dropped));
            }
            Format::Json => {
                let mut value = report::sent_json(&sent, dropped);
                report::merge(&mut value, json!({ "sending": means }));
                println!("{value}");
            }
        }
        Ok(())
    }
}

#[derive(Args)]
struct Send {
    #[command(flatten)]
    line: Line,
    /// MAC address of the next hop.
    #[arg(long, value_parser = parse_mac)]
    destination_mac: [u8; 6],
    #[command(flatten)]
    traffic: TrafficOptions,
    #[command(flatten)]
    limits: LimitOptions,
}

impl Send {
    fn run(&self) -> Result<()> {
        let device = self.line.device();
        let spec = self.traffic.spec([self.destination_mac, device.mac()?])?;
        let mut traffic = Traffic::new(&spec, options::new_run()).map_err(Usage::error)?;
        let largest = spec.sizes.largest() - CHECK_SEQUENCE;
        self.line.run(&device, &mut traffic, &self.limits.limits(), &self.traffic.describe(&spec), largest)
    }
}

#[derive(Args)]
struct Flood {
    #[command(flatten)]
    line: Line,
    /// MAC address of the next hop.
    #[arg(long, value_parser = parse_mac)]
    destination_mac: [u8; 6],
    /// The addresses that each packet's source address is drawn from.
    #[arg(long)]
    sources: Addresses,
    /// Destination address, of the same family.
    #[arg(long)]
    destination: Addresses,
    /// Destination port; 0 for one drawn for each packet, as source ports are.
    #[arg(long, default_value_t = 80, value_parser = options::port_value)]
    port: u16,
    #[command(flatten)]
    limits: LimitOptions,
}

impl Flood {
    fn run(&self) -> Result<()> {
        let device = self.line.device();
        let v4 = options::one_family("--sources", &self.sources, &self.destination)?;
        let shape = Shape {
            macs: [self.destination_mac, device.mac()?],
            v4,
            protocol: Protocol::TcpSyn,
            stamped: false,
        };
        let destination_port = match self.port {
            0 => Ports::new(1, u16::MAX, Choice::Random),
            port => Ports::new(port, port, Choice::Sequential),
        };
        let least = (shape.protocol.least(v4, false) + CHECK_SEQUENCE).max(SMALLEST);
        let spec = Spec {
            shape,
            fields: Fields {
                source: self.sources.drawn(),
                destination: self.destination,
                source_port: Ports::new(1024, u16::MAX, Choice::Random),
                destination_port,
            },
            plan: Plan::EveryPacket,
            sizes: Sizes::Mix(vec![(least, 1)]),
            seed: 1,
        };
        let mut traffic = Traffic::new(&spec, 0).map_err(Usage::error)?;
        let what = format!("tcp-syn, {} -> {}, each from another source", self.sources, self.destination);
        self.line.run(&device, &mut traffic, &self.limits.limits(), &what, least)
    }
}

#[derive(Args)]
struct ReplayCommand {
    #[command(flatten)]
    line: Line,
    /// Capture file: classic pcap, Ethernet.
    #[arg(long)]
    file: PathBuf,
    /// So many times the speed of the capture's time stamps; without it, and without --rate, as fast as possible.
    #[arg(long, value_parser = options::positive)]
    speed: Option<f64>,
    /// How often all of it.
    #[arg(long, default_value_t = 1, value_parser = options::count_value)]
    rounds: u64,
    /// Send to this MAC address instead of the capture's, from the device's own.
    #[arg(long, value_parser = parse_mac)]
    destination_mac: Option<[u8; 6]>,
    #[command(flatten)]
    limits: LimitOptions,
}

impl ReplayCommand {
    fn run(&self) -> Result<()> {
        let device = self.line.device();
        let file = self.file.display();
        let bytes =
            std::fs::read(&self.file).map_err(|error| Usage::error(format!("--file {file}: {error}")))?;
        let mut packets =
            pcap::read(&bytes).map_err(|wrong| Usage::error(format!("--file {file}: {wrong}")))?;
        let all = packets.len();
        // What cannot be sent: too short for a header, or too long for a buffer.
        packets.retain(|packet| (14..=af_xdp::CHUNK_ROOM).contains(&packet.bytes.len()));
        if packets.is_empty() {
            let wrong =
                format!("--file {file}: {all} packets, expected one of 14 to {} bytes", af_xdp::CHUNK_ROOM);
            return Err(Usage::error(wrong));
        }
        packets.sort_by_key(|packet| packet.time_ns);
        if let Some(mac) = self.destination_mac {
            let ours = device.mac()?;
            for packet in &mut packets {
                let macs = mac.into_iter().chain(ours);
                packet.bytes.iter_mut().zip(macs).for_each(|(to, from)| *to = from);
            }
        }
        let left_out = match all - packets.len() {
            0 => String::new(),
            out => format!(", {out} left out for their length"),
        };
        let what = format!("{} packets of {file}{left_out}", packets.len());
        let mut replay = Replay::new(Arc::from(packets), self.speed, self.rounds);
        let mut limits = self.limits.limits();
        if self.limits.seconds.is_none() {
            limits.duration = options::LONGEST;
        }
        self.line.run(&device, &mut replay, &limits, &what, 0)
    }
}

#[derive(Args)]
struct SinkCommand {
    /// Device to receive on.
    #[arg(long)]
    interface: String,
    /// Network namespace of the device, by name or path.
    #[arg(long)]
    netns: Option<String>,
    /// How long.
    #[arg(long, default_value = "3", value_parser = seconds_value)]
    seconds: Duration,
    /// End after so many packets with a stamp.
    #[arg(long, value_parser = options::count_value)]
    count: Option<u64>,
    /// Core to run on.
    #[arg(long)]
    core: Option<usize>,
    /// Never let go of the core: latencies without the time it takes to wake up.
    #[arg(long)]
    spin: bool,
    /// Answer ARP and neighbour solicitations for these addresses.
    #[arg(long)]
    answer_for: Option<Addresses>,
    /// Look at no packet: a program drops them all, and the device's counters are read. The cheapest sink there is.
    #[arg(long, conflicts_with_all = ["count", "core", "spin", "answer_for", "write"])]
    count_only: bool,
    /// Write the first packets to this file (pcap).
    #[arg(long)]
    write: Option<PathBuf>,
    /// How many of them.
    #[arg(long, default_value_t = 1_000_000, value_parser = options::count_value)]
    write_count: u64,
    #[command(flatten)]
    link: link_options::Link,
    #[command(flatten)]
    form: Form,
}

impl SinkCommand {
    fn run(&self) -> Result<()> {
        let device = Device { name: self.interface.clone(), netns: self.netns.clone() };
        let mut receiver = Receiver::open(&device, self.link.link)?;
        let means = receiver.means();
        if self.count_only {
            return self.count_only(&device, receiver);
        }
        let mut writer = match &self.write {
            None => None,
            Some(path) => {
                let fail = || format!("--write {}", path.display());
                let out: Box<dyn Write + std::marker::Send> =
                    Box::new(BufWriter::new(File::create(path).with_context(fail)?));
                Some(pcap::Writer::new(out, self.write_count).with_context(fail)?)
            }
        };
        let answers = self.answer_for.map(|addresses| Ok((device.mac()?, addresses))).transpose();
        let answers = answers.map_err(|error: anyhow::Error| error)?;
        let lost_before = receiver.lost()?;
        let (mut sink, progress) = (Sink::new(None), Progress::default());
        let begin = Instant::now();
        let mut live = Live::new("");
        thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                pin(self.core)?;
                let mut manner = Manner { spin: self.spin, answers, capture: writer.as_mut() };
                let until = (begin + self.seconds, self.count.unwrap_or(u64::MAX));
                receive(&mut receiver, &mut sink, &mut manner, until, &STOP, &progress)
            });
            while !receiving.is_finished() {
                live.show(&progress);
                thread::sleep(Duration::from_millis(10));
            }
            receiving.join().map_err(|_| anyhow::anyhow!("the sink ended early"))?
        })?;
        live.clear();
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(writer) = writer {
            writer.finish().context("writing the capture")?;
        }
        let lost = receiver.lost()?.saturating_sub(lost_before);
        match self.form.output {
            Format::Text => print!("{device} ({means})\n{}", report::seen_text(&sink, seconds, lost)),
            Format::Json => {
                let mut value = report::seen_json(&sink, seconds, lost);
                report::merge(&mut value, json!({ "receiving": means }));
                println!("{value}");
            }
        }
        Ok(())
    }

    fn count_only(&self, device: &Device, receiver: Receiver) -> Result<()> {
        let Receiver::Xdp(receiver) = receiver else {
            return Err(Usage::error(format!(
                "--count-only: expected a device with native XDP, {device} has none"
            )));
        };
        let program = receiver.into_drop();
        let before = device.counters()?.received;
        let begin = Instant::now();
        while begin.elapsed() < self.seconds && !STOP.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(10).min(self.seconds.saturating_sub(begin.elapsed())));
        }
        let packets = device.counters()?.received.saturating_sub(before);
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(program) = program {
            program.detach()?;
        }
        let rate = packets as f64 / seconds;
        match self.form.output {
            Format::Text => println!("received {}   {}pps", report::grouped(packets), report::scaled(rate)),
            Format::Json => {
                println!(
                    "{}",
                    json!({ "received": packets, "seconds": seconds, "packets_per_second": rate })
                );
            }
        }
        Ok(())
    }
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    between: Between,
    #[command(flatten)]
    traffic: TrafficOptions,
    #[command(flatten)]
    limits: LimitOptions,
    /// Exit code 1 if more than this is lost, like 0 or 0.5%.
    #[arg(long, value_parser = options::share)]
    max_loss: Option<f64>,
    #[command(flatten)]
    form: Form,
}

impl Run {
    fn run(&self) -> Result<ExitCode> {
        let spec = self.traffic.spec(self.between.macs()?)?;
        let mut traffic = Traffic::new(&spec, options::new_run()).map_err(Usage::error)?;
        let mut pair = self.between.open(spec.fields.destination, &spec.sizes)?;
        let what = self.traffic.describe(&spec);
        if self.form.output == Format::Text {
            println!("{}\n{what}", self.between.describe(&pair));
        }
        let mut live = Live::new("");
        let trial = pair.run(&mut traffic, &self.limits.limits(), &STOP, |progress| live.show(progress))?;
        live.clear();
        match self.form.output {
            Format::Text => print!("{}", report::trial_text(&trial)),
            Format::Json => {
                let mut value = report::trial_json(&trial);
                let ends = json!({ "sending": pair.transmitter.means(), "receiving": pair.receiver.means() });
                report::merge(&mut value, ends);
                println!("{value}");
            }
        }
        let fine = self.max_loss.is_none_or(|most| trial.loss() <= most && trial.sent.packets > 0);
        Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        Err(error) => return usage(&error),
    };
    if let Err(error) = catch_signals() {
        eprintln!("podgate-pktgen: {error}");
        return ExitCode::from(1);
    }
    let done = match command.action {
        Action::Send(send) => send.run().map(|()| ExitCode::SUCCESS),
        Action::Sink(sink) => sink.run().map(|()| ExitCode::SUCCESS),
        Action::Run(run) => run.run(),
        Action::Rfc2544(search) => search.run(),
        Action::Flood(flood) => flood.run().map(|()| ExitCode::SUCCESS),
        Action::Replay(replay) => replay.run().map(|()| ExitCode::SUCCESS),
        Action::Machine => {
            println!("{}", Machine::observe().describe());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("podgate-pktgen: {}", in_one_line(&error));
        ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
    })
}

/// An error and its causes, each said once.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        cause if said.contains(&cause) => said,
        cause if said.is_empty() => cause,
        cause => format!("{said}: {cause}"),
    })
}

/// A bad value in one line; everything else as clap has it.
fn usage(error: &clap::Error) -> ExitCode {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match (error.kind(), text(ContextKind::InvalidArg), text(ContextKind::InvalidValue)) {
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(argument), Some(value)) => {
            let option = argument.split_whitespace().next().unwrap_or(&argument);
            let expected = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
                (Some(wrong), _) => wrong.to_string(),
                (None, Some(ContextValue::Strings(values))) => format!("expected {}", values.join(", ")),
                _ => "is not valid".to_owned(),
            };
            let expected = match expected.starts_with("expected") {
                true => expected,
                false => format!("expected a whole number ({expected})"),
            };
            eprintln!("podgate-pktgen: {option} {value}: {expected}");
            ExitCode::from(2)
        }
        (ErrorKind::DisplayHelp | ErrorKind::DisplayVersion, ..) => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        _ => {
            // The first line says it; what follows is advice.
            let text = error.to_string();
            let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
            eprintln!("podgate-pktgen: {}", lines.join(" ").trim_start_matches("error: "));
            ExitCode::from(2)
        }
    }
}

/// SIGINT and SIGTERM end a run with what it has so far; a second one ends the process.
fn catch_signals() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Before any other thread is started: all inherit it.
    signals.thread_block().context("blocking signals")?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in 0..2 {
            if signals.wait().is_ok() && STOP.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }
}
