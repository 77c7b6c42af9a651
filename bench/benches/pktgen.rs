//! What the packet generator itself costs, without a device: writing a packet, and writing and accounting for one.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use podgate_bench::pktgen::flows::{Choice, Fields, Plan};
use podgate_bench::pktgen::frames::{Protocol, Shape};
use podgate_bench::pktgen::sink::Sink;
use podgate_bench::pktgen::sizes::Sizes;
use podgate_bench::pktgen::traffic::{Feed, Spec, Traffic};

/// Packets of an iteration.
const PACKETS: usize = 1024;

fn traffic(v4: bool, protocol: Protocol, plan: Plan, sizes: &str) -> Result<Traffic, String> {
    let ends = if v4 { ["198.18.0.0/16", "198.19.0.1"] } else { ["2001:db8::/112", "2001:db8:1::1"] };
    let sizes: Sizes = sizes.parse()?;
    let fields = Fields {
        source: ends[0].parse()?,
        destination: ends[1].parse()?,
        source_port: "1024-65535".parse()?,
        destination_port: "9".parse()?,
    };
    let shape = Shape { macs: [[2; 6]; 2], v4, protocol, stamped: true };
    Traffic::new(&Spec { shape, fields, plan, sizes, seed: 1 }, 1)
}

fn cases() -> Result<Vec<(&'static str, Traffic)>, String> {
    let some = |count| Plan::Some(count, Choice::Sequential);
    Ok(vec![
        ("udp, 1,000 flows, 64 bytes", traffic(true, Protocol::Udp, some(1000), "64")?),
        ("udp, 1,000,000 flows, 64 bytes", traffic(true, Protocol::Udp, some(1_000_000), "64")?),
        ("udp, new flow every packet", traffic(true, Protocol::Udp, Plan::EveryPacket, "64")?),
        ("udp, Zipf over 100,000 flows, imix", {
            traffic(true, Protocol::Udp, Plan::Some(100_000, Choice::Zipf(1.0)), "imix")?
        }),
        ("udp over IPv6", traffic(false, Protocol::Udp, some(1000), "84")?),
        ("tcp-syn", traffic(true, Protocol::TcpSyn, some(1000), "76")?),
        ("sctp-init", traffic(true, Protocol::SctpInit, some(1000), "92")?),
    ])
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("write");
    group.throughput(Throughput::Elements(PACKETS as u64));
    let mut buffers = vec![vec![0u8; 2048]; PACKETS];
    match cases() {
        Ok(cases) => {
            for (name, mut traffic) in cases {
                group.bench_function(name, |b| {
                    b.iter(|| {
                        for buffer in &mut buffers {
                            black_box(traffic.write(1, buffer));
                        }
                    });
                });
            }
        }
        Err(wrong) => eprintln!("{wrong}"),
    }
    group.finish();
}

fn sink(c: &mut Criterion) {
    let mut group = c.benchmark_group("sink");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, lose) in [("udp, 1,000 flows, nothing lost", usize::MAX), ("every tenth lost", 10)] {
        let Ok(mut traffic) = traffic(true, Protocol::Udp, Plan::Some(1000, Choice::Sequential), "64") else {
            return;
        };
        let mut sink = Sink::new(None);
        let mut buffers = vec![vec![0u8; 128]; PACKETS];
        group.bench_function(name, |b| {
            b.iter(|| {
                for (at, buffer) in buffers.iter_mut().enumerate() {
                    traffic.write(1, buffer);
                    if at % lose != 1 {
                        sink.packet(black_box(buffer), 60, 5000);
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, write, sink);
criterion_main!(benches);
