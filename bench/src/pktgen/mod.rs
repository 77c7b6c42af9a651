//! A packet generator and sink, to test whatever forwards packets between two devices.
//!
//! It sends flows of a chosen shape at an exact rate, accounts for every packet at the other end (lost, duplicate, late, how long
//! it took), and searches for the rate that a device carries without loss, as RFC 2544 has it. It knows nothing of Podgate: any
//! device under test will do, and the command line is all of the interface ([`cli`]).
//!
//! ```text
//!  flows, sizes --> frames --> link ==> device under test ==> link --> sequence, latency --> report
//!                     ^ stamp   ^ rate                                   ^ sink
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`frames`] | frames built once for each size, rewritten for each packet |
//! | [`flows`], [`zipf`] | addresses and ports, and whose turn it is |
//! | [`sizes`] | frame sizes and their mixes |
//! | [`stamp`] | what each packet carries for the account |
//! | [`traffic`] | all of these put together, or a capture replayed |
//! | [`pcap`] | capture files |
//! | [`rate`] | rates and the pacer |
//! | [`link`] | devices, over AF_XDP or AF_PACKET |
//! | [`neighbours`] | answers of the sink to ARP and neighbour discovery |
//! | [`sequence`], [`sink`] | the account of what arrived |
//! | [`run`] | the loops of sender and sink, and both together |
//! | [`search`] | RFC 2544 throughput |
//! | [`report`] | text, JSON, the live line |
//! | [`cli`] | the command line |

pub mod cli;
pub mod flows;
pub mod frames;
pub mod link;
pub mod neighbours;
pub mod pcap;
pub mod rate;
pub mod report;
pub mod run;
pub mod search;
pub mod sequence;
pub mod sink;
pub mod sizes;
pub mod stamp;
pub mod traffic;
pub mod zipf;
