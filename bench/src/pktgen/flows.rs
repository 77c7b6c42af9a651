//! Which flow a packet belongs to: ranges of addresses and ports, and how flows are drawn from them.
//!
//! Two steps. Flows are *made* from four fields (addresses and ports of either end), each a value or a range that is walked
//! through in order or drawn from at random or by Zipf's law. The fields walked through turn like an odometer, source ports
//! fastest, then source addresses, destination ports, destination addresses, so no flow comes twice before all came once.
//! Then each packet *picks* one of the flows made at the start (in turn, at random, by Zipf's law), or is a new flow itself.
//!
//! Sequence numbers count within a stream. Each flow has one of its own; beyond 65,536 flows, flow n shares with n + 65,536,
//! and new flows with every packet are a single stream: there a device that keeps flows in order, but not packets of different
//! flows, is reported to reorder.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use rand::RngExt;
use rand::rngs::SmallRng;

use super::zipf::{MAX_VALUES, Zipf};

/// Most flows made at the start: a table of 192 MiB.
pub const MAX_FLOWS: usize = 1 << 22;
/// Most streams: what a stamp has room for.
pub const MAX_STREAMS: usize = 1 << 16;

/// One flow. Addresses as numbers, IPv4 in the low 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub source: u128,
    /// Destination address.
    pub destination: u128,
    /// Source port; the identifier of ICMP echo.
    pub source_port: u16,
    /// Destination port; not used by ICMP.
    pub destination_port: u16,
}

/// In which order values of a range, or flows, come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// One after the other, then from the first again.
    Sequential,
    /// Evenly at random.
    Random,
    /// By Zipf's law with this exponent, the first most often.
    Zipf(f64),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "expected sequential, random, zipf or zipf:EXPONENT with an exponent of 0 to 10".to_owned();
        match text {
            "sequential" => Ok(Self::Sequential),
            "random" => Ok(Self::Random),
            "zipf" => Ok(Self::Zipf(1.0)),
            _ => {
                let exponent = text.strip_prefix("zipf:").and_then(|exponent| exponent.parse().ok());
                exponent
                    .filter(|exponent| (0.0..=10.0).contains(exponent))
                    .map(Self::Zipf)
                    .ok_or_else(expected)
            }
        }
    }
}

/// Consecutive values and the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    first: u128,
    count: u128,
    choice: Choice,
}

impl Field {
    /// From one value to another, both included.
    #[must_use]
    pub fn new(first: u128, last: u128, choice: Choice) -> Self {
        Self { first, count: last.saturating_sub(first).saturating_add(1), choice }
    }

    fn check(&self) -> Result<(), String> {
        match self.choice {
            Choice::Zipf(_) if self.count > MAX_VALUES as u128 => {
                Err(format!("expected at most {MAX_VALUES} values to draw from by Zipf's law"))
            }
            _ => Ok(()),
        }
    }
}

/// Takes `@choice` off.
fn split_choice(text: &str) -> Result<(&str, Choice), String> {
    match text.split_once('@') {
        Some((values, choice)) => Ok((values, choice.parse()?)),
        None => Ok((text, Choice::Sequential)),
    }
}

/// Addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Addresses {
    field: Field,
    /// IPv4, or else IPv6.
    pub v4: bool,
}

impl Addresses {
    /// A network's, in this order.
    #[must_use]
    pub fn of_network(network: IpNet, choice: Choice) -> Self {
        let (first, last) = (number(network.network()), number(network.broadcast()));
        Self { field: Field::new(first, last, choice), v4: network.network().is_ipv4() }
    }

    /// The same, drawn at random.
    #[must_use]
    pub fn drawn(self) -> Self {
        Self { field: Field { choice: Choice::Random, ..self.field }, ..self }
    }

