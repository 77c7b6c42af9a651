//! The loops: a sender that keeps its rate, a sink that keeps its account, and both together in one process.
//!
//! A sender spins between bursts unless the next is more than 150 microseconds away. It stamps a burst with one reading of the
//! clock just before it writes it. The sink waits in poll when nothing has arrived, which costs a wake-up of some ten
//! microseconds but leaves its core to others; with `spin` it never lets go.
//!
//! Packets count as sent when the kernel has taken them. What the sending device drops, and what the sink's own sockets could
//! not hold, is looked up and told apart, because it is not the fault of what is tested.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::flows::Addresses;
use super::link::{Device, Flushed, Receiver, Transmitter};
use super::neighbours;
use super::pcap::Writer;
use super::rate::{Pacer, Rate};
use super::sink::Sink;
use super::stamp::now_ns;
use super::traffic::{Feed, Traffic};

/// How long a sink that has to stop goes on taking what is still there: traffic of others may never end.
const LINGER: Duration = Duration::from_millis(100);

/// What others may see of a run while it lasts.
#[derive(Debug, Default)]
pub struct Progress {
    /// Packets sent.
    pub sent: AtomicU64,
    /// Packets received, as [`Sink::arrived`] counts them.
    pub received: AtomicU64,
}

/// How fast and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// As fast as possible without one.
    pub rate: Option<Rate>,
    /// Packets at once; chosen by the rate without one.
    pub burst: Option<usize>,
    /// For so long at most.
    pub duration: Duration,
    /// So many at most.
    pub count: u64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sent {
    /// Packets that the kernel took.
    pub packets: u64,
    /// Their bytes, without check sequences.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Share of the rate that was given up because the sender was held up: 0 to 1.
    pub slipped: f64,
}

impl Sent {
    /// Packets a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.packets as f64 / self.seconds } else { 0.0 }
    }

    /// So many packets were not sent after all.
    fn take_back(&mut self, packets: u64) {
        let sent = self.packets.saturating_sub(packets);
        self.bytes = share(self.bytes, sent, self.packets);
        self.packets = sent;
    }
}

/// `of` times `part` by `all`, without overflow; all of it if there is no `all`.
#[must_use]
pub fn share(of: u64, part: u64, all: u64) -> u64 {
    let product = u128::from(of) * u128::from(part);
    product.checked_div(all.into()).and_then(|share| u64::try_from(share).ok()).unwrap_or(of)
}

/// Pins the calling thread.
///
/// # Errors
/// If there is no such core.
pub fn pin(core: Option<usize>) -> Result<()> {
    let Some(id) = core else { return Ok(()) };
    ensure!(core_affinity::set_for_current(core_affinity::CoreId { id }), "core {id}: can't pin to it");
    Ok(())
}

/// Sends until a limit is reached or `stop` says so.
///
/// # Errors
/// If the device is gone.
pub fn send(
    link: &mut Transmitter,
    feed: &mut impl Feed,
    limits: &Limits,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Sent> {
    let start = now_ns();
    let end = start.saturating_add(u64::try_from(limits.duration.as_nanos()).unwrap_or(u64::MAX));
    let mut pacer = Pacer::new(limits.rate, limits.burst, feed.typical(), start);
    let mut sent = Sent::default();
    let (mut now, mut flushed) = (start, Flushed::Fine);
    while now < end && sent.packets < limits.count && !stop.load(Ordering::Relaxed) {
        let left = usize::try_from(limits.count - sent.packets).unwrap_or(usize::MAX);
        let granted = pacer.grant(now).min(feed.ready(now - start)).min(left);
        if granted > 0 {
            let mut bytes = 0;
            sent.packets += link.burst(granted, |buffer| {
                let length = feed.write(now, buffer);
                pacer.spend(length);
                bytes += length as u64;
                length
            })? as u64;
            sent.bytes += bytes;
            progress.sent.store(sent.packets, Ordering::Relaxed);
            flushed = link.flush()?;
            if flushed == Flushed::Down {
                thread::sleep(Duration::from_millis(1));
            }
        } else {
            rest(pacer.next_ns().min(end), now);
        }
        if feed.finished() {
            break;
        }
        now = now_ns();
    }
    let pending = link.pending();
    let patience = Instant::now() + Duration::from_millis(200);
    while link.pending() > 0 && Instant::now() < patience {
        link.flush()?;
        thread::yield_now();
    }
    // What the ring still had when the time was over was sent in the time that it took.
    let over = if pending > 0 { now_ns() } else { now };
    sent.seconds = over.saturating_sub(start) as f64 / 1e9;
    sent.take_back(link.pending());
    ensure!(
        sent.packets > 0 || flushed != Flushed::Down,
        "the sending device is down; `ip link set DEVICE up` in its namespace"
    );
    sent.slipped = pacer.slipped();
    progress.sent.store(sent.packets, Ordering::Relaxed);
    Ok(sent)
}

/// Waits for what is due then: asleep if that is far away.
fn rest(due_ns: u64, now_ns: u64) {
    const PRECISE: u64 = 150_000;
    let wait = due_ns.saturating_sub(now_ns);
    if wait > PRECISE {
        // Not for long: somebody may want to end it.
        thread::sleep(Duration::from_nanos((wait - PRECISE + 50_000).min(10_000_000)));
    } else {
        std::hint::spin_loop();
    }
}

/// How a sink behaves.
pub struct Manner<'a> {
    /// Never lets go of its core.
    pub spin: bool,
    /// Answers who asks for one of these addresses, with this MAC address.
    pub answers: Option<([u8; 6], Addresses)>,
    /// Writes what arrives.
    pub capture: Option<&'a mut Writer<Box<dyn std::io::Write + Send>>>,
}

