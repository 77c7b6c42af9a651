//! The rings of a socket against the in-memory twin of the kernel.

use super::*;
use crate::pool::FrameLedger;
use crate::region::{CHUNK_ROOM, CHUNK_SIZE};
use crate::twin::{Sent, Wire, pair};
use proptest::prelude::*;

struct Bench {
    region: Region,
    ledger: FrameLedger,
    pool: FramePool,
    queues: Queues,
    wire: Wire,
}

fn bench(chunks: u32, ring: u32, abilities: Abilities) -> Bench {
    let (region, mut ledger) = Region::new(chunks).unwrap();
    let pool = ledger.pool(chunks as usize);
    let (queues, wire) = pair(&region, ring, abilities).unwrap();
    Bench { region, ledger, pool, queues, wire }
}

impl Bench {
    fn received(&mut self) -> Vec<FrameChain> {
        let mut packets = Vec::new();
        self.queues.receive(usize::MAX, |packet| packets.push(packet));
        packets
    }

    /// Closes and checks that every frame is back, each once.
    fn settle(mut self) {
        self.ledger.give_back(self.queues.close());
        self.ledger.give_back_pool(self.pool);
        assert_eq!(self.ledger.free(), self.ledger.total());
        let mut all = self.ledger.pool(usize::MAX);
        let mut chunks: Vec<u32> = std::iter::from_fn(|| all.take()).map(|f| f.chunk()).collect();
        chunks.sort_unstable();
        chunks.dedup();
        assert_eq!(chunks.len(), self.ledger.total());
    }
}

#[test]
fn packets_go_round_and_frames_come_back() {
    let mut b = bench(64, 16, Abilities::new(true, true));
    assert!(!b.wire.deliver(b"nobody can take it: no frame in the fill ring"));
    assert_eq!(b.queues.refill(&mut b.pool), 16);
    assert_eq!((b.queues.refill(&mut b.pool), b.pool.len(), b.wire.filled()), (0, 48, 16));
    let jumbo: Vec<u8> = (0..9000u32).map(|i| (i % 251) as u8).collect();
    assert!(b.wire.deliver(b"first") && b.wire.deliver(&jumbo));
    let packets = b.received();
    let read: Vec<_> = packets.iter().map(|p| (p.count(), p.to_vec(&b.region))).collect();
    assert_eq!(read, [(1, b"first".to_vec()), (3, jumbo.clone())]);
    for packet in packets {
        b.queues.transmit(packet, None).unwrap();
    }
    assert_eq!(b.wire.take(), [], "not published yet");
    b.queues.publish();
    assert_eq!(b.queues.transmit_pending(), 4);
    let sent = |bytes: &[u8], frames| Sent { bytes: bytes.to_vec(), frames, checksum: None };
    assert_eq!(b.wire.take(), [sent(b"first", 1), sent(&jumbo, 3)]);
    assert_eq!(b.queues.transmit_pending(), 0);
    assert_eq!(b.queues.complete(&mut b.pool), 4);
    assert_eq!((b.pool.len(), b.queues.faults()), (52, Faults::default()));
    b.settle();
}

#[test]
fn a_checksum_request_lies_before_the_packet() {
    let mut b = bench(64, 16, Abilities::new(true, true));
    let request = TxChecksum { start: 34, offset: 16 };
    let packet = b.pool.copy_in(&[7; 60]).unwrap();
    b.queues.transmit(packet, Some(request)).unwrap();
    b.queues.publish();
    assert_eq!(b.wire.take(), [Sent { bytes: vec![7; 60], frames: 1, checksum: Some(request) }]);
    b.settle();
}

