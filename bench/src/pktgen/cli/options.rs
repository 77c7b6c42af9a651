//! Options that several commands share, and what they mean together.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::super::flows::{Addresses, Choice, Fields, MAX_FLOWS, Plan, Ports};
use super::super::frames::{Protocol, Shape};
use super::super::link::{Device, Receiver, Transmitter};
use super::super::rate::Rate;
use super::super::report::grouped;
use super::super::run::{Limits, Pair};
use super::super::sizes::{CHECK_SEQUENCE, SMALLEST, Sizes};
use super::super::stamp::now_ns;
use super::super::traffic::Spec;
use super::Means;

/// Nothing lasts longer.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// What is wrong with the input: exit code 2.
#[derive(Debug)]
pub(super) struct Usage(String);

impl Usage {
    pub(super) fn error(wrong: String) -> anyhow::Error {
        anyhow::Error::new(Self(wrong))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For scripts: one line.
    Json,
}

#[derive(Args)]
pub(super) struct Form {
    /// How results are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    pub(super) output: Format,
}

/// Which sockets.
pub(super) mod link_options {
    use clap::Args;

    use super::Means;

    /// See [`Means`].
    #[derive(Args)]
    pub(in super::super) struct Link {
        /// Sockets to use: AF_XDP, AF_PACKET, or the latter where the former cannot be.
        #[arg(long, value_enum, default_value = "auto")]
        pub(in super::super) link: Means,
    }
}

/// What is sent.
#[derive(Args)]
pub(super) struct TrafficOptions {
    /// Source addresses: one, a range A-B or a network; @random or @zipf:1.1 behind it says how flows take them.
    #[arg(long)]
    source: Addresses,
    /// Destination addresses, of the same family, likewise.
    #[arg(long)]
    destination: Addresses,
    /// Source ports: one or a range A-B, likewise.
    #[arg(long, default_value = "10000-59999")]
    source_port: Ports,
    /// Destination ports, likewise.
    #[arg(long, visible_alias = "destination-port", default_value = "9")]
    port: Ports,
    /// udp, tcp-syn, icmp (echo requests) or sctp-init.
    #[arg(long, default_value = "udp")]
    protocol: Protocol,
    /// How many flows, or every-packet for a new one with each; at most 1000, if there are as many, without it.
    #[arg(long, value_parser = flows_value)]
    flows: Option<Flows>,
    /// Which flow is next: sequential, random or zipf:EXPONENT.
    #[arg(long, default_value = "sequential")]
    pick: Choice,
    /// Bytes of a frame with its check sequence: one size, a range A-B, imix, or sizes with weights 64:7,594:4,1518:1. The
    /// smallest that is possible without it.
    #[arg(long)]
    pub(super) size: Option<Sizes>,
    /// Bare packets, without what the sink accounts by.
    #[arg(long)]
    no_stamp: bool,
    /// For everything that is drawn: the same seed, the same packets.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How many flows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flows {
    Some(usize),
    EveryPacket,
}

impl TrafficOptions {
    /// What the options mean together.
    pub(super) fn spec(&self, macs: [[u8; 6]; 2]) -> Result<Spec> {
        let v4 = one_family("--source", &self.source, &self.destination)?;
        let shape = Shape { macs, v4, protocol: self.protocol, stamped: !self.no_stamp };
        let least = (self.protocol.least(v4, shape.stamped) + CHECK_SEQUENCE).max(SMALLEST);
        let sizes = match &self.size {
            None => Sizes::Mix(vec![(least, 1)]),
            // A mix is meant as a whole: its smallest become as small as they can be, and the report says so.
            Some(sizes @ Sizes::Mix(mix)) if mix.len() > 1 => sizes.clone().at_least(least),
            Some(sizes) => sizes.clone(),
        };
        let fields = Fields {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.port,
        };
        let plan = match self.flows {
            None => Plan::Some(fields.different().min(1000), self.pick),
            Some(Flows::Some(count)) => Plan::Some(count, self.pick),
            Some(Flows::EveryPacket) => Plan::EveryPacket,
        };
        Ok(Spec { shape, fields, plan, sizes, seed: self.seed })
    }

