//! Sending and receiving over AF_PACKET, in batches by sendmmsg and recvmmsg.
//!
//! A packet socket sees copies: the kernel's stack gets the packets as well. What the socket's buffer had no room for is
//! counted by the kernel and told with the packets that follow (`SO_RXQ_OVFL`); after a loss without a packet behind it the
//! count is short by that.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, LinkAddr, MsgFlags, MultiHeaders, SockFlag,
    SockProtocol, SockType, bind, recvmmsg, sendmmsg, setsockopt, socket, sockopt,
};

use super::super::stamp::now_ns;

/// Bytes of a buffer: every frame fits.
const ROOM: usize = super::LONGEST;
/// Packets of one call.
const BATCH: usize = 64;
/// Bytes that wait in the kernel at most.
const KERNEL_BUFFER: usize = 64 << 20;
/// `PACKET_OUTGOING`, include/uapi/linux/if_packet.h: a copy of what this machine sends.
const OUTGOING: u8 = 4;

fn open(link: LinkAddr) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .context("socket(AF_PACKET); it needs CAP_NET_RAW")?;
    bind(fd.as_raw_fd(), &link).context("bind of a packet socket")?;
    Ok(fd)
}

/// The sending end.
pub struct PacketTransmitter {
    fd: OwnedFd,
    buffers: Vec<Vec<u8>>,
    /// Lengths of packets that were written and wait, from `first` on.
    lengths: Vec<usize>,
    first: usize,
}

impl PacketTransmitter {
    pub(super) fn open(link: LinkAddr) -> Result<Self> {
        let fd = open(link)?;
        // Nothing is received here; a small buffer fills up and costs nothing more.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &4096);
        let _ = setsockopt(&fd, sockopt::SndBufForce, &KERNEL_BUFFER);
        Ok(Self { fd, buffers: vec![vec![0; ROOM]; BATCH], lengths: Vec::new(), first: 0 })
    }

    /// Packets the kernel does not take now wait in their buffers and count as sent: the next call sends them first.
    pub(super) fn burst(&mut self, want: usize, mut fill: impl FnMut(&mut [u8]) -> usize) -> Result<usize> {
        let mut done = 0;
        while self.drain()? && done < want {
            for buffer in self.buffers.iter_mut().take(want - done) {
                let length = fill(buffer);
                if length == 0 {
                    break;
                }
                self.lengths.push(length.min(ROOM));
            }
            if self.lengths.is_empty() {
                break;
            }
            done += self.lengths.len();
        }
        Ok(done)
    }

    pub(super) fn pending(&self) -> u64 {
        (self.lengths.len() - self.first) as u64
    }

    /// Sends what waits. False if some still does.
    fn drain(&mut self) -> Result<bool> {
        while self.first < self.lengths.len() {
            let waiting = self.buffers.iter().zip(&self.lengths).skip(self.first);
            let slices: Vec<[IoSlice<'_>; 1]> = waiting
                .map(|(buffer, length)| [IoSlice::new(buffer.get(..*length).unwrap_or(buffer))])
                .collect();
            let nobody = [None::<LinkAddr>; BATCH];
            let none: [ControlMessage<'_>; 0] = [];
            let mut headers = MultiHeaders::preallocate(slices.len(), None);
            let sent =
                sendmmsg(self.fd.as_raw_fd(), &mut headers, &slices, nobody, none, MsgFlags::MSG_DONTWAIT);
            match sent.map(Iterator::count) {
                Ok(0) => return Ok(false),
                Ok(sent) => self.first += sent,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR | Errno::ENETDOWN) => return Ok(false),
                Err(error) => {
                    return Err(super::gone(io::Error::from(error), "sending over a packet socket"));
                }
            }
        }
        self.first = 0;
        self.lengths.clear();
        Ok(true)
    }
}

/// The receiving end.
pub struct PacketReceiver {
    fd: OwnedFd,
    buffers: Vec<Vec<u8>>,
    index: usize,
    lost: u64,
}

impl PacketReceiver {
    pub(super) fn open(link: LinkAddr) -> Result<Self> {
        let fd = open(link)?;
        setsockopt(&fd, sockopt::RcvBufForce, &KERNEL_BUFFER)
            .context("SO_RCVBUFFORCE; it needs CAP_NET_ADMIN")?;
        setsockopt(&fd, sockopt::RxqOvfl, &1).context("SO_RXQ_OVFL")?;
        Ok(Self { fd, buffers: vec![vec![0; ROOM]; BATCH], index: link.ifindex(), lost: 0 })
    }

    pub(super) fn receive(&mut self, mut sink: impl FnMut(u64, &[u8], usize)) -> Result<usize> {
        // Made anew each time: the kernel writes lengths into the headers that the next call would take for room.
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, Some(cmsg_space!(u32)));
        let mut arrived = [(0, false); BATCH];
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received =
            recvmmsg(self.fd.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        let mut count = 0;
        match received {
            Ok(messages) => {
                for (message, entry) in messages.zip(&mut arrived) {
                    for control in message.cmsgs().into_iter().flatten() {
                        if let ControlMessageOwned::RxqOvfl(lost) = control {
                            self.lost = u64::from(lost);
                        }
                    }
                    // Between its making and its bind the socket heard all devices.
                    let ours = message
                        .address
                        .is_some_and(|from| from.ifindex() == self.index && from.pkttype() != OUTGOING);
                    *entry = (message.bytes, ours);
                    count += 1;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(0),
            Err(error) => return Err(super::gone(io::Error::from(error), "receiving from a packet socket")),
        }
        let now = now_ns();
        for (buffer, (length, _)) in
            self.buffers.iter().zip(arrived).take(count).filter(|(_, (_, ours))| *ours)
        {
            sink(now, buffer.get(..length).unwrap_or(buffer), length);
        }
        Ok(count)
    }

    pub(super) fn wait(&mut self, milliseconds: u16) -> Result<()> {
        let mut waiting = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(milliseconds)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn answer(&mut self, frame: &[u8]) {
        let _ = nix::unistd::write(&self.fd, frame);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}