/// Receives until `stop` says so and nothing is left, or the time is over, or so many packets with a stamp have come.
///
/// # Errors
/// If the device is gone, or the capture cannot be written.
pub fn receive(
    link: &mut Receiver,
    sink: &mut Sink,
    manner: &mut Manner<'_>,
    until: (Instant, u64),
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<()> {
    let (end, count) = until;
    let mut answers = Vec::new();
    let (mut failed, mut stopped) = (None, None);
    loop {
        let over = Instant::now() >= end;
        if stop.load(Ordering::Relaxed) {
            stopped.get_or_insert_with(Instant::now);
        }
        let received = link.receive(|now, head, length| {
            sink.packet(head, length, now);
            if let Some((mac, addresses)) = &manner.answers {
                answers.extend(neighbours::answer(head, *mac, addresses));
            }
            if let Some(writer) = manner.capture.as_mut() {
                failed = writer.packet(now, head, length).err().or(failed.take());
            }
        })?;
        answers.drain(..).for_each(|answer| link.answer(&answer));
        progress.received.store(sink.arrived(), Ordering::Relaxed);
        if let Some(error) = failed {
            return Err(error).context("writing the capture");
        }
        if over
            || sink.stamped() >= count
            || stopped.is_some_and(|since| received == 0 || since.elapsed() > LINGER)
        {
            return Ok(());
        }
        if received == 0 && !manner.spin {
            link.wait(20)?;
        }
    }
}

/// A sender and a sink in one process, with a device under test between them.
pub struct Pair {
    /// Sending end.
    pub transmitter: Transmitter,
    /// Its device.
    pub transmit_device: Device,
    /// Receiving end.
    pub receiver: Receiver,
    /// Its device.
    pub receive_device: Device,
    /// Cores of sender and sink.
    pub cores: [Option<usize>; 2],
    /// The sink never lets go of its core.
    pub spin: bool,
    /// The sink answers for these.
    pub answers: Option<([u8; 6], Addresses)>,
    /// How long what was sent may be on its way.
    pub settle: Duration,
}

/// What became of a run.
#[derive(Debug)]
pub struct Trial {
    /// What was sent.
    pub sent: Sent,
    /// What arrived.
    pub sink: Sink,
    /// Packets that were sent and did not arrive.
    pub lost: u64,
    /// Of the packets that arrived, those that the sink's sockets had no room for.
    pub sink_lost: u64,
    /// Packets that the sending device dropped.
    pub device_dropped: u64,
}

impl Trial {
    /// Share of the packets sent that were lost: 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.sent.packets == 0 { 0.0 } else { self.lost as f64 / self.sent.packets as f64 }
    }
}

impl Pair {
    /// One run. `watch` is called some times a second while it lasts.
    ///
    /// # Errors
    /// If a device is gone.
    pub fn run(
        &mut self,
        traffic: &mut Traffic,
        limits: &Limits,
        stop: &AtomicBool,
        mut watch: impl FnMut(&Progress),
    ) -> Result<Trial> {
        traffic.next_run();
        let mut sink = Sink::new(Some(traffic.run()));
        let (dropped_before, lost_before) =
            (self.transmit_device.counters()?.transmit_dropped, self.receiver.lost()?);
        let progress = Progress::default();
        let sink_stop = AtomicBool::new(false);
        let [send_core, sink_core] = self.cores;
        let mut manner = Manner { spin: self.spin, answers: self.answers, capture: None };
        let end = Instant::now() + limits.duration + self.settle + Duration::from_secs(10);
        let (transmitter, receiver, settle) = (&mut self.transmitter, &mut self.receiver, self.settle);
        let sent = thread::scope(|scope| -> Result<Sent> {
            let sink_thread = scope.spawn(|| {
                pin(sink_core)?;
                receive(receiver, &mut sink, &mut manner, (end, u64::MAX), &sink_stop, &progress)
            });
            let send_thread = scope.spawn(|| {
                pin(send_core)?;
                send(transmitter, traffic, limits, stop, &progress)
            });
            while !send_thread.is_finished() && !sink_thread.is_finished() {
                watch(&progress);
                thread::sleep(Duration::from_millis(20));
            }
            if sink_thread.is_finished() {
                // It failed. Nobody needs to wait for the rest.
                stop.store(true, Ordering::Relaxed);
            }
            let sent = send_thread.join().map_err(|_| anyhow!("the sender ended early"))?;
            if let Ok(sent) = &sent {
                let patience = Instant::now() + settle;
                while Instant::now() < patience && progress.received.load(Ordering::Relaxed) < sent.packets {
                    thread::sleep(Duration::from_millis(1));
                }
                // For duplicates of the last.
                thread::sleep(settle.min(Duration::from_millis(20)));
            }
            sink_stop.store(true, Ordering::Relaxed);
            sink_thread.join().map_err(|_| anyhow!("the sink ended early"))??;
            sent
        })?;
        let unique = sink.runs().first().map_or(0, |run| run.account().unique);
        Ok(Trial {
            sent,
            lost: sent.packets.saturating_sub(unique),
            sink_lost: self.receiver.lost()?.saturating_sub(lost_before),
            device_dropped: self.transmit_device.counters()?.transmit_dropped.saturating_sub(dropped_before),
            sink,
        })
    }
}