    /// Flows and sizes in a line.
    pub(super) fn describe(&self, spec: &Spec) -> String {
        let raised = match &self.size {
            Some(asked) if *asked != spec.sizes => " (raised to what headers and stamp need)",
            _ => "",
        };
        format!("{}, {}{raised}", self.describe_flows(spec), spec.sizes)
    }

    /// Flows in a line.
    pub(super) fn describe_flows(&self, spec: &Spec) -> String {
        let flows = match spec.plan {
            Plan::Some(1, _) => "one flow".to_owned(),
            Plan::Some(count, _) => format!("{} flows", grouped(count as u64)),
            Plan::EveryPacket => "a new flow with every packet".to_owned(),
        };
        let Spec { shape, fields, .. } = spec;
        format!("{}, {} -> {}, {flows}", shape.protocol, fields.source, fields.destination)
    }
}

/// Both of one family: is it IPv4?
pub(super) fn one_family(option: &str, source: &Addresses, destination: &Addresses) -> Result<bool> {
    if source.v4 == destination.v4 {
        return Ok(source.v4);
    }
    Err(Usage::error(format!(
        "{option} {source}: expected an address of the same family as --destination {destination}"
    )))
}

/// How fast and how long.
#[derive(Args)]
pub(super) struct LimitOptions {
    /// Packets or bits a second, like 500kpps, 1.2Mpps, 800Mbps (frames with check sequence) or 10Gbps-line (with preamble and
    /// gap too). As fast as possible without it.
    #[arg(long)]
    rate: Option<Rate>,
    /// Packets at once. Without it what 20 microseconds of the rate hold, 1 to 64; 256 without a rate.
    #[arg(long, value_parser = burst_value)]
    burst: Option<usize>,
    /// How long; 3 without it, or as long as --count takes.
    #[arg(long, value_parser = seconds_value)]
    pub(super) seconds: Option<Duration>,
    /// How many packets.
    #[arg(long, value_parser = count_value)]
    count: Option<u64>,
}

impl LimitOptions {
    pub(super) fn limits(&self) -> Limits {
        let usual = if self.count.is_some() { LONGEST } else { Duration::from_secs(3) };
        Limits {
            rate: self.rate,
            burst: self.burst,
            duration: self.seconds.unwrap_or(usual),
            count: self.count.unwrap_or(u64::MAX),
        }
    }
}

/// The two devices.
#[derive(Args)]
pub(super) struct Between {
    /// Device to send on.
    #[arg(long)]
    tx: String,
    /// Its network namespace, by name or path.
    #[arg(long)]
    tx_netns: Option<String>,
    /// Device to receive on. AF_XDP takes all that arrives there from the kernel.
    #[arg(long)]
    rx: String,
    /// Its network namespace, by name or path.
    #[arg(long)]
    rx_netns: Option<String>,
    /// MAC address of the next hop; that of the receiving device without it, for cables and bridges.
    #[arg(long, value_parser = parse_mac)]
    destination_mac: Option<[u8; 6]>,
    /// Core of the sender.
    #[arg(long)]
    tx_core: Option<usize>,
    /// Core of the sink.
    #[arg(long)]
    rx_core: Option<usize>,
    /// The sink never lets go of its core: latencies without the time it takes to wake up.
    #[arg(long)]
    spin: bool,
    /// Do not answer ARP and neighbour solicitations for the destinations.
    #[arg(long)]
    no_answer: bool,
    /// How long what was sent is waited for, in seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds_value)]
    settle: Duration,
    /// Sockets to send with: AF_XDP, AF_PACKET, or the latter where the former cannot be.
    #[arg(long, value_enum, default_value = "auto")]
    tx_link: Means,
    /// Sockets to receive with, likewise.
    #[arg(long, value_enum, default_value = "auto")]
    rx_link: Means,
}

impl Between {
    fn devices(&self) -> [Device; 2] {
        [(&self.tx, &self.tx_netns), (&self.rx, &self.rx_netns)]
            .map(|(name, netns)| Device { name: name.clone(), netns: netns.clone() })
    }

