//! What is said over the admin socket: one JSON object a line in either direction.
//!
//! The client writes a request, the daemon answers it; then the next. A request that follows something is answered
//! by one line for each item until the client hangs up. Each line carries the protocol's version, and a request of
//! another version is refused by name, so that a new `podgate` and an old daemon never misunderstand one another.
//!
//! ```text
//! > {"version":1,"request":"port_remove","interface":"veth0a1b"}
//! < {"version":1,"answer":null}
//! > {"version":1,"request":"status"}
//! < {"version":1,"answer":{"version":"0.1.0",...}}
//! > {"version":1,"request":"port_remove","interface":"veth0a1b"}
//! < {"version":1,"error":"no port has the interface veth0a1b"}
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::explain::{FlowQuery, IpProtocol, Query};

/// The version that this program speaks.
pub const VERSION: u32 = 1;

/// Longest line either side accepts.
pub const MAX_LINE_BYTES: usize = 64 << 20;

/// A line from the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub request: Request,
}

/// What a client may want.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// [`crate::status::Status`].
    Status,
    /// [`crate::status::PoliciesStatus`].
    StatusPolicies,
    /// Probes, as `podgate explain --probes` has them; answered with [`ProbeAnswers`].
    Probes {
        /// One JSON object a line.
        lines: String,
    },
    /// [`crate::explain::Explanation`].
    Explain(Query),
    /// [`crate::explain::FlowExplanation`].
    ExplainFlow(FlowQuery),
    /// [`crate::explain::Matrix`].
    Matrix {
        /// Protocol.
        protocol: IpProtocol,
        /// Destination port.
        port: Option<u16>,
    },
    /// [`DropLine`]s: those of late, and if `follow` all to come.
    Drops {
        /// Go on.
        follow: bool,
    },
    /// Attach a pod's interface.
    PortAdd(PortSpec),
    /// Detach it.
    PortRemove {
        /// Its host end.
        interface: String,
    },
    /// A list of [`crate::status::PortStatus`].
    PortList,
}

/// A line from the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// [`VERSION`].
    pub version: u32,
    /// What was asked for, or one item of it.
    #[serde(flatten)]
    pub answer: Answer,
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What was asked for.
    Answer(Value),
    /// Why there is no answer.
    Error(String),
    /// The last item of several was the one before.
    End(bool),
}

/// Probes with their answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswers {
    /// One line for each probe, in order.
    pub lines: String,
    /// Whether one of them could not be answered.
    pub failed: bool,
}

/// A pod's port as it is asked for, and as it is kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The host end of the pod's veth pair.
    pub interface: String,
    /// `namespace/name`.
    pub pod: String,
    /// `metadata.uid` of the pod. One that has the name and another UID is not behind this interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// At most one of each family; they outrank what sources say.
    pub addresses: Vec<IpAddr>,
    /// The pod's own MAC address; asked of the kernel if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropLine {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Name of the reason.
    pub reason: String,
    /// Interface that it came in by.
    pub interface: String,
    /// Worker that dropped it.
    pub worker: u8,
    /// Source, `namespace/name` where it is a pod's.
    pub source: Option<String>,
    /// Source address.
    pub source_address: Option<IpAddr>,
    /// Source port, 0 where the protocol has none.
    pub source_port: u16,
    /// Destination, `namespace/name` where it is a pod's.
    pub destination: Option<String>,
    /// Destination address.
    pub destination_address: Option<IpAddr>,
    /// Destination port, 0 where the protocol has none.
    pub destination_port: u16,
    /// IP protocol number, if there was an IP header.
    pub protocol: Option<u8>,
    /// The policies that deny it, if policy does.
    pub policies: Vec<String>,
    /// Records that did not fit into the rings since the line before.
    pub lost: u64,
}
