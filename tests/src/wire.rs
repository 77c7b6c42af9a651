//! Frames put on a pod's wire by hand, and frames taken from it: what no ordinary client sends.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recvmsg, send,
    socket,
};
use podgate_control::netlink::Namespace;

/// A packet socket on an interface inside a namespace.
pub struct Wire {
    socket: OwnedFd,
    /// The interface's own MAC address.
    pub mac: [u8; 6],
}

impl Wire {
    /// On `eth0` of a namespace.
    ///
    /// # Panics
    /// If there is no such namespace or interface.
    #[must_use]
    pub fn open(netns: &str) -> Self {
        Namespace::open(netns).expect(netns).run(Self::open_here).expect(netns)
    }

    fn open_here() -> Self {
        let link: LinkAddr = getifaddrs()
            .expect("interfaces")
            .filter(|address| address.interface_name == "eth0")
            .find_map(|address| address.address.and_then(|address| address.as_link_addr().copied()))
            .expect("eth0");
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("packet socket");
        bind(socket.as_raw_fd(), &link).expect("bind");
        assert_eq!(link.family(), Some(AddressFamily::Packet));
        Self { socket, mac: link.addr().expect("a MAC address") }
    }

    /// Sends a whole Ethernet frame.
    ///
    /// # Panics
    /// If the kernel refuses it.
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).expect("send");
        assert_eq!(sent, frame.len());
    }

    /// Whether a frame that `wanted` says yes to is seen within `patience`.
    ///
    /// # Panics
    /// If the kernel fails.
    pub fn sees(&self, patience: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
        let end = Instant::now() + patience;
        let mut buffer = vec![0u8; 65_536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => panic!("poll: {error}"),
            }
            let mut slices = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut slices, None, MsgFlags::MSG_DONTWAIT) {
                Ok(message) => {
                    let count = message.bytes;
                    if wanted(&buffer[..count]) {
                        return true;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => panic!("recvmsg: {error}"),
            }
        }
    }
}

/// CRC32c (Castagnoli) of an SCTP packet whose checksum field is zero, as it goes into that field (RFC 9260).
#[must_use]
pub fn sctp_checksum(packet: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in packet {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).to_le_bytes()
}

/// An SCTP packet with one INIT chunk.
#[must_use]
pub fn sctp_init(source_port: u16, destination_port: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(source_port.to_be_bytes());
    packet.extend(destination_port.to_be_bytes());
    packet.extend([0; 8]); // verification tag 0, checksum
    packet.extend([1, 0, 0, 20]); // INIT, no flags, length
    packet.extend(0x1234_5678_u32.to_be_bytes()); // initiate tag
    packet.extend(65_536_u32.to_be_bytes()); // receiver window
    packet.extend([0, 1, 0, 1]); // one stream each way
    packet.extend(1_u32.to_be_bytes()); // initial TSN
    let checksum = sctp_checksum(&packet);
    packet[8..12].copy_from_slice(&checksum);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720 B.4: 32 bytes of zeros.
        assert_eq!(sctp_checksum(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(sctp_checksum(b"123456789"), 0xe306_9283_u32.to_le_bytes());
    }
}
