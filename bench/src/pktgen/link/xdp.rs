//! Sending and receiving over AF_XDP. Memory is registered with the device's own sockets, so several of these may live in one
//! network namespace, beside a gateway too.
//!
//! The transmitter has exactly as many frames as its ring has entries: a frame to write is room in the ring. It receives
//! nothing, so its frames hold what it wrote itself, and zeros. The receiver's program goes with the process, however it ends.

use af_xdp::{
    Attachment, CHUNK_ROOM, Error, FrameChain, FramePool, Interface, Kick, Region, Socket, SocketConfig,
    Steering,
};
use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use super::super::stamp::now_ns;
use super::Flushed;

/// Packets on their way at most; the size of the transmit rings.
const TRANSMIT_RING: u32 = 2048;
/// Packets that wait for the sink at most, for each queue.
const RECEIVE_RING: u32 = 4096;
/// Entries of rings that are not used; the kernel wants them.
const NO_RING: u32 = 64;
/// Frames of the longest packet.
const MOST_FRAMES: usize = super::LONGEST.div_ceil(CHUNK_ROOM);
/// Packets taken out of a queue at once.
const BATCH: usize = 64;

/// The sending end.
pub struct XdpTransmitter {
    socket: Socket,
    pool: FramePool,
    region: Region,
}

impl XdpTransmitter {
    pub(super) fn open(interface: &Interface) -> Result<Self, Error> {
        let (region, mut ledger) = Region::new(TRANSMIT_RING + NO_RING)?;
        let mut pool = ledger.pool((TRANSMIT_RING + NO_RING) as usize);
        let config = SocketConfig {
            receive: NO_RING,
            transmit: TRANSMIT_RING,
            fill: NO_RING,
            completion: TRANSMIT_RING,
            tx_budget: 256,
        };
        let socket = Socket::open_alone(&region, interface, 0, &config, &mut pool)?;
        Ok(Self { socket, pool, region })
    }

    #[inline]
    pub(super) fn burst(&mut self, want: usize, mut fill: impl FnMut(&mut [u8]) -> usize) -> usize {
        self.socket.complete(&mut self.pool);
        let mut done = 0;
        while done < want {
            // Looked at before a packet is numbered: one that could not go would be taken for lost.
            if self.pool.len() < MOST_FRAMES {
                break;
            }
            let Some(mut frame) = self.pool.take() else { break };
            let _ = frame.set_len(CHUNK_ROOM);
            let length = fill(self.region.data_mut(&mut frame));
            let _ = frame.set_len(length.min(CHUNK_ROOM));
            let mut chain = FrameChain::single(frame);
            if length == 0 || (length > CHUNK_ROOM && !self.lengthen(&mut chain, length - CHUNK_ROOM)) {
                self.pool.put_chain(chain);
                break;
            }
            if let Err(refused) = self.socket.transmit(chain, None) {
                self.pool.put_chain(refused.chain);
                break;
            }
            done += 1;
        }
        done
    }

    /// Adds frames of zeros. False if there are too few.
    #[cold]
    fn lengthen(&mut self, chain: &mut FrameChain, mut more: usize) -> bool {
        while more > 0 {
            let Some(mut frame) = self.pool.take() else { return false };
            let part = more.min(CHUNK_ROOM);
            let _ = frame.set_len(part);
            // It may have been the first of a packet before.
            self.region.data_mut(&mut frame).fill(0);
            if let Err(frame) = chain.push(&self.region, frame) {
                self.pool.put(frame);
                return false;
            }
            more -= part;
        }
        true
    }

    #[inline]
    pub(super) fn flush(&mut self) -> Result<Flushed> {
        let kicked = self.socket.kick_tx();
        let name = self.socket.interface().name();
        match kicked {
            Kick::Done | Kick::Again => Ok(Flushed::Fine),
            Kick::Down => Ok(Flushed::Down),
            Kick::Gone => bail!("interface {name}: the device was deleted"),
            Kick::Failed(errno) => {
                bail!("interface {name}: sending: {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// Longest packet that the kernel takes.
    pub(super) fn longest(&self) -> usize {
        if self.socket.abilities().multi_buffer { super::LONGEST } else { CHUNK_ROOM }
    }

    pub(super) fn pending(&mut self) -> u64 {
        self.socket.complete(&mut self.pool);
        self.socket.transmit_pending().into()
    }
}

/// The receiving end: a socket on every queue.
pub struct XdpReceiver {
    sockets: Vec<Socket>,
    attachment: Option<Attachment>,
    pool: FramePool,
    region: Region,
}

impl XdpReceiver {
    pub(super) fn open(interface: &Interface) -> Result<Self, Error> {
        let queues = interface.rx_queues()?;
        let (region, mut ledger) = Region::new(queues.saturating_mul(2 * RECEIVE_RING))?;
        let mut pool = ledger.pool(region.chunks() as usize);
        let config = SocketConfig {
            receive: RECEIVE_RING,
            transmit: NO_RING,
            fill: RECEIVE_RING,
            completion: NO_RING,
            tx_budget: 32,
        };
        let mut sockets = vec![Socket::open_alone(&region, interface, 0, &config, &mut pool)?];
        for queue in 1..queues {
            let Some(first) = sockets.first() else { break };
            sockets.push(first.open_beside(queue, &config, &mut pool)?);
        }
        let attachment = Some(Attachment::attach(interface, Steering::Everything, &sockets, None)?);
        Ok(Self { sockets, attachment, pool, region })
    }

    pub(super) fn queues(&self) -> usize {
        self.sockets.len()
    }

    #[inline]
    pub(super) fn receive(&mut self, mut sink: impl FnMut(u64, &[u8], usize)) -> usize {
        let mut all = 0;
        let Self { sockets, pool, region, .. } = self;
        for socket in sockets {
            // Each queue by its own clock: what the next one has may have been sent meanwhile.
            let mut now = 0;
            all += socket.receive(BATCH, |packet| {
                if now == 0 {
                    now = now_ns();
                }
                sink(now, packet.data(region), packet.total_len());
                pool.put_chain(packet);
            });
            socket.refill(pool);
        }
        all
    }

    pub(super) fn wait(&mut self, milliseconds: u16) -> Result<()> {
        let mut waiting: Vec<PollFd<'_>> =
            self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut waiting, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn answer(&mut self, frame: &[u8]) {
        let Some(socket) = self.sockets.first_mut() else { return };
        socket.complete(&mut self.pool);
        let Some(chain) = self.pool.copy_in(frame) else { return };
        if let Err(refused) = socket.transmit(chain, None) {
            self.pool.put_chain(refused.chain);
        }
        let _ = socket.kick_tx();
    }

    pub(super) fn lost(&self) -> Result<u64> {
        let mut lost = 0;
        for socket in &self.sockets {
            let statistics = socket.statistics()?;
            lost += statistics.rx_dropped + statistics.rx_ring_full;
        }
        Ok(lost)
    }

    /// Closes the sockets but leaves the program, which drops what arrives: the cheapest sink there is, for the device's
    /// counters to count.
    #[must_use]
    pub fn into_drop(mut self) -> Option<Attachment> {
        self.sockets.drain(..).for_each(|socket| drop(socket.close()));
        self.attachment.take()
    }
}
