//! AF_XDP sockets over `libc`: memory region, rings, sockets, steering programs. No C, no libbpf, no build step.
//!
//! For programs that take packets off a device before the kernel's network stack sees them, and put packets on it: gateways,
//! generators, probes. Forwarding between two devices is, in short:
//!
//! ```no_run
//! use af_xdp::{Attachment, Interface, Region, SocketConfig, Steering, Umem, open_all};
//!
//! # fn main() -> Result<(), af_xdp::Error> {
//! let (region, mut ledger) = Region::new(16 * 1024)?;      // all packet memory, 64 MiB
//! let mut pool = ledger.pool(region.chunks() as usize);    // this worker's free frames
//! let umem = Umem::register(&region, &Interface::by_name("anchor0")?, 0)?;
//!
//! let config = SocketConfig::default();
//! let (a, b) = (Interface::by_name("vethA")?, Interface::by_name("vethB")?);
//! let mut a_sockets = open_all(&umem, &a, false, &config, &mut pool)?;
//! let mut b_sockets = open_all(&umem, &b, false, &config, &mut pool)?;
//! let _a_stays = Attachment::attach(&a, Steering::Everything, &a_sockets, None)?;
//! let _b_stays = Attachment::attach(&b, Steering::Everything, &b_sockets, None)?;
//!
//! let (from, to) = (&mut a_sockets[0], &mut b_sockets[0]); // and the same the other way round
//! loop {
//!     let mut refused = Vec::new();
//!     from.receive(64, |packet| refused.extend(to.transmit(packet, None).err()));
//!     refused.into_iter().for_each(|refused| pool.put_chain(refused.chain));
//!     to.kick_tx();
//!     to.complete(&mut pool);
//!     from.refill(&mut pool);
//! }
//! # }
//! ```
//!
//! `examples/forward.rs` is the whole of it, with checksums and several queues.
//!
//! | module | what it is |
//! |---|---|
//! | [`region`] | all packet memory, one memfd in chunks of 4096 bytes |
//! | [`frame`] | the owner of a chunk, and chains of frames that are a packet |
//! | [`pool`] | where free frames wait: a worker's pool, the ledger of all frames |
//! | [`cursor`] | positions in a ring, arithmetic only |
//! | [`ring`] | rings in shared memory, the kernel's or in-memory pairs |
//! | [`queues`] | the four rings of a socket and the account of frames in them, without a socket |
//! | [`twin`] | the kernel's side of these rings in memory, for tests |
//! | [`umem`] | registration of a region, and the socket that anchors it |
//! | [`socket`] | a bound socket: queues and the system calls |
//! | [`interface`] | devices and their active receive queues |
//! | [`bpf`] | bpf(2), the steering programs, pins, the bpf file system |
//! | [`attach`] | putting a program on a device whose every queue has a socket |
//! | [`features`] | what the kernel offers, found out by trying |
//! | [`error`] | what can go wrong and what to do about it |
//!
//! **Ownership.** Every chunk of the region has exactly one owner at any time: a [`Frame`] value (alone, in a
//! [`FrameChain`] or a [`FramePool`]), or a socket that holds it in one of its rings. Frames can't be copied, so use after
//! transmission does not compile; what the kernel hands back is checked against the account of what it was given. Closing
//! a socket gives back all it held, so after closing everything the [`FrameLedger`] is full again.
//!
//! **Threads.** Everything is `Send`; a socket or a pool is used by one thread at a time. The packet path (receive, refill,
//! transmit, complete) neither allocates nor locks, and its only system call is the transmit kick. Opening, attaching,
//! closing and detaching take milliseconds: do them elsewhere.
//!
//! **Rights.** Sockets need CAP_NET_RAW; programs, maps and links CAP_BPF and CAP_NET_ADMIN; a region over RLIMIT_MEMLOCK
//! CAP_IPC_LOCK. Everything is done in the network namespace of the calling thread.
//!
//! **Kernel.** Linux 5.9 for the link, 5.18 for multi-buffer programs, 6.6 for multi-buffer sockets, 6.11 for checksum
//! offload on transmission, 6.16 for a transmit budget. What is missing is found out by trying and told in [`Features`].

#![warn(unreachable_pub)]

pub mod attach;
pub mod bpf;
pub mod cursor;
pub mod error;
pub mod features;
pub mod frame;
mod if_xdp;
pub mod interface;
mod mmap;
pub mod pool;
pub mod queues;
pub mod region;
pub mod ring;
pub mod socket;
pub mod twin;
pub mod umem;

pub use attach::Attachment;
pub use bpf::Pins;
pub use bpf::steering::Steering;
pub use error::Error;
pub use features::Features;
pub use frame::{Frame, FrameChain, MAX_CHAIN, Slices};
pub use interface::{ActiveQueues, Interface, Offload};
pub use pool::{FrameLedger, FramePool};
pub use queues::{Abilities, Faults, Queues, Refusal, Refused, TxChecksum};
pub use region::{CHUNK_ROOM, CHUNK_SIZE, HEADROOM, MAX_CHUNKS, Region};
pub use socket::{Kick, Socket, SocketConfig, Statistics, open_all};
pub use umem::Umem;

/// What moves between threads: sockets and pools to their worker, frames in chains.
const _: () = {
    const fn send<T: Send>() {}
    const fn sync<T: Sync>() {}
    send::<Socket>();
    send::<FramePool>();
    send::<FrameChain>();
    send::<twin::Wire>();
    send::<Attachment>();
    sync::<Attachment>();
    send::<Umem>();
    sync::<Umem>();
    send::<Region>();
    sync::<Region>();
};