    /// Is it one of them?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.v4 && number(address).wrapping_sub(self.field.first) < self.field.count
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected an address, a range like 10.0.0.1-10.0.0.99 or a network like 2001:db8::/64, and behind it @random or \
             @zipf:1.1 if wanted"
                .to_owned()
        };
        let (values, choice) = split_choice(text)?;
        let addresses = if let Some((first, last)) = values.split_once('-') {
            let (first, last): (IpAddr, IpAddr) =
                (first.parse().map_err(|_| expected())?, last.parse().map_err(|_| expected())?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(expected());
            }
            Self { field: Field::new(number(first), number(last), choice), v4: first.is_ipv4() }
        } else {
            let network = values.parse().or_else(|_| values.parse().map(|one: IpAddr| IpNet::from(one)));
            Self::of_network(network.map_err(|_| expected())?, choice)
        };
        addresses.field.check()?;
        Ok(addresses)
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = |number: u128| match self.v4 {
            true => IpAddr::from((number as u32).to_be_bytes()),
            false => IpAddr::V6(Ipv6Addr::from_bits(number)),
        };
        write!(f, "{}", address(self.field.first))?;
        if self.field.count > 1 {
            write!(f, "-{}", address(self.field.first + (self.field.count - 1)))?;
        }
        Ok(())
    }
}

/// Ports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ports(Field);

impl Ports {
    /// From one to another, in this order.
    #[must_use]
    pub fn new(first: u16, last: u16, choice: Choice) -> Self {
        Self(Field::new(first.into(), last.into(), choice))
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected a port of 0 to 65535 or a range like 1024-65535, and behind it @random or @zipf:1.1 if wanted".to_owned()
        };
        let (values, choice) = split_choice(text)?;
        let (first, last) = values.split_once('-').unwrap_or((values, values));
        let (first, last): (u16, u16) =
            (first.parse().map_err(|_| expected())?, last.parse().map_err(|_| expected())?);
        if first <= last { Ok(Self::new(first, last, choice)) } else { Err(expected()) }
    }
}

/// One field at work.
#[derive(Debug, Clone)]
enum Wheel {
    /// The next value as an offset, and after how many it starts again.
    Turning {
        first: u128,
        count: u128,
        at: u128,
    },
    Drawn {
        first: u128,
        count: u128,
    },
    Skewed {
        first: u128,
        zipf: Zipf,
    },
}

impl Wheel {
    fn new(field: Field) -> Self {
        let Field { first, count, choice } = field;
        match choice {
            Choice::Sequential => Self::Turning { first, count, at: 0 },
            Choice::Random => Self::Drawn { first, count },
            Choice::Zipf(exponent) => Self::Skewed {
                first,
                zipf: Zipf::new(usize::try_from(count).unwrap_or(MAX_VALUES), exponent),
            },
        }
    }

    /// The value now, and whether the next wheel turns: `carry` says that this one does.
    #[inline]
    fn value(&mut self, carry: &mut bool, random: &mut SmallRng) -> u128 {
        match self {
            Self::Turning { first, count, at } => {
                let value = *first + *at;
                if *carry {
                    *at += 1;
                    *carry = at == count;
                    if *carry {
                        *at = 0;
                    }
                }
                value
            }
            Self::Drawn { first, count } => match u32::try_from(*count) {
                // By multiplication: the bias is below 1 in 2^32 for each value.
                Ok(count) => {
                    *first + u128::from((u64::from(random.random::<u32>()) * u64::from(count)) >> 32)
                }
                Err(_) => *first + random.random::<u128>() % *count,
            },
            Self::Skewed { first, zipf } => *first + zipf.draw(random) as u128,
        }
    }
}

/// The four fields of flows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fields {
    /// Source addresses.
    pub source: Addresses,
    /// Destination addresses, of the same family.
    pub destination: Addresses,
    /// Source ports.
    pub source_port: Ports,
    /// Destination ports.
    pub destination_port: Ports,
}

impl Fields {
    /// How many different flows they make, at most the largest `usize`.
    #[must_use]
    pub fn different(&self) -> usize {
        let all = [self.source_port.0, self.source.field, self.destination_port.0, self.destination.field];
        let product = all.iter().fold(1u128, |product, field| product.saturating_mul(field.count));
        usize::try_from(product).unwrap_or(usize::MAX)
    }
}

/// Makes flows.
#[derive(Debug, Clone)]
struct Maker {
    source_port: Wheel,
    source: Wheel,
    destination_port: Wheel,
    destination: Wheel,
}

