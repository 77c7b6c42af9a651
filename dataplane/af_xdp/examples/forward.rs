//! A bare forwarder: every packet that comes in at one interface leaves by the other. No policy, no addresses, no ARP: like a
//! cable, and the baseline against which a gateway is measured.
//!
//! ```text
//! ip link add anchor0 type veth peer name anchor1        # anchors the packet memory, carries nothing
//! cargo run --release -p af_xdp --example forward -- anchor0 vethA vethB [--swap-macs] [--software] [--seconds N]
//! ```
//!
//! `vethA` and `vethB` are the host's ends of two veth pairs. It spins on one core, so give it one of its own
//! (`taskset -c 1`). Needs CAP_NET_RAW, CAP_BPF and CAP_NET_ADMIN. At the end it prints what it moved.

mod checksum;

use std::time::{Duration, Instant};

use af_xdp::{
    Attachment, FramePool, Interface, Kick, Region, Socket, SocketConfig, Steering, Umem, open_all,
};

type Failure = Box<dyn std::error::Error>;

/// Packets taken out of a ring at once.
const BATCH: usize = 64;

struct Options {
    anchor: String,
    interfaces: [String; 2],
    swap_macs: bool,
    software: bool,
    seconds: Option<u64>,
}

fn options() -> Result<Options, Failure> {
    let usage = "usage: forward ANCHOR INTERFACE INTERFACE [--swap-macs] [--software] [--seconds N]";
    let mut names = Vec::new();
    let (mut swap_macs, mut software, mut seconds) = (false, false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--swap-macs" => swap_macs = true,
            "--software" => software = true,
            "--seconds" => seconds = Some(arguments.next().ok_or(usage)?.parse()?),
            name if !name.starts_with("--") => names.push(name.to_owned()),
            _ => return Err(usage.into()),
        }
    }
    let [anchor, first, second] = <[String; 3]>::try_from(names).map_err(|_| usage)?;
    Ok(Options { anchor, interfaces: [first, second], swap_macs, software, seconds })
}

/// One side: a device with a socket on every receive queue. The attachment keeps the program in place.
struct Side {
    sockets: Vec<Socket>,
    attachment: Attachment,
}

fn open(name: &str, umem: &Umem, pool: &mut FramePool) -> Result<Side, Failure> {
    let interface = Interface::by_name(name)?;
    let sockets = open_all(umem, &interface, false, &SocketConfig::default(), pool)?;
    let attachment = Attachment::attach(&interface, Steering::Everything, &sockets, None)?;
    println!("{name}: {} queue(s), {:?}", sockets.len(), sockets[0].abilities());
    Ok(Side { sockets, attachment })
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    let (region, mut ledger) = Region::new(32 * 1024)?;
    let mut pool = ledger.pool(region.chunks() as usize);
    let umem = Umem::register(&region, &Interface::by_name(&options.anchor)?, 0)?;
    println!("huge pages: {}; {}", region.huge_pages(), umem.features());
    let [first, second] = &options.interfaces;
    let mut sides = [open(first, &umem, &mut pool)?, open(second, &umem, &mut pool)?];

    let mut counters = Counters::default();
    let start = Instant::now();
    let end = options.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let mut batch = Vec::with_capacity(BATCH);
    while end.is_none_or(|end| Instant::now() < end) {
        for _ in 0..256 {
            let [first, second] = &mut sides;
            turn(first, second, &region, &options, &mut pool, &mut batch, &mut counters);
            turn(second, first, &region, &options, &mut pool, &mut batch, &mut counters);
        }
    }
    let rate = counters.forwarded as f64 / start.elapsed().as_secs_f64();
    println!("{counters:?}: {:.3} million packets a second", rate / 1e6);
    for Side { sockets, attachment } in sides {
        println!("{}: {:?}", attachment.interface().name(), sockets[0].statistics()?);
        attachment.detach()?;
        sockets.into_iter().for_each(|socket| ledger.give_back(socket.close()));
    }
    ledger.give_back_pool(pool);
    println!("frames back: {} of {}", ledger.free(), ledger.total());
    Ok(())
}

#[derive(Debug, Default)]
struct Counters {
    forwarded: u64,
    dropped: u64,
}

/// Moves what has arrived at `from` to `to`, and does both sides' bookkeeping.
fn turn(
    from: &mut Side,
    to: &mut Side,
    region: &Region,
    options: &Options,
    pool: &mut FramePool,
    batch: &mut Vec<af_xdp::FrameChain>,
    counters: &mut Counters,
) {
    for (queue, socket) in from.sockets.iter_mut().enumerate() {
        socket.complete(pool);
        socket.receive(BATCH, |packet| batch.push(packet));
        socket.refill(pool);
        let out = queue % to.sockets.len();
        let Some(out) = to.sockets.get_mut(out) else { return };
        if batch.is_empty() && out.transmit_pending() == 0 {
            continue;
        }
        for mut packet in batch.drain(..) {
            let mut request = checksum::partial(&packet, region);
            if (options.software || !out.abilities().tx_checksum)
                && let Some(at) = request.take()
            {
                checksum::complete(&mut packet, region, at);
            }
            if options.swap_macs {
                swap_macs(packet.data_mut(region));
            }
            match out.transmit(packet, request) {
                Ok(()) => counters.forwarded += 1,
                Err(refused) => {
                    counters.dropped += 1;
                    pool.put_chain(refused.chain);
                }
            }
        }
        if let Kick::Gone | Kick::Failed(_) = out.kick_tx() {
            counters.dropped += 1;
        }
    }
}

/// Sends a frame back to where it came from.
fn swap_macs(frame: &mut [u8]) {
    if let Some((destination, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some((source, _)) = rest.split_first_chunk_mut::<6>()
    {
        std::mem::swap(destination, source);
    }
}