#[test]
fn what_the_kernel_would_not_transmit_is_refused_unchanged() {
    let request = Some(TxChecksum { start: 34, offset: 16 });
    let mut b = bench(64, 2, Abilities::new(true, false));
    let mut refuse = |bytes: &[u8], offset: usize, checksum, reason| {
        let mut chain = b.pool.copy_in(bytes).unwrap();
        assert!(chain.count() > 1 || chain.set_head_window(offset, bytes.len()));
        let refused = b.queues.transmit(chain, checksum).unwrap_err();
        assert_eq!((refused.reason, refused.chain.total_len()), (reason, bytes.len()));
        b.pool.put_chain(refused.chain);
    };
    refuse(&[0; 51], 256, request, Refusal::ChecksumOutside);
    refuse(&[0; 60], 23, None, Refusal::NoHeadroom);
    refuse(&[], 256, None, Refusal::Empty);
    refuse(&[0; CHUNK_ROOM + 1], 256, None, Refusal::TooManyFrames);
    let (_, mut foreign) = Region::new(1).unwrap();
    let foreign = foreign.pool(1).copy_in(&[0; 60]).unwrap();
    assert_eq!(b.queues.transmit(foreign, None).unwrap_err().reason, Refusal::ForeignRegion);
    for _ in 0..2 {
        let packet = b.pool.copy_in(&[0; 60]).unwrap();
        b.queues.transmit(packet, None).unwrap();
    }
    let refused = b.queues.transmit(b.pool.copy_in(&[0; 60]).unwrap(), None).unwrap_err();
    assert_eq!(refused.reason, Refusal::RingFull);
    b.pool.put_chain(refused.chain);
    b.settle();

    let mut b = bench(64, 8, Abilities::new(false, true));
    let refused = b.queues.transmit(b.pool.copy_in(&[0; 60]).unwrap(), request).unwrap_err();
    assert_eq!(refused.reason, Refusal::NoChecksumOffload);
    b.pool.put_chain(refused.chain);
    // A packet of three frames into a ring with room for two: none of them is written.
    for _ in 0..6 {
        let packet = b.pool.copy_in(&[1; 60]).unwrap();
        b.queues.transmit(packet, None).unwrap();
    }
    let refused = b.queues.transmit(b.pool.copy_in(&[2; 9000]).unwrap(), None).unwrap_err();
    assert_eq!((refused.reason, refused.chain.count()), (Refusal::RingFull, 3));
    b.pool.put_chain(refused.chain);
    b.queues.publish();
    assert_eq!(b.wire.take().len(), 6);
    b.settle();
}

#[test]
fn lies_of_the_kernel_are_counted_and_harmless() {
    let mut b = bench(64, 16, Abilities::new(false, true));
    b.queues.refill(&mut b.pool);
    let chunk = |n: u64| n * CHUNK_SIZE as u64;
    // Chunk 63 was never given; 1 << 40 is outside; the third leaves its chunk; the last is huge.
    for (address, len) in [(chunk(63), 60), (1 << 40, 60), (chunk(0) + 4000, 97), (chunk(1), u32::MAX)] {
        assert!(b.wire.lie_received(Descriptor { address, len, options: 0 }));
    }
    assert!(b.received().is_empty());
    assert_eq!((b.queues.faults().invalid_descriptors, b.queues.faults().broken_packets), (4, 4));
    // The same chunk twice: the second is refused.
    let same = Descriptor { address: chunk(3) + 256, len: 60, options: 0 };
    assert!(b.wire.lie_received(same) && b.wire.lie_received(same));
    let packets = b.received();
    assert_eq!((packets.len(), b.queues.faults().invalid_descriptors), (1, 5));
    packets.into_iter().for_each(|packet| b.pool.put_chain(packet));
    // Completions of what is free, in the fill ring, or outside.
    for address in [chunk(63), chunk(5), u64::MAX] {
        assert!(b.wire.lie_completed(address));
    }
    assert_eq!(b.queues.complete(&mut b.pool), 0);
    assert_eq!(b.queues.faults().invalid_completions, 3);
    b.settle();
}

#[test]
fn a_broken_packet_is_discarded_whole() {
    let mut b = bench(64, 32, Abilities::new(false, true));
    b.queues.refill(&mut b.pool);
    let part = |n: u64, options| Descriptor { address: n * CHUNK_SIZE as u64 + 256, len: 10, options };
    let more = libc::XDP_PKT_CONTD;
    // Good, bad, good, end: discarded. Its begin is seen before its end.
    for descriptor in [part(0, more), part(63, more)] {
        assert!(b.wire.lie_received(descriptor));
    }
    assert!(b.received().is_empty());
    for descriptor in [part(1, more), part(2, 0)] {
        assert!(b.wire.lie_received(descriptor));
    }
    assert!(b.received().is_empty());
    // Nineteen frames: one too many.
    for n in 3..22 {
        assert!(b.wire.lie_received(part(n, if n == 21 { 0 } else { more })));
    }
    assert!(b.wire.lie_received(part(22, 0)));
    let packets = b.received();
    assert_eq!(packets.len(), 1, "the good one behind them");
    packets.into_iter().for_each(|packet| b.pool.put_chain(packet));
    assert_eq!((b.queues.faults().broken_packets, b.queues.faults().invalid_descriptors), (2, 1));
    b.settle();
}

