//! AF_XDP sockets over `libc`: memory region, rings, sockets, steering programs. No C, no libbpf, no build step.
//!
//! | module | what it is |
//! |---|---|
//! | [`region`] | all packet memory, one memfd in chunks of 4096 bytes |
//! | [`frame`] | the owner of a chunk, and chains of frames that are a packet |
//! | [`pool`] | where free frames wait |
//! | [`error`] | what can go wrong and what to do about it |
//!
//! **Ownership.** Every chunk of the region has exactly one owner at any time: a [`Frame`] value, or a socket that holds
//! it in one of its rings. Frames can't be copied, so use after transmission does not compile.

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
pub use interface::Interface;
pub use pool::{FrameLedger, FramePool};
pub use queues::{Abilities, Faults, Queues, Refusal, Refused, TxChecksum};
pub use region::{CHUNK_ROOM, CHUNK_SIZE, HEADROOM, MAX_CHUNKS, Region};
pub use socket::{Kick, Socket, SocketConfig, Statistics, open_all};
pub use umem::Umem;
