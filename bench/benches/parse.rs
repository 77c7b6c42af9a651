//! What parsing costs a packet, by kind; the aim is 3.5 ns for the plain ones. Each iteration walks a batch of 64
//! frames, as a worker does, so that neither the branch predictor nor the cache sees one packet alone. The answer
//! is looked at in place: copying it at once, while its bytes are still on their way to the cache, costs another
//! five nanoseconds (a failed store-to-load forward), and a worker does well not to.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podgate_dataplane::parse::{general, parse};
use std::hint::black_box;

const BATCH: usize = 64;

/// A frame of 60 bytes or more from 10.244.0.x / fd00:10:244::x, with right lengths and header checksum.
fn frame(six: bool, tcp: bool, number: u8) -> Vec<u8> {
    let transport: Vec<u8> = if tcp {
        let mut header = vec![0; 20];
        (header[1], header[3], header[12], header[13]) = (number, 80, 0x50, 0x10);
        header
    } else {
        vec![0, number, 0, 53, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, number];
    let number_of = if tcp { 6 } else { 17 };
    if six {
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, transport.len() as u8, number_of, 64]);
        for host in [number, 200] {
            frame.extend_from_slice(&[0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
    } else {
        let mut ip = [
            0x45,
            0,
            0,
            20 + transport.len() as u8,
            0,
            0,
            0x40,
            0,
            64,
            number_of,
            0,
            0,
            10,
            244,
            0,
            number,
            10,
            244,
            0,
            200,
        ];
        let mut sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        ip[10..12].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
        frame.extend_from_slice(&[0x08, 0]);
        frame.extend_from_slice(&ip);
    }
    frame.extend_from_slice(&transport);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(BATCH as u64));
    let batch = |six, tcp| (0..BATCH).map(|number| frame(six, tcp, number as u8 + 1)).collect::<Vec<_>>();
    let mut mixed = Vec::new();
    for (name, six, tcp) in
        [("v4-udp", false, false), ("v4-tcp", false, true), ("v6-udp", true, false), ("v6-tcp", true, true)]
    {
        let frames = batch(six, tcp);
        assert!(frames.iter().all(|frame| parse(frame, frame.len()).is_ok()));
        mixed.extend(frames.iter().take(BATCH / 4).cloned());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for frame in &frames {
                    black_box(&parse(black_box(frame), frame.len()));
                }
            });
        });
    }
    group.bench_function("mixed", |bencher| {
        bencher.iter(|| {
            for frame in &mixed {
                black_box(&parse(black_box(frame), frame.len()));
            }
        });
    });
    group.bench_function("mixed-etherparse", |bencher| {
        bencher.iter(|| {
            for frame in &mixed {
                black_box(&general(black_box(frame), frame.len()));
            }
        });
    });
    group.finish();
}

criterion_group!(parse_benches, benches);
criterion_main!(parse_benches);
