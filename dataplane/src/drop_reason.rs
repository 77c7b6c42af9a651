//! Why a packet was dropped: one table, from which counters, metrics, records and the documentation are made.
//!
//! Guarantees: every dropped packet has exactly one reason; [`DropReason::index`] is dense from 0 to
//! [`DropReason::COUNT`], so counters are plain arrays; [`DropReason::name`] is the value of the `reason`
//! label in `/metrics` and in `podgate drops`, unique, lower snake case.
//!
//! What breaks if changed: the names are an interface that dashboards and alerts rely on. Add at the end of a
//! group freely (the order has no meaning outside one process); rename only with a note in the release.

/// Builds the enum and everything that is derived from it out of the one table below.
macro_rules! drop_reasons {
    ($($(#[$group:meta])* $variant:ident = $name:literal, $doc:literal;)+) => {
        /// The reason why a packet went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $doc] $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Name in metrics and records: lower snake case, unique, stable.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// One line for people: what happened.
            pub const fn doc(self) -> &'static str {
                match self { $(DropReason::$variant => $doc,)+ }
            }
        }
    };
}

drop_reasons! {
    // Policy and identity.
    PolicyEgress = "policy_egress", "The source pod's egress policies allow no such connection.";
    PolicyIngress = "policy_ingress", "The destination pod's ingress policies allow no such connection.";
    PolicyRevoked = "policy_revoked", "An established connection that the policies in force no longer allow.";
    PortClosed = "port_closed", "The pod's port is closed: its policies failed to compile, its address is disputed, or it is not, or not known as, the pod that the port was added for; `podgate status` says which.";
    NotSynced = "not_synced", "The sources have not synced yet; until then pods talk with their own node alone.";
    AddressMoved = "address_moved", "An established connection whose address now belongs to another pod.";
    SpoofedSource = "spoofed_source", "The source address does not belong behind the port the packet came in by.";

    // Connections.
    StrayTcp = "stray_tcp", "TCP that belongs to no connection and does not open one, or that its connection's state does not allow.";
    StraySctp = "stray_sctp", "SCTP that belongs to no association and does not open one, or bears another verification tag.";
    StrayIcmpReply = "stray_icmp_reply", "An ICMP reply that nobody asked for.";
    IcmpErrorNoFlow = "icmp_error_no_flow", "An ICMP error about a connection that does not exist.";
    TcpReset = "tcp_reset", "A TCP reset that its receiver would not believe: its numbers are not those of the connection.";
    FlowTableFull = "flow_table_full", "No room for another connection: the flow table is full of open ones.";
    PodFlows = "pod_flows", "The pod has as many connections as one pod may have, all of them open.";

    // Link layer.
    Truncated = "truncated", "The frame ends before the headers it announces, or before the packet does.";
    HeadersSplit = "headers_split", "The headers reach beyond the packet's first buffer.";
    EtherType = "ether_type", "Neither IPv4, IPv6 nor ARP.";
    Vlan = "vlan", "A VLAN tag; ports are untagged.";
    Multicast = "multicast", "Multicast is not forwarded.";
    Broadcast = "broadcast", "Broadcast is not forwarded.";
    GroupSource = "group_source", "The source MAC address is a group's: nobody can have sent it.";
    ForeignMac = "foreign_mac", "Addressed to a MAC address that is not the gateway's.";
    ArpInvalid = "arp_invalid", "An ARP message that is not well-formed Ethernet and IPv4 ARP.";
    ArpSpoofed = "arp_spoofed", "An ARP message whose sender address is not one of the port's own.";

    // IPv4.
    Ipv4Header = "ipv4_header", "Version or header length is wrong.";
    Ipv4Length = "ipv4_length", "The total length is shorter than the header.";
    Ipv4Checksum = "ipv4_checksum", "The header checksum is wrong.";
    Ipv4Options = "ipv4_options", "Malformed options, or a source route that hides the real destination.";
    Igmp = "igmp", "IGMP: multicast is not forwarded, so nobody needs it.";

    // IPv6.
    Ipv6Header = "ipv6_header", "The version is wrong.";
    Ipv6Length = "ipv6_length", "A payload length that cannot be, or a jumbogram.";
    Ipv6Extensions = "ipv6_extensions", "Too many, misplaced or malformed extension headers.";
    Ipv6Routing = "ipv6_routing", "A routing header or home address option that hides the real address.";
    Mld = "mld", "Multicast listener discovery: multicast is not forwarded, so nobody needs it.";
    RouterSolicitation = "router_solicitation", "A router solicitation: pods have their route from their set-up.";
    RouterAdvertisement = "router_advertisement", "A router advertisement: nobody else is the router here.";
    NdInvalid = "nd_invalid", "A neighbour discovery message that RFC 4861 says to discard.";
    NdSpoofed = "nd_spoofed", "A neighbour discovery message whose sender address is not one of the port's own.";

    // Either family.
    Fragment = "fragment", "A fragment whose first one was not admitted, or whose connection is no more; or of an ICMP error, or for the gateway itself.";
    FragmentTiny = "fragment_tiny", "A first fragment without the whole transport header, or one that would be put over a TCP header.";
    FragmentInvalid = "fragment_invalid", "A fragment that cannot be: its length or offset is wrong, or it says another length of its datagram than the others.";
    FragmentOverlap = "fragment_overlap", "A fragment with bytes that came before. If all of them did, it goes alone as a copy; otherwise its datagram ends.";
    FragmentTimeout = "fragment_timeout", "A fragment whose first one, or the rest of whose datagram, did not come in time.";
    FragmentTableFull = "fragment_table_full", "No room for another datagram in fragments, for a fragment that waits, or for another gap between fragments.";
    FragmentSourceLimit = "fragment_source_limit", "A datagram, a source or a port has as many fragments, or datagrams in fragments, as one may have.";
    MartianAddress = "martian_address", "A source or destination that may not be on any wire: unspecified, loopback, IPv4-mapped, or a multicast source.";
    TransportHeader = "transport_header", "A TCP, UDP, SCTP or ICMP header that is malformed or cut off.";
    IcmpQuote = "icmp_quote", "An ICMP error whose quoted packet is cut off, or was not sent by the one who is told.";
    IcmpRedirect = "icmp_redirect", "An ICMP redirect: routes are not taken from packets.";

    // Forwarding.
    NoRoute = "no_route", "Nobody known has the destination address, and no port leads to it.";
    NextHopUnresolved = "next_hop_unresolved", "The next hop's MAC address is not known yet.";
    TtlExpired = "ttl_expired", "TTL or hop limit ran out here; answered with time exceeded.";
    PacketTooBig = "packet_too_big", "Larger than the MTU of the port it would leave by; answered with that MTU.";

    // Room.
    TxRingFull = "tx_ring_full", "The egress port's transmit ring has no room.";
    HandOverFull = "hand_over_full", "The ring to the other worker has no room.";
    TxRefused = "tx_refused", "The egress port cannot send such a frame at all.";
    PortGone = "port_gone", "The port it came in by, or would leave by, was removed meanwhile.";
}

impl DropReason {
    /// How many reasons there are: the length of an array indexed by [`DropReason::index`].
    pub const COUNT: usize = DropReason::ALL.len();

    /// Position in arrays of [`DropReason::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with this [`DropReason::name`].
    pub fn from_name(name: &str) -> Option<DropReason> {
        DropReason::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// All reasons as a Markdown table, for the documentation.
pub fn markdown_table() -> String {
    let mut table = String::from("| reason | what happened |\n|---|---|\n");
    for reason in DropReason::ALL {
        table.push_str(&format!("| `{}` | {} |\n", reason.name(), reason.doc()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_snake_case_and_lead_back() {
        let mut seen = BTreeSet::new();
        for (position, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
            assert!(seen.insert(reason.name()), "{} is there twice", reason.name());
            assert!(reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            assert!(reason.doc().ends_with('.') && !reason.doc().contains('|'));
            assert_eq!(DropReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(DropReason::from_name("nonsense"), None);
    }

    #[test]
    fn table_has_a_row_for_each() {
        assert_eq!(markdown_table().lines().count(), DropReason::COUNT + 2);
    }
}
