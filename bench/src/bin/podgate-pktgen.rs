//! A sender and a sink over AF_XDP, to load a gateway from the network namespaces beside it.
//!
//! `send` transmits UDP packets of a number of flows as fast as the ring takes them, for a bounded time. `flood` does so with
//! TCP SYNs, each of a connection of its own. `sink` takes a device's packets away as cheaply as can be: the steering program
//! drops them, and the device's own counters are read. All print one line of JSON at the end. All run inside the namespace they are started in and stop by themselves.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use af_xdp::{
    Attachment, FrameChain, FramePool, Interface, Kick, Region, Socket, SocketConfig, Steering, Umem,
    open_all,
};
use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use etherparse::PacketBuilder;
use ipnet::IpNet;
use podgate_bench::machine::Machine;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Sends UDP packets over AF_XDP, or swallows what arrives.
///
/// Example: ip netns exec a.bench podgate-pktgen send --interface eth0 --source 10.0.0.1 --destination 10.0.0.2 \
///          --destination-mac 02:00:00:00:00:01 --flows 1000 --seconds 3
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Transmits for a bounded time.
    Send(Send),
    /// Transmits TCP SYNs of connections that never go on, for a bounded time.
    Flood(Flood),
    /// Drops and counts what arrives, until the time is over.
    Sink(Sink),
    /// Says what machine this is and measures its core-to-core latency.
    Machine,
}

/// Where from, how long.
#[derive(Args)]
struct Line {
    /// Device to send on; its queue 0 is used.
    #[arg(long)]
    interface: String,
    /// MAC address of the next hop.
    #[arg(long, value_parser = parse_mac)]
    destination_mac: [u8; 6],
    /// How long.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Core to run on.
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Args)]
struct Send {
    #[command(flatten)]
    line: Line,
    /// Source address.
    #[arg(long)]
    source: IpAddr,
    /// Destination address, of the same family.
    #[arg(long)]
    destination: IpAddr,
    /// How many flows, told apart by their source ports.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    flows: u16,
    /// Destination port.
    #[arg(long, default_value_t = 9)]
    port: u16,
    /// Length of a frame in bytes, without the frame check sequence.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(60..=1514))]
    size: u16,
}

#[derive(Args)]
struct Flood {
    #[command(flatten)]
    line: Line,
    /// The network that each packet's source address is drawn from; a single address is one.
    #[arg(long, value_parser = parse_network)]
    sources: IpNet,
    /// Destination address, of the same family.
    #[arg(long)]
    destination: IpAddr,
    /// Destination port; 0 for one drawn for each packet, as source ports are.
    #[arg(long, default_value_t = 80)]
    port: u16,
}

#[derive(Args)]
struct Sink {
    /// Device to drop on.
    #[arg(long)]
    interface: String,
    /// How long.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
}

fn main() -> anyhow::Result<()> {
    match Command::parse().action {
        Action::Send(send) => send.run(),
        Action::Flood(flood) => flood.run(),
        Action::Sink(sink) => sink.run(),
        Action::Machine => {
            println!("{}", Machine::observe().describe());
            Ok(())
        }
    }
}

/// Packets that wait in the rings at most; also the size of the rings.
const RING: u32 = 2048;
/// Packets between two system calls.
const BATCH: usize = 256;

impl Line {
    /// Sends what `next` says for as long as it shall last.
    fn run(&self, mut next: impl FnMut(&mut FramePool) -> Option<FrameChain>) -> anyhow::Result<()> {
        if let Some(core) = self.core {
            ensure!(
                core_affinity::set_for_current(core_affinity::CoreId { id: core }),
                "--core {core}: can't pin to it"
            );
        }
        let (umem, mut pool) = memory(4 * RING)?;
        let interface = Interface::by_name(&self.interface)?;
        let config = SocketConfig { receive: 64, transmit: RING, fill: 64, completion: RING, tx_budget: 256 };
        let mut socket = Socket::open(&umem, &interface, 0, &config, &mut pool)?;
        let begin = Instant::now();
        let end = begin + Duration::from_secs(self.seconds.into());
        let mut sent: u64 = 0;
        while Instant::now() < end {
            socket.complete(&mut pool);
            let mut batch = 0;
            while batch < BATCH {
                let Some(frame) = next(&mut pool) else { break };
                if let Err(refused) = socket.transmit(frame, None) {
                    pool.put_chain(refused.chain);
                    break;
                }
                batch += 1;
            }
            sent += batch as u64;
            match socket.kick_tx() {
                Kick::Done | Kick::Again => {}
                Kick::Down => bail!("{}: the device is down", self.interface),
                Kick::Gone => bail!("{}: the device was deleted", self.interface),
                Kick::Failed(errno) => {
                    bail!("{}: {}", self.interface, std::io::Error::from_raw_os_error(errno))
                }
            }
        }
        sent -= u64::from(socket.transmit_pending());
        let seconds = begin.elapsed().as_secs_f64();
        socket.close().into_iter().for_each(|frame| pool.put(frame));
        let rate = sent as f64 / seconds;
        println!("{}", serde_json::json!({ "sent": sent, "seconds": seconds, "packets_per_second": rate }));
        Ok(())
    }
}

