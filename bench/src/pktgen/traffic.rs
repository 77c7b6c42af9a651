//! Packets in the order in which they are sent: sizes, flows, sequence numbers and stamps put together, or a capture replayed.
//!
//! Everything that can be wrong is found out when it is made; writing a packet cannot fail and does not allocate.

use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::flows::{Fields, Flows, Plan};
use super::frames::{Shape, Template};
use super::pcap::Captured;
use super::sizes::{CHECK_SEQUENCE, Order, Sizes};
use super::stamp::Stamp;

/// What a sender sends.
pub trait Feed: Send {
    /// Writes the next packet into `buffer` and returns its length; 0 if there is none.
    fn write(&mut self, now_ns: u64, buffer: &mut [u8]) -> usize;
    /// How many packets may go by the feed's own clock, so long after the start.
    fn ready(&self, _elapsed_ns: u64) -> usize {
        usize::MAX
    }
    /// Is there nothing left to send?
    fn finished(&self) -> bool {
        false
    }
    /// A usual length, without check sequence.
    fn typical(&self) -> usize;
}

/// What shall be generated.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Headers.
    pub shape: Shape,
    /// Where flows come from.
    pub fields: Fields,
    /// How many flows, and which packet is whose.
    pub plan: Plan,
    /// Frame sizes.
    pub sizes: Sizes,
    /// For everything drawn: the same seed, the same packets.
    pub seed: u64,
}

/// Generated packets.
pub struct Traffic {
    shape: Shape,
    templates: Vec<Template>,
    order: Order,
    flows: Flows,
    run: u16,
    sequences: Vec<u32>,
    random: SmallRng,
    typical: usize,
}

impl Traffic {
    /// Builds templates and flows. Sizes must have room for headers and stamp.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn new(spec: &Spec, run: u16) -> Result<Self, String> {
        let mut random = SmallRng::seed_from_u64(spec.seed);
        let (templates, order) = templates(&spec.shape, &spec.sizes)?;
        let flows =
            Flows::new(&spec.fields, spec.plan, &mut random).map_err(|wrong| format!("--flows: {wrong}"))?;
        let sequences = vec![0; flows.streams()];
        let typical = spec.sizes.mean() as usize - CHECK_SEQUENCE;
        Ok(Self { shape: spec.shape, templates, order, flows, run, sequences, random, typical })
    }

    /// Other sizes from now on.
    ///
    /// # Errors
    /// If one is too small.
    pub fn set_sizes(&mut self, sizes: &Sizes) -> Result<(), String> {
        (self.templates, self.order) = templates(&self.shape, sizes)?;
        self.typical = sizes.mean() as usize - CHECK_SEQUENCE;
        Ok(())
    }

    /// Begins a run anew, with another number.
    pub fn next_run(&mut self) {
        self.run = self.run.wrapping_add(1);
        self.sequences.fill(0);
    }

    /// The number that its packets carry.
    #[must_use]
    pub fn run(&self) -> u16 {
        self.run
    }
}

fn templates(shape: &Shape, sizes: &Sizes) -> Result<(Vec<Template>, Order), String> {
    let (lengths, order) = sizes.schedule();
    let least = shape.protocol.least(shape.v4, shape.stamped) + CHECK_SEQUENCE;
    let template = |size: usize| {
        Template::new(*shape, size - CHECK_SEQUENCE).ok_or_else(|| {
            let (family, stamp) =
                (if shape.v4 { "IPv4" } else { "IPv6" }, if shape.stamped { " and its stamp" } else { "" });
            format!(
                "--size {size}: expected at least {least} bytes for {} over {family}{stamp}",
                shape.protocol
            )
        })
    };
    Ok((lengths.into_iter().map(template).collect::<Result<_, String>>()?, order))
}

impl Feed for Traffic {
    #[inline]
    fn write(&mut self, now_ns: u64, buffer: &mut [u8]) -> usize {
        let Self { random, flows, templates, order, sequences, .. } = self;
        let Some((flow, stream)) = flows.next(random) else { return 0 };
        let Some(template) = templates.get(order.next(random)) else { return 0 };
        let Some(sequence) = sequences.get_mut(usize::from(stream)) else { return 0 };
        let stamp = Stamp { run: self.run, stream, sequence: *sequence, sent_ns: now_ns };
        *sequence = sequence.wrapping_add(1);
        let drawn = match self.shape.protocol {
            super::frames::Protocol::TcpSyn => random.random(),
            _ => 0,
        };
        template.write(&flow, Some(&stamp), drawn, buffer)
    }

    fn typical(&self) -> usize {
        self.typical
    }
}

/// A capture that is sent again, as it is but for MAC addresses.
pub struct Replay {
    packets: Arc<[Captured]>,
    /// Time stamps are followed, at so many times their speed.
    speed: Option<f64>,
    /// How often all of it.
    rounds: u64,
    sent: u64,
    /// From the first packet to the one after the last, nanoseconds.
    span_ns: u64,
}