impl Maker {
    fn new(fields: &Fields) -> Self {
        Self {
            source_port: Wheel::new(fields.source_port.0),
            source: Wheel::new(fields.source.field),
            destination_port: Wheel::new(fields.destination_port.0),
            destination: Wheel::new(fields.destination.field),
        }
    }

    #[inline]
    fn next(&mut self, random: &mut SmallRng) -> Flow {
        let mut carry = true;
        let source_port = self.source_port.value(&mut carry, random) as u16;
        let source = self.source.value(&mut carry, random);
        let destination_port = self.destination_port.value(&mut carry, random) as u16;
        let destination = self.destination.value(&mut carry, random);
        Flow { source, destination, source_port, destination_port }
    }
}

/// How many flows, and how packets pick theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Plan {
    /// So many, made at the start.
    Some(usize, Choice),
    /// A new one for each packet.
    EveryPacket,
}

enum Source {
    Table { flows: Vec<Flow>, next: usize, choice: Choice, zipf: Option<Zipf> },
    Every(Box<Maker>),
}

/// Flows, packet by packet.
pub struct Flows {
    source: Source,
}

impl Flows {
    /// Makes the flows. What is wrong is said as "expected ...".
    ///
    /// # Errors
    /// If the fields have fewer different flows than are asked for, or too many are.
    pub fn new(fields: &Fields, plan: Plan, random: &mut SmallRng) -> Result<Self, String> {
        let mut maker = Maker::new(fields);
        let Plan::Some(count, choice) = plan else {
            return Ok(Self { source: Source::Every(Box::new(maker)) });
        };
        let most = fields.different().min(MAX_FLOWS);
        if count == 0 || count > most {
            return Err(format!(
                "expected 1 to {most} flows from these addresses and ports, or every-packet"
            ));
        }
        let mut seen = HashSet::with_capacity(count);
        let mut flows = Vec::with_capacity(count);
        // Drawn ones may come twice. The more that are wanted of those there are, the more tries it takes.
        let tries = count.saturating_mul(64);
        for _ in 0..tries {
            if flows.len() == count {
                break;
            }
            let flow = maker.next(random);
            if seen.insert(flow) {
                flows.push(flow);
            }
        }
        if flows.len() < count {
            return Err(format!(
                "expected at most {} flows: in {tries} draws no more different ones came up",
                flows.len()
            ));
        }
        let zipf = match choice {
            Choice::Zipf(exponent) => Some(Zipf::new(count, exponent)),
            Choice::Sequential | Choice::Random => None,
        };
        Ok(Self { source: Source::Table { flows, next: 0, choice, zipf } })
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        match &self.source {
            Source::Table { flows, .. } => flows.len().min(MAX_STREAMS),
            Source::Every(_) => 1,
        }
    }