impl Flood {
    fn run(&self) -> anyhow::Result<()> {
        let source_mac = mac_of(&self.line.interface)?;
        let host_bits = u32::from(self.sources.max_prefix_len() - self.sources.prefix_len());
        let mut random = SmallRng::seed_from_u64(1);
        let mut frame = Vec::with_capacity(128);
        // Found out once, so that the loop has nothing to complain about.
        ensure!(
            self.sources.addr().is_ipv4() == self.destination.is_ipv4(),
            "--sources {} and --destination {}: expected one family",
            self.sources,
            self.destination
        );
        self.line.run(|pool| {
            let drawn = random.random::<u128>() & 1u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1);
            let ethernet = PacketBuilder::ethernet2(source_mac, self.line.destination_mac);
            let ip = match (self.sources.network(), self.destination) {
                (IpAddr::V4(net), IpAddr::V4(to)) => {
                    ethernet.ipv4((net.to_bits() | drawn as u32).to_be_bytes(), to.octets(), 64)
                }
                (IpAddr::V6(net), IpAddr::V6(to)) => {
                    ethernet.ipv6((net.to_bits() | drawn).to_be_bytes(), to.octets(), 64)
                }
                _ => return None,
            };
            let port = if self.port == 0 { random.random_range(1..=u16::MAX) } else { self.port };
            frame.clear();
            let syn = ip.tcp(random.random_range(1024..=u16::MAX), port, random.random(), 64_240).syn();
            syn.write(&mut frame, &[]).ok()?;
            pool.copy_in(&frame)
        })
    }
}

impl Send {
    fn run(&self) -> anyhow::Result<()> {
        ensure!(
            self.source.is_ipv4() == self.destination.is_ipv4(),
            "--source {} and --destination {}: expected two addresses of one family",
            self.source,
            self.destination
        );
        let templates = self.templates(mac_of(&self.line.interface)?)?;
        let mut next = templates.iter().cycle();
        self.line.run(|pool| next.next().and_then(|template| pool.copy_in(template)))
    }

    /// One frame for each flow.
    fn templates(&self, source_mac: [u8; 6]) -> anyhow::Result<Vec<Vec<u8>>> {
        let headers = if self.source.is_ipv4() { 14 + 20 + 8 } else { 14 + 40 + 8 };
        let payload = vec![0; usize::from(self.size).saturating_sub(headers)];
        (0..self.flows)
            .map(|flow| {
                let ethernet = PacketBuilder::ethernet2(source_mac, self.line.destination_mac);
                let ip = match (self.source, self.destination) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
                    (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
                    _ => bail!("--source and --destination: expected one family"),
                };
                let mut frame = Vec::with_capacity(self.size.into());
                ip.udp(10_000 + flow, self.port).write(&mut frame, &payload).context("building a packet")?;
                Ok(frame)
            })
            .collect()
    }
}

impl Sink {
    fn run(&self) -> anyhow::Result<()> {
        let (umem, mut pool) = memory(1024)?;
        let interface = Interface::by_name(&self.interface)?;
        let config = SocketConfig { receive: 64, transmit: 64, fill: 64, completion: 64, tx_budget: 32 };
        let sockets = open_all(&umem, &interface, false, &config, &mut pool)?;
        let attachment = Attachment::attach(&interface, Steering::Everything, &sockets, None)?;
        // Without their sockets the program drops all that arrives, which is the cheapest sink there is.
        for socket in sockets {
            socket.close().into_iter().for_each(|frame| pool.put(frame));
        }
        let before = received(&self.interface)?;
        let begin = Instant::now();
        thread::sleep(Duration::from_secs(self.seconds.into()));
        let packets = received(&self.interface)? - before;
        let seconds = begin.elapsed().as_secs_f64();
        attachment.detach()?;
        let rate = packets as f64 / seconds;
        println!(
            "{}",
            serde_json::json!({ "received": packets, "seconds": seconds, "packets_per_second": rate })
        );
        Ok(())
    }
}

/// A region anchored on the namespace's loopback device, which no socket here is bound to otherwise.
fn memory(frames: u32) -> anyhow::Result<(Umem, FramePool)> {
    let (region, mut ledger) = Region::new(frames)?;
    let umem = Umem::register(&region, &Interface::by_name("lo")?, 0)?;
    let pool = ledger.pool(frames as usize);
    Ok((umem, pool))
}

/// Packets that the device received so far, dropped ones included.
fn received(interface: &str) -> anyhow::Result<u64> {
    let path = Path::new("/sys/class/net").join(interface).join("statistics/rx_packets");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{}: {text:?} is not a number", path.display()))
}

fn mac_of(interface: &str) -> anyhow::Result<[u8; 6]> {
    let path = Path::new("/sys/class/net").join(interface).join("address");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse_mac(text.trim()).map_err(anyhow::Error::msg)
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither a network like 198.18.0.0/15 nor an address"))
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        format!("{text:?} is not a MAC address, expected six hexadecimal bytes like 02:00:00:00:00:01")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_address_is_a_network() {
        assert_eq!(parse_network("10.0.0.1"), Ok("10.0.0.1/32".parse().unwrap()));
        assert_eq!(parse_network("2001:db8::/64"), Ok("2001:db8::/64".parse().unwrap()));
        assert!(parse_network("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_mac_address_has_six_bytes() {
        assert_eq!(parse_mac("02:00:00:00:0a:ff"), Ok([2, 0, 0, 0, 10, 255]));
        for bad in ["", "02:00", "02:00:00:00:00:00:01", "02:00:00:00:00:zz"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }
}