#[test]
fn half_a_packet_at_close_is_not_lost() {
    let mut b = bench(8, 4, Abilities::new(false, true));
    b.queues.refill(&mut b.pool);
    let address = 7 * CHUNK_SIZE as u64;
    let options = libc::XDP_PKT_CONTD;
    for n in 0..8 {
        b.wire.lie_received(Descriptor { address: n * CHUNK_SIZE as u64, len: 9, options });
    }
    assert!(b.received().is_empty());
    assert!(b.wire.lie_completed(address));
    b.settle();
}

#[test]
fn the_wake_up_flag_is_seen() {
    let mut b = bench(8, 4, Abilities::new(false, false));
    assert!(!b.queues.receive_needs_wakeup() && !b.queues.transmit_needs_wakeup());
    b.wire.ask_for_wakeup(true);
    assert!(b.queues.receive_needs_wakeup() && b.queues.transmit_needs_wakeup());
    b.settle();
}

#[derive(Debug, Clone)]
enum Step {
    Deliver(usize),
    Receive(usize),
    Refill,
    Forward,
    Take,
    TakeLate,
    Complete,
    Lie(u64, u32, u32),
    LieCompleted(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..200usize, 3800..20_000usize].prop_map(Step::Deliver),
        4 => (0..9usize).prop_map(Step::Receive),
        3 => Just(Step::Refill),
        4 => Just(Step::Forward),
        2 => Just(Step::Take),
        1 => Just(Step::TakeLate),
        2 => Just(Step::Complete),
        1 => (0..70 * 4096u64, 0..5000u32, 0..2u32).prop_map(|(a, l, o)| Step::Lie(a, l, o)),
        1 => (0..70 * 4096u64).prop_map(Step::LieCompleted),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..Default::default() })]

    /// Whatever happens in whatever order: without lies every packet comes out as it went in, and with or without them every
    /// frame is back at the end, exactly once.
    #[test]
    fn nothing_is_lost_doubled_or_mixed_up(steps in prop::collection::vec(step(), 0..120), lies in any::<bool>()) {
        let mut b = bench(64, 16, Abilities::new(true, true));
        let mut held = std::collections::VecDeque::new();
        let mut expected_in = std::collections::VecDeque::new();
        let mut expected_out = std::collections::VecDeque::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Deliver(len) => {
                    let bytes: Vec<u8> = (0..len).map(|i| (i + n) as u8).collect();
                    if b.wire.deliver(&bytes) {
                        expected_in.push_back(bytes);
                    }
                }
                Step::Receive(max) => {
                    b.queues.receive(max, |packet| held.push_back(packet));
                }
                Step::Refill => {
                    b.queues.refill(&mut b.pool);
                }
                Step::Forward => {
                    let Some(packet) = held.pop_front() else { continue };
                    let bytes = packet.to_vec(&b.region);
                    if !lies {
                        prop_assert_eq!(expected_in.pop_front(), Some(bytes.clone()));
                    }
                    match b.queues.transmit(packet, None) {
                        Ok(()) => expected_out.push_back(bytes),
                        Err(refused) => b.pool.put_chain(refused.chain),
                    }
                    b.queues.publish();
                }
                Step::Take | Step::TakeLate => {
                    let late = matches!(step, Step::TakeLate);
                    for sent in if late { b.wire.take_without_completion() } else { b.wire.take() } {
                        if !lies {
                            prop_assert_eq!(expected_out.pop_front(), Some(sent.bytes));
                        }
                    }
                }
                Step::Complete => {
                    b.queues.complete(&mut b.pool);
                }
                Step::Lie(address, len, options) if lies => {
                    b.wire.lie_received(Descriptor { address, len, options });
                }
                Step::LieCompleted(address) if lies => {
                    b.wire.lie_completed(address);
                }
                Step::Lie(..) | Step::LieCompleted(_) => {}
            }
        }
        if !lies {
            prop_assert_eq!(b.queues.faults(), Faults::default());
        }
        held.into_iter().for_each(|packet| b.pool.put_chain(packet));
        b.settle();
    }
}
