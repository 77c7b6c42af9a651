//! Capture files: read for replay, written by the sink.
//!
//! The classic format of libpcap with Ethernet frames (link type 1), either byte order, microseconds or nanoseconds; pcapng is
//! refused with the command that converts it. A file is read whole: replay waits for no disk.

use std::io::{self, Write};

/// Longest packet that is read or written.
const SNAP_LENGTH: usize = 65_535;
const ETHERNET: u32 = 1;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// When, in nanoseconds of the capture's clock.
    pub time_ns: u64,
    /// Its bytes, of which the capture may have only the first.
    pub bytes: Vec<u8>,
}

/// The packets of a file. What is wrong is said as "expected ...", or with the number of the record.
///
/// # Errors
/// If it is no such file, or a record is damaged.
pub fn read(file: &[u8]) -> Result<Vec<Captured>, String> {
    let magic = || "expected a classic pcap file (editcap -F pcap IN OUT converts others)".to_owned();
    let (header, mut rest) = file.split_at_checked(24).ok_or_else(magic)?;
    let first = header.first_chunk().copied().unwrap_or_default();
    let (big, nanoseconds) = match (u32::from_be_bytes(first), u32::from_le_bytes(first)) {
        (0xa1b2_c3d4, _) => (true, false),
        (NANOSECONDS, _) => (true, true),
        (_, 0xa1b2_c3d4) => (false, false),
        (_, NANOSECONDS) => (false, true),
        _ => return Err(magic()),
    };
    let number = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
        if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    if number(header, 20) & 0xffff != ETHERNET {
        return Err(format!("link type {}, expected 1 (Ethernet)", number(header, 20) & 0xffff));
    }
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let damaged =
            || format!("record {} is cut off or longer than {SNAP_LENGTH} bytes", packets.len() + 1);
        let (head, body) = rest.split_at_checked(16).ok_or_else(damaged)?;
        let length = number(head, 8) as usize;
        let (bytes, after) =
            body.split_at_checked(length).filter(|_| length <= SNAP_LENGTH).ok_or_else(damaged)?;
        let fraction = u64::from(number(head, 4)) * if nanoseconds { 1 } else { 1000 };
        packets.push(Captured {
            time_ns: u64::from(number(head, 0)) * 1_000_000_000 + fraction,
            bytes: bytes.to_vec(),
        });
        rest = after;
    }
    Ok(packets)
}

/// Writes a file, with nanoseconds.
pub struct Writer<W: Write> {
    out: W,
    left: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file of at most so many packets.
    ///
    /// # Errors
    /// Of the writer.
    pub fn new(mut out: W, most: u64) -> io::Result<Self> {
        out.write_all(&NANOSECONDS.to_le_bytes())?;
        out.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        out.write_all(&(SNAP_LENGTH as u32).to_le_bytes())?;
        out.write_all(&ETHERNET.to_le_bytes())?;
        Ok(Self { out, left: most })
    }

    /// Adds a packet of which `bytes` are the first of `length`; nothing once there are enough.
    ///
    /// # Errors
    /// Of the writer.
    pub fn packet(&mut self, time_ns: u64, bytes: &[u8], length: usize) -> io::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let bytes = bytes.get(..SNAP_LENGTH).unwrap_or(bytes);
        let numbers = [time_ns / 1_000_000_000, time_ns % 1_000_000_000, bytes.len() as u64, length as u64];
        for number in numbers {
            self.out.write_all(&(number as u32).to_le_bytes())?;
        }
        self.out.write_all(bytes)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(packets in proptest::collection::vec((0u64..(1 << 61), proptest::collection::vec(any::<u8>(), 0..200)), 0..20)) {
            let mut file = Vec::new();
            let mut writer = Writer::new(&mut file, 1000).unwrap();
            let expected: Vec<Captured> = packets
                .into_iter()
                .map(|(time_ns, bytes)| Captured { time_ns: time_ns % (1_000_000_000 << 32), bytes })
                .collect();
            for Captured { time_ns, bytes } in &expected {
                writer.packet(*time_ns, bytes, bytes.len()).unwrap();
            }
            writer.finish().unwrap();
            prop_assert_eq!(read(&file).unwrap(), expected);
            // Cut anywhere else than between records, it is refused.
            let cut = file.len() - 1;
            if file.len() > 24 {
                prop_assert!(read(&file[..cut]).is_err());
            }
        }

        #[test]
        fn no_file_makes_it_panic(mut file in proptest::collection::vec(any::<u8>(), 0..200), valid: bool) {
            if valid && file.len() > 24 {
                file[..4].copy_from_slice(&NANOSECONDS.to_be_bytes());
                file[20..24].copy_from_slice(&ETHERNET.to_be_bytes());
            }
            let _ = read(&file);
        }
    }

    #[test]
    fn either_byte_order_and_resolution() {
        for (magic, big, fraction) in [
            (0xa1b2_c3d4u32, true, 7000),
            (0xa1b2_c3d4, false, 7000),
            (NANOSECONDS, true, 7),
            (NANOSECONDS, false, 7),
        ] {
            let number = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
            let mut file: Vec<u8> = number(magic).to_vec();
            file.extend([0; 16]);
            file.extend(number(1));
            file.extend([number(2), number(7), number(3), number(60)].concat());
            file.extend(b"abc");
            let expected = Captured { time_ns: 2_000_000_000 + fraction, bytes: b"abc".to_vec() };
            assert_eq!(read(&file), Ok(vec![expected]));
        }
        assert!(read(b"\n\r\r\n").unwrap_err().contains("expected a classic pcap file"));
    }

    #[test]
    fn no_more_packets_than_asked_for() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 1).unwrap();
        writer.packet(1, b"a", 1).unwrap();
        writer.packet(2, b"b", 1).unwrap();
        assert_eq!(read(&file).unwrap().len(), 1);
    }
}