    /// Destination and source.
    pub(super) fn macs(&self) -> Result<[[u8; 6]; 2]> {
        let [tx, rx] = self.devices();
        let ours = tx.mac()?;
        Ok([self.destination_mac.map_or_else(|| rx.mac(), Ok)?, ours])
    }

    /// Opens both ends.
    pub(super) fn open(&self, destinations: Addresses, sizes: &Sizes) -> Result<Pair> {
        let [transmit_device, receive_device] = self.devices();
        let receiver = Receiver::open(&receive_device, self.rx_link)?;
        let transmitter = Transmitter::open(&transmit_device, self.tx_link)?;
        let most = transmitter.longest() + CHECK_SEQUENCE;
        if sizes.largest() > most {
            let means = transmitter.means();
            return Err(Usage::error(format!("--size {sizes}: expected at most {most} bytes over {means}")));
        }
        let answers = if self.no_answer { None } else { Some((receive_device.mac()?, destinations)) };
        Ok(Pair {
            transmitter,
            transmit_device,
            receiver,
            receive_device,
            cores: [self.tx_core, self.rx_core],
            spin: self.spin,
            answers,
            settle: self.settle,
        })
    }

    pub(super) fn describe(&self, pair: &Pair) -> String {
        let [tx, rx] = self.devices();
        format!("{tx} ({}) -> {rx} ({})", pair.transmitter.means(), pair.receiver.means())
    }
}

/// A number for a run that none before it is likely to have had.
pub(super) fn new_run() -> u16 {
    let now = now_ns();
    (now >> 10) as u16 ^ (now >> 26) as u16
}

pub(super) fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |byte: &str| match byte.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        true if byte.len() == 2 => u8::from_str_radix(byte, 16).ok(),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "expected six hexadecimal bytes like 02:00:00:00:00:01".to_owned())
}

/// Seconds, from 0.01 to an hour.
pub(super) fn seconds_value(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=LONGEST.as_secs_f64()).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected 0.01 to 3600 seconds".to_owned())
}

pub(super) fn count_value(text: &str) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

pub(super) fn port_value(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port of 0 to 65535".to_owned())
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| *number > 0.0 && number.is_finite())
        .ok_or_else(|| "expected a number above 0".to_owned())
}

fn burst_value(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|burst| (1..=1024).contains(burst))
        .ok_or_else(|| "expected 1 to 1024 packets".to_owned())
}

fn flows_value(text: &str) -> Result<Flows, String> {
    if text == "every-packet" {
        return Ok(Flows::EveryPacket);
    }
    let count = text.parse().ok().filter(|count| (1..=MAX_FLOWS).contains(count));
    count.map(Flows::Some).ok_or_else(|| format!("expected 1 to {MAX_FLOWS}, or every-packet"))
}

/// A share, written as 0.005 or 0.5%: from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().ok().map(|number| number / scale);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "expected a share like 0.5% or 0.005".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_has_six_bytes() {
        assert_eq!(parse_mac("02:00:00:00:0a:ff"), Ok([2, 0, 0, 0, 10, 255]));
        for bad in ["", "02:00", "02:00:00:00:00:00:01", "02:00:00:00:00:zz", "+2:00:00:00:00:01"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_times_are_read() {
        assert_eq!([share("0.5%"), share("0.005"), share("0")], [Ok(0.005), Ok(0.005), Ok(0.0)]);
        assert!(["", "%", "-1", "101%", "2"].into_iter().all(|bad| share(bad).is_err()));
        assert_eq!(seconds_value("0.5"), Ok(Duration::from_millis(500)));
        assert!(["", "0", "3601", "NaN", "inf"].into_iter().all(|bad| seconds_value(bad).is_err()));
    }
}
