//! Who decided, and why: `podgate explain` and `podgate matrix`.
//!
//! A [`World`] is a cluster with its compiled tables and the knowledge which pods are judged here and which node
//! is whose own. A question about two ends becomes the same [`judge`](podgate_dataplane::policy::judge) call that
//! a worker makes for a packet, on the same tables; only the words around the verdict are made here, from the
//! compiler ([`Compiler::admitting`](crate::compiler::Compiler::admitting)) for an allow and from the policies themselves for what a deny
//! lacked. So an answer can be badly worded, but not different from what the gateway does.
//!
//! Asked about one connection (its source port too), the answer is what its worker remembers of it ([`FlowExplanation`]).
//!
//! Rules and peers are counted from 0, as in the path of the manifest: `ingress[1].from[0]`.

mod answer;
mod end;
mod flow;
mod matrix;
mod nearest;
mod nodes;
mod probes;
mod text;
pub(crate) mod words;
mod world;

pub use answer::{Explanation, MissingPart, Nearest, Outcome, Party, Side, TierName};
pub use end::{End, IpProtocol, Query, QueryError};
pub use flow::{FlowAnswer, FlowDenial, FlowEnd, FlowExplanation, FlowQuery, HowEnded, NextPacket};
pub use matrix::{Cell, Matrix, matrix, matrix_json, matrix_text};
pub use probes::probes;
pub use text::{explain_json, explain_text};
pub use world::{Asked, World};

#[cfg(test)]
mod tests;
