//! What a frame says, read by the tests themselves and not by the code under test.

use std::net::IpAddr;

const ETHERNET: usize = 14;

/// Addresses, protocol and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// After IPv6 extension headers.
    pub protocol: u8,
    /// (0, 0) where there are none.
    pub ports: (u16, u16),
    /// Where the transport header starts, from the start of the frame.
    pub transport: usize,
    /// Length of the frame without what follows the packet.
    pub length: usize,
}

impl Facts {
    /// Of a frame with an IP packet that is all there.
    pub fn of(frame: &[u8]) -> Option<Self> {
        matches!(frame.get(12..14)?, [0x08, 0x00] | [0x86, 0xdd]).then_some(())?;
        let mut facts = Self::of_ip(&frame[ETHERNET..])?;
        facts.transport += ETHERNET;
        facts.length += ETHERNET;
        Some(facts)
    }

    /// Of an IP packet, of which the end may be missing.
    fn of_ip(ip: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes(ip.get(at..at + 2)?.try_into().ok()?));
        let (source, destination): (IpAddr, IpAddr);
        let (mut protocol, mut transport, length);
        if ip.first()? >> 4 == 4 {
            source = <[u8; 4]>::try_from(ip.get(12..16)?).ok()?.into();
            destination = <[u8; 4]>::try_from(ip.get(16..20)?).ok()?.into();
            (protocol, transport, length) = (ip[9], usize::from(ip[0] & 15) * 4, word(2)?.into());
        } else {
            source = <[u8; 16]>::try_from(ip.get(8..24)?).ok()?.into();
            destination = <[u8; 16]>::try_from(ip.get(24..40)?).ok()?.into();
            (protocol, transport, length) = (ip[6], 40, 40 + usize::from(word(4)?));
            while matches!(protocol, 0 | 43 | 60) {
                let next = ip.get(transport..transport + 2)?;
                protocol = next[0];
                transport += 8 * (1 + usize::from(next[1]));
            }
        }
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let ports = if has_ports { (word(transport)?, word(transport + 2)?) } else { (0, 0) };
        Some(Self { source, destination, protocol, ports, transport, length })
    }

    /// Of the packet that a frame with an ICMP error quotes.
    pub fn quoted(&self, frame: &[u8]) -> Option<Self> {
        let kind = *frame.get(self.transport)?;
        let is_error = match self.protocol {
            1 => matches!(kind, 3 | 4 | 11 | 12),
            58 => kind < 128,
            _ => false,
        };
        is_error.then(|| Self::of_ip(frame.get(self.transport + 8..)?))?
    }
}

/// Addresses and protocol number of a frame that may be anything, as far as its IP header is there. For IPv6 the protocol is
/// that of the first header.
pub fn glimpse(head: &[u8]) -> Option<(IpAddr, IpAddr, u8)> {
    let ip = head.get(ETHERNET..)?;
    match head[12..14] {
        [0x08, 0x00] if ip.len() >= 20 => {
            let address = |at| <[u8; 4]>::try_from(&ip[at..at + 4]).unwrap().into();
            Some((address(12), address(16), ip[9]))
        }
        [0x86, 0xdd] if ip.len() >= 40 => {
            let address = |at| <[u8; 16]>::try_from(&ip[at..at + 16]).unwrap().into();
            Some((address(8), address(24), ip[6]))
        }
        _ => None,
    }
}
