//! What the record of a drop must say: what the test itself reads in the frame, who dropped it, and who decided so.

use podgate_dataplane::drop_reason::DropReason;
use podgate_dataplane::packet::{PortId, WorkerId};
use podgate_dataplane::policy::{Direction, PodSlot, Tier};
use podgate_dataplane::record::DropRecord;

use crate::case::Case;
use crate::facts::{Facts, glimpse};

impl Case {
    /// There must be one record, and it must say what the frame says. Returns who dropped it.
    #[track_caller]
    pub fn check_record(
        &mut self,
        records: &[DropRecord],
        from: PortId,
        frame: &[u8],
        head: &[u8],
        reason: DropReason,
    ) -> WorkerId {
        let [record] = *records else { panic!("expected one record of {reason}, got {records:?}") };
        assert_eq!(record.reason, reason, "{record:?}");
        assert_eq!((record.time, record.port), (self.rig.now(), from), "{record:?}");
        assert_eq!(record.length as usize, frame.len(), "{record:?}");
        let home = self.receiver(from, frame);
        let said = (record.addresses, record.protocol, (record.source_port, record.destination_port));
        // The generation tells whether the parser let it pass: it belongs to packets.
        if record.generation == 0 {
            assert!(!is_of_tracking(reason), "{record:?}");
            let glimpsed = glimpse(head);
            let addresses = glimpsed.map(|(source, destination, _)| (source, destination));
            let protocol = glimpsed.map_or(0, |(_, _, protocol)| protocol);
            assert_eq!(said, (addresses, protocol, (0, 0)), "{record:?}");
            assert_eq!(record.worker, home, "{record:?}");
        } else {
            let facts = Facts::of(frame).unwrap();
            let addresses = Some((facts.source, facts.destination));
            assert_eq!(said, (addresses, facts.protocol, facts.ports), "{record:?}");
            assert_eq!(record.generation, self.rig.generation(), "{record:?}");
            if is_of_tracking(reason) {
                let pair = facts.quoted(frame).unwrap_or(facts);
                self.learn_owner(pair.source, pair.destination, record.worker);
            } else if record.worker != home {
                // Further on than where it came in: with the owner, which knows no way for it.
                self.learn_owner(facts.source, facts.destination, record.worker);
            }
        }
        self.check_decision(&record);
        record.worker
    }

    /// Policy's drops, and no others, lead back to who decided.
    #[track_caller]
    fn check_decision(&self, record: &DropRecord) {
        let by_policy = match record.reason {
            DropReason::PolicyEgress => Some(&[Direction::Egress][..]),
            DropReason::PolicyIngress => Some(&[Direction::Ingress][..]),
            DropReason::PolicyRevoked | DropReason::PortClosed | DropReason::NotSynced => {
                Some(&[Direction::Egress, Direction::Ingress][..])
            }
            _ => None,
        };
        let Some(directions) = by_policy else {
            assert_eq!(record.decided_by, None, "{record:?}");
            return;
        };
        let Some((direction, verdict)) = record.decided_by else { panic!("nobody decided: {record:?}") };
        assert!(directions.contains(&direction) && !verdict.allowed(), "{record:?}");
        let (source, destination) = record.addresses.unwrap();
        let slots = [source, destination].map(|address| self.slot(address));
        let program = |slot: Option<PodSlot>| match direction {
            Direction::Egress => slot.map(|slot| slot.egress_program),
            Direction::Ingress => slot.map(|slot| slot.ingress_program),
        };
        let decided = Some(verdict.program);
        match (record.reason, direction) {
            (DropReason::PolicyEgress, _) => assert_eq!(program(slots[0]), decided, "{record:?}"),
            (DropReason::PolicyIngress, _) => assert_eq!(program(slots[1]), decided, "{record:?}"),
            // The packet may be one of the reply direction. Closed is decided by no program.
            (DropReason::PolicyRevoked, _) if verdict.tier == Tier::NetworkPolicy => {
                assert!(slots.map(program).contains(&decided), "{record:?}");
            }
            _ => assert_eq!(verdict.tier, Tier::Closed, "{record:?}"),
        }
    }
}

/// Is that found out by the owner of a connection alone?
fn is_of_tracking(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::PolicyEgress
            | DropReason::PolicyIngress
            | DropReason::PolicyRevoked
            | DropReason::PortClosed
            | DropReason::NotSynced
            | DropReason::AddressMoved
            | DropReason::StrayTcp
            | DropReason::StraySctp
            | DropReason::StrayIcmpReply
            | DropReason::IcmpErrorNoFlow
            | DropReason::TcpReset
            | DropReason::FlowTableFull
            | DropReason::PodFlows
            | DropReason::NextHopUnresolved
            | DropReason::TtlExpired
            | DropReason::PacketTooBig
    )
}
