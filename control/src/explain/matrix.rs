//! Who reaches whom: every pod against every pod for one protocol and port.

use serde::{Deserialize, Serialize};

use super::answer::target;
use super::end::{End, IpProtocol, Query, QueryError};
use super::world::{Asked, World};
use podgate_config::model::ObjectName;
use podgate_dataplane::policy::Verdict;

/// One source and one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Both directions admit.
    Allow,
    /// The source's egress denies.
    DeniedByEgress,
    /// The destination's ingress denies.
    DeniedByIngress,
    /// Both deny.
    DeniedByBoth,
    /// No address family in common.
    Unreachable,
}

impl Cell {
    /// Whether the connection may be opened.
    #[must_use]
    pub fn allowed(self) -> bool {
        self == Self::Allow
    }

    fn sign(self) -> char {
        match self {
            Self::Allow => '+',
            Self::DeniedByEgress => 'e',
            Self::DeniedByIngress => 'i',
            Self::DeniedByBoth => 'x',
            Self::Unreachable => ' ',
        }
    }
}

/// Reachability for one protocol and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matrix {
    /// The protocol.
    pub protocol: IpProtocol,
    /// The destination port; nothing for a protocol without ports.
    pub port: Option<u16>,
    /// Sources and destinations: `namespace/name` of pods in order of their names, then what else was asked for.
    pub ends: Vec<String>,
    /// By source, then by destination.
    pub cells: Vec<Vec<Cell>>,
}

/// Every live pod with an address against every other, and `others` (outside addresses, nodes) with them. A world that
/// changes meanwhile is asked source by source; a pod that goes before its turn is unreachable.
///
/// # Errors
/// [`QueryError`] if the port is missing, or one of `others` is unknown.
pub fn matrix(
    world: &impl Asked,
    protocol: IpProtocol,
    port: Option<u16>,
    others: &[End],
) -> Result<Matrix, QueryError> {
    if protocol.has_ports() && port.is_none() {
        return Err(QueryError::PortMissing(protocol));
    }
    let port = port.filter(|_| protocol.has_ports());
    let ends: Vec<End> = world.with(|world| {
        let pods = world.cluster().pods.values().filter(|pod| pod.is_subject() && !pod.addresses.is_empty());
        let pods = pods.map(|pod| End::Pod { name: pod.name.clone(), address: None });
        pods.chain(others.iter().cloned()).collect()
    });
    let mut cells = Vec::with_capacity(ends.len());
    for from in &ends {
        let row = |world: &World| ends.iter().map(|to| cell(world, from, to, port, protocol)).collect();
        let row: Result<Vec<Cell>, QueryError> = world.with(row);
        cells.push(row?);
    }
    Ok(Matrix { protocol, port, ends: ends.iter().map(End::to_string).collect(), cells })
}

fn cell(
    world: &World,
    from: &End,
    to: &End,
    port: Option<u16>,
    protocol: IpProtocol,
) -> Result<Cell, QueryError> {
    let query = Query { from: from.clone(), to: to.clone(), port, protocol };
    let denied = |verdict: Option<Verdict>| verdict.is_some_and(|verdict| !verdict.allowed());
    let gone = |end: &End, name: &ObjectName| matches!(end, End::Pod { name: asked, .. } if asked == name);
    match world.verdict(&query) {
        Ok(judgement) => Ok(match (denied(judgement.egress), denied(judgement.ingress)) {
            (false, false) => Cell::Allow,
            (true, false) => Cell::DeniedByEgress,
            (false, true) => Cell::DeniedByIngress,
            (true, true) => Cell::DeniedByBoth,
        }),
        Err(QueryError::NoCommonFamily { .. }) => Ok(Cell::Unreachable),
        Err(QueryError::UnknownPod(name) | QueryError::Finished(name) | QueryError::NoAddress(name))
            if gone(from, &name) || gone(to, &name) =>
        {
            Ok(Cell::Unreachable)
        }
        Err(error) => Err(error),
    }
}

/// The matrix in aligned columns: sources down, destinations across, by number. Ends with a newline.
#[must_use]
pub fn matrix_text(matrix: &Matrix) -> String {
    let names = matrix.ends.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("from".len());
    let digits = matrix.ends.len().to_string().len();
    let mut text = format!(
        "{}: '+' allowed, 'e' denied by the source's egress, 'i' by the destination's ingress, 'x' by both\n",
        target(matrix.protocol, matrix.port)
    );
    let mut line = format!("{:<digits$}  {:<names$} ", "", "from \\ to");
    for number in 1..=matrix.ends.len() {
        line.push_str(&format!(" {number:>digits$}"));
    }
    text.push_str(line.trim_end());
    text.push('\n');
    for (number, (name, row)) in matrix.ends.iter().zip(&matrix.cells).enumerate() {
        let mut line = format!("{:>digits$}  {name:<names$} ", number + 1);
        for cell in row {
            line.push_str(&format!(" {:>digits$}", cell.sign()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The matrix as one JSON value.
#[must_use]
pub fn matrix_json(matrix: &Matrix) -> serde_json::Value {
    serde_json::to_value(matrix).unwrap_or_default()
}
