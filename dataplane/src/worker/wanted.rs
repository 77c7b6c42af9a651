//! Neighbours whose MAC address packets wanted, on their way to the control side.
//!
//! A pod may send to every address of a network, as fast as it can. So a neighbour is asked for once until the control side
//! has taken all there is, and one port may ask for a quarter of what the ring has room for: a pod that scans a network
//! does not keep what others look for from being found. What finds no room is asked for again by its sender's next packet.

use crate::packet::PortId;

/// Room for so many.
const ROOM: usize = 64;

/// And for so many of one port.
const ROOM_PER_PORT: usize = ROOM / 4;

/// A neighbour whose MAC address a packet wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unresolved {
    /// The uplink that it is behind.
    pub port: PortId,
    /// Its address.
    pub neighbour: std::net::IpAddr,
    /// The port that the packet came by.
    pub asker: PortId,
}

/// A worker's end.
pub(super) struct Wanted {
    ring: rtrb::Producer<Unresolved>,
    /// What was asked for since the ring was empty last.
    asked: Vec<Unresolved>,
}

/// A ring to the control side.
pub(super) fn ring() -> (Wanted, rtrb::Consumer<Unresolved>) {
    let (ring, consumer) = rtrb::RingBuffer::new(ROOM);
    (Wanted { ring, asked: Vec::with_capacity(ROOM) }, consumer)
}

impl Wanted {
    /// A packet wants this neighbour.
    pub fn ask(&mut self, wanted: Unresolved) {
        if self.ring.slots() == ROOM {
            self.asked.clear();
        }
        let is_same = |asked: &Unresolved| (asked.port, asked.neighbour) == (wanted.port, wanted.neighbour);
        let of_port = self.asked.iter().filter(|asked| asked.asker == wanted.asker).count();
        let has_room = self.asked.len() < ROOM && of_port < ROOM_PER_PORT;
        if has_room && !self.asked.iter().any(is_same) && self.ring.push(wanted).is_ok() {
            self.asked.push(wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(asker: u16, number: u32) -> Unresolved {
        let neighbour = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into();
        Unresolved { port: PortId(9), neighbour, asker: PortId(asker) }
    }

    #[test]
    fn who_scans_leaves_room_for_others() {
        let (mut worker, mut control) = ring();
        for _ in 0..3 {
            (0..1000).for_each(|number| worker.ask(wanted(1, number)));
            worker.ask(wanted(2, 2000));
            (0..10).for_each(|_| worker.ask(wanted(2, 2001)));
            worker.ask(wanted(3, 5));
            let mut taken = Vec::new();
            while let Ok(one) = control.pop() {
                taken.push(one);
            }
            let first = (0..ROOM_PER_PORT as u32).map(|number| wanted(1, number));
            let expected: Vec<Unresolved> = first.chain([wanted(2, 2000), wanted(2, 2001)]).collect();
            assert_eq!(taken, expected, "each once, and what another port has asked for already not again");
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_all_is_taken() {
        let (mut worker, mut control) = ring();
        (0..10).for_each(|port| {
            (0..100).for_each(|number| worker.ask(wanted(port, u32::from(port) * 100 + number)))
        });
        assert_eq!((control.slots(), worker.asked.len()), (ROOM, ROOM));
        assert!(control.pop().is_ok());
        worker.ask(wanted(7, 9000));
        worker.ask(wanted(7, 9001));
        assert_eq!((control.slots(), worker.asked.len()), (ROOM - 1, ROOM), "a place alone is not enough");
        while control.pop().is_ok() {}
        worker.ask(wanted(0, 0));
        assert_eq!((control.slots(), worker.asked.len()), (1, 1));
    }
}