    /// The flow of the next packet, and its stream.
    #[inline]
    pub fn next(&mut self, random: &mut SmallRng) -> Option<(Flow, u16)> {
        match &mut self.source {
            Source::Table { flows, next, choice, zipf } => {
                let at = match (choice, zipf) {
                    (_, Some(zipf)) => zipf.draw(random),
                    (Choice::Random, _) => {
                        ((u64::from(random.random::<u32>()) * flows.len() as u64) >> 32) as usize
                    }
                    _ => {
                        let at = *next;
                        *next = if at + 1 < flows.len() { at + 1 } else { 0 };
                        at
                    }
                };
                flows.get(at).map(|flow| (*flow, at as u16))
            }
            Source::Every(maker) => Some((maker.next(random), 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn fields(source: &str, destination: &str, source_port: &str, destination_port: &str) -> Fields {
        Fields {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: source_port.parse().unwrap(),
            destination_port: destination_port.parse().unwrap(),
        }
    }

    fn random() -> SmallRng {
        SmallRng::seed_from_u64(3)
    }

    #[test]
    fn fields_are_read() {
        for (text, written) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/30", "10.0.0.0-10.0.0.3"),
            ("10.0.0.1-10.0.1.5@zipf:1.2", "10.0.0.1-10.0.1.5"),
            ("2001:db8::/127@random", "2001:db8::-2001:db8::1"),
        ] {
            assert_eq!(
                text.parse::<Addresses>().map(|addresses| addresses.to_string()),
                Ok(written.to_owned())
            );
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "10.0.0.1@often",
            "::/1@zipf",
            "::@zipf:x",
        ] {
            assert!(bad.parse::<Addresses>().is_err(), "{bad}");
        }
        for bad in ["", "70000", "2-1", "80@", "-1", "1-"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
        let network: Addresses = "10.0.0.0/30".parse().unwrap();
        assert!(
            network.contains("10.0.0.3".parse().unwrap()) && !network.contains("10.0.0.4".parse().unwrap())
        );
        assert!(!network.contains("::a00:1".parse().unwrap()));
    }

    #[test]
    fn sequential_fields_turn_like_an_odometer() {
        let fields = fields("10.0.0.1-10.0.0.2", "10.1.0.0/31", "5-6", "80");
        let mut flows = Flows::new(&fields, Plan::EveryPacket, &mut random()).unwrap();
        let mut next = || flows.next(&mut random()).unwrap();
        let seen: Vec<(u16, u128, u128)> = (0..9)
            .map(|_| next().0)
            .map(|flow| (flow.source_port, flow.source & 0xff, flow.destination & 0xff))
            .collect();
        let expected = [
            (5, 1, 0),
            (6, 1, 0),
            (5, 2, 0),
            (6, 2, 0),
            (5, 1, 1),
            (6, 1, 1),
            (5, 2, 1),
            (6, 2, 1),
            (5, 1, 0),
        ];
        assert_eq!(seen, expected);
        assert_eq!(flows.streams(), 1);
    }

    proptest! {
        #[test]
        fn flows_are_different_within_their_ranges_and_come_in_turn(count in 1usize..500, drawn: bool) {
            let order = if drawn { "@random" } else { "" };
            let fields = fields(&format!("10.0.0.0/26{order}"), "10.9.0.7", &format!("1000-1099{order}"), "9");
            let mut flows = Flows::new(&fields, Plan::Some(count, Choice::Sequential), &mut random()).unwrap();
            let mut random = random();
            let first: Vec<(Flow, u16)> = (0..count).map(|_| flows.next(&mut random).unwrap()).collect();
            let again: Vec<(Flow, u16)> = (0..count).map(|_| flows.next(&mut random).unwrap()).collect();
            prop_assert_eq!(&first, &again);
            prop_assert_eq!(first.iter().map(|(flow, _)| *flow).collect::<HashSet<_>>().len(), count);
            for (at, (flow, stream)) in first.iter().enumerate() {
                prop_assert_eq!(usize::from(*stream), at);
                prop_assert!((0x0a00_0000..0x0a00_0040).contains(&flow.source) && flow.destination == 0x0a09_0007);
                prop_assert!((1000..1100).contains(&flow.source_port) && flow.destination_port == 9);
            }
        }
    }

    #[test]
    fn more_flows_than_there_are_is_an_error() {
        let fields = fields("10.0.0.1", "10.0.0.2", "1-10", "9");
        let error = |count| Flows::new(&fields, Plan::Some(count, Choice::Random), &mut random()).err();
        assert_eq!(error(10), None);
        assert_eq!(
            error(11).unwrap(),
            "expected 1 to 10 flows from these addresses and ports, or every-packet"
        );
        assert!(error(0).is_some());
    }

    #[test]
    fn zipf_picks_the_first_flows_most() {
        let fields = fields("10.0.0.1", "10.0.0.2", "1-1000", "9");
        let mut random = random();
        let mut flows = Flows::new(&fields, Plan::Some(1000, Choice::Zipf(1.0)), &mut random).unwrap();
        let mut counts = [0u32; 1000];
        (0..100_000).for_each(|_| counts[usize::from(flows.next(&mut random).unwrap().1)] += 1);
        // 1 / H(1000) of them, H being 7.485.
        assert!((13_000..13_700).contains(&counts[0]), "{}", counts[0]);
        assert!((6_400..6_950).contains(&counts[1]), "{}", counts[1]);
    }
}