impl Replay {
    /// Of these packets, which are in the order of their times, `rounds` times.
    #[must_use]
    pub fn new(packets: Arc<[Captured]>, speed: Option<f64>, rounds: u64) -> Self {
        let time = |packet: Option<&Captured>| packet.map_or(0, |packet| packet.time_ns);
        let long = time(packets.last()).saturating_sub(time(packets.first()));
        // Between the last of a round and the first of the next as between two others.
        let span_ns = long + long / (packets.len().max(2) as u64 - 1);
        Self { packets, speed, rounds, sent: 0, span_ns }
    }

    fn place(&self) -> (u64, Option<&Captured>) {
        let count = self.packets.len().max(1) as u64;
        (self.sent / count, self.packets.get((self.sent % count) as usize))
    }
}

impl Feed for Replay {
    fn write(&mut self, _: u64, buffer: &mut [u8]) -> usize {
        if self.finished() {
            return 0;
        }
        let (_, packet) = self.place();
        let Some(bytes) = packet.map(|packet| packet.bytes.as_slice()) else { return 0 };
        let Some(room) = buffer.get_mut(..bytes.len()) else { return 0 };
        room.copy_from_slice(bytes);
        let length = bytes.len();
        self.sent += 1;
        length
    }

    fn ready(&self, elapsed_ns: u64) -> usize {
        let Some(speed) = self.speed else { return usize::MAX };
        let (round, packet) = self.place();
        let first = self.packets.first().map_or(0, |first| first.time_ns);
        let due = round * self.span_ns + packet.map_or(0, |packet| packet.time_ns.saturating_sub(first));
        usize::from(elapsed_ns as f64 * speed >= due as f64)
    }

    fn finished(&self) -> bool {
        self.packets.is_empty() || self.sent >= self.rounds.saturating_mul(self.packets.len() as u64)
    }

    fn typical(&self) -> usize {
        let all: usize = self.packets.iter().map(|packet| packet.bytes.len()).sum();
        all / self.packets.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::flows::Choice;
    use crate::pktgen::frames::Protocol;
    use crate::pktgen::stamp::locate;

    fn spec(sizes: &str, protocol: Protocol) -> Spec {
        Spec {
            shape: Shape { macs: [[2; 6]; 2], v4: true, protocol, stamped: true },
            fields: Fields {
                source: "10.0.0.1".parse().unwrap(),
                destination: "10.0.0.2".parse().unwrap(),
                source_port: "1000-1002".parse().unwrap(),
                destination_port: "9".parse().unwrap(),
            },
            plan: Plan::Some(3, Choice::Sequential),
            sizes: sizes.parse().unwrap(),
            seed: 1,
        }
    }

    #[test]
    fn each_stream_is_numbered_by_itself_and_each_run_anew() {
        let mut traffic = Traffic::new(&spec("64", Protocol::Udp), 7).unwrap();
        let mut buffer = vec![0; 2048];
        let mut next = |traffic: &mut Traffic| {
            assert_eq!(traffic.write(5, &mut buffer), 60);
            let stamp = locate(&buffer).unwrap();
            (stamp.run, stamp.stream, stamp.sequence)
        };
        let first: Vec<_> = (0..7).map(|_| next(&mut traffic)).collect();
        assert_eq!(first, [(7, 0, 0), (7, 1, 0), (7, 2, 0), (7, 0, 1), (7, 1, 1), (7, 2, 1), (7, 0, 2)]);
        traffic.next_run();
        let again: Vec<_> = (0..3).map(|_| next(&mut traffic)).collect();
        assert_eq!(again, [(8, 1, 0), (8, 2, 0), (8, 0, 0)]);
    }

    #[test]
    fn a_size_without_room_is_named() {
        let error = Traffic::new(&spec("64", Protocol::TcpSyn), 1).err().unwrap();
        assert_eq!(error, "--size 64: expected at least 76 bytes for tcp-syn over IPv4 and its stamp");
    }

    #[test]
    fn a_replay_keeps_its_times_and_rounds() {
        let packets: Arc<[Captured]> = [(100, "a"), (200, "bc"), (300, "d")]
            .map(|(time_ns, text)| Captured { time_ns, bytes: text.into() })
            .into();
        let mut replay = Replay::new(packets, Some(2.0), 2);
        let mut sent = Vec::new();
        let mut buffer = [0; 8];
        for elapsed in 0..1000 {
            while !replay.finished() && replay.ready(elapsed) > 0 {
                let length = replay.write(0, &mut buffer);
                sent.push((elapsed, String::from_utf8_lossy(&buffer[..length]).into_owned()));
            }
        }
        let expected = [(0, "a"), (50, "bc"), (100, "d"), (150, "a"), (200, "bc"), (250, "d")];
        assert_eq!(sent, expected.map(|(when, text)| (when, text.to_owned())));
        assert_eq!(replay.write(0, &mut buffer), 0);
    }
}
