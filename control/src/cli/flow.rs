//! `podgate explain --sport`, for people.

use std::time::{SystemTime, UNIX_EPOCH};

use super::console::{Console, Tone, time_of_day};
use crate::explain::{
    Explanation, FlowAnswer, FlowDenial, FlowEnd, FlowExplanation, HowEnded, IpProtocol, NextPacket, Outcome,
    explain_text,
};

/// Each connection in a few aligned lines, whether it is there first. If there is none, what a new one would come to.
///
/// # Errors
/// The console's.
pub fn print(explanation: &FlowExplanation, console: &mut Console) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    if explanation.flows.is_empty() {
        let Explanation { from, to, .. } = &explanation.now;
        let (from, to, target) = (from.name(), to.name(), explanation.now.target());
        let source = source(explanation.now.protocol, explanation.source_port);
        console.line(format!(
            "unknown: no worker remembers a connection {from}{source} -> {to} {target}; a new one now:"
        ))?;
        return console.text(&explain_text(&explanation.now));
    }
    explanation.flows.iter().try_for_each(|flow| print_flow(flow, now, console))
}

fn print_flow(flow: &FlowAnswer, now: u64, console: &mut Console) -> std::io::Result<()> {
    let end = |end: &FlowEnd| match &end.pod {
        Some(pod) => format!("{pod} ({})", end.ip),
        None => end.ip.to_string(),
    };
    let of_source = source(flow.protocol, flow.source_port);
    let to_port = flow.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let head = match (flow.live, &flow.ended) {
        (true, None) => console.paint(Tone::Good, "live"),
        _ => console.paint(Tone::Warn, "over"),
    };
    console.line(format!(
        "{head}: {}{of_source} -> {}{to_port} {}, {} on worker {}",
        end(&flow.from),
        end(&flow.to),
        flow.protocol,
        flow.state,
        flow.worker
    ))?;
    let at = |time_ms| format!("{} UTC, {} ago", time_of_day(time_ms), ago(now.saturating_sub(time_ms)));
    console.line(format!("  opened   {}", at(flow.opened_ms)))?;
    console.line(format!("  last     {}", at(flow.last_seen_ms)))?;
    let upheld = if flow.judged_under == flow.generation {
        String::new()
    } else {
        format!(
            "; admitted by generation {}, denied since, and goes on because open connections may",
            flow.judged_under
        )
    };
    console.line(format!("  judged   by generation {}{upheld}", flow.generation))?;
    for (direction, side) in [("egress ", &flow.egress), ("ingress", &flow.ingress)] {
        console.line(format!("  {direction}  {:<10}  {}", side.verdict.word(), side.reason))?;
    }
    if let Some(HowEnded { time_ms, how, denial }) = &flow.ended {
        let why = denial.as_ref().map(by).unwrap_or_default();
        console.line(format!("  ended    {}: {}{why}", at(*time_ms), in_words(how)))?;
    }
    if let Some(NextPacket { generation, denial, .. }) = &flow.next {
        let becomes = match denial {
            None => format!("passes by generation {generation}"),
            Some(denial) => format!("is dropped: {}{}", in_words(&denial.reason), by(denial)),
        };
        console.line(format!("  next     its next packet {becomes}"))?;
    }
    match &flow.now {
        None => Ok(()),
        Some(now) => {
            let verdict = if now.verdict == Outcome::Deny { "denied" } else { "allowed" };
            console.line(format!("  now      a new connection is {verdict}, and differently judged:"))?;
            [("egress ", &now.egress), ("ingress", &now.ingress)].into_iter().try_for_each(|(name, side)| {
                console.line(format!("    {name}  {:<10}  {}", side.verdict.word(), side.reason))
            })
        }
    }
}

/// What tells a connection from others of its source.
fn source(protocol: IpProtocol, number: u16) -> String {
    match protocol {
        IpProtocol(1 | 58) => format!(" identifier {number}"),
        protocol if protocol.has_ports() => format!(" port {number}"),
        _ => String::new(),
    }
}

/// `, by generation 8: ingress of shop/db is isolated by ...`
fn by(denial: &FlowDenial) -> String {
    let side = denial.side.as_ref().map(|side| format!(": {}", side.reason)).unwrap_or_default();
    format!(", by generation {}{side}", denial.generation)
}

fn in_words(how: &str) -> String {
    let words = match how {
        "closed" => "by its ends",
        "reset" => "by one of its ends",
        "timeout" => "nothing was seen for its time",
        "evicted" => "the table was full, and it was the one to go",
        "replaced" => "by another connection of the same ends",
        reason => match podgate_dataplane::drop_reason::DropReason::from_name(reason) {
            Some(known) => known.doc().trim_end_matches('.'),
            None => return how.to_owned(),
        },
    };
    format!("{how} ({words})")
}

fn ago(milliseconds: u64) -> String {
    match milliseconds / 1000 {
        0..=59 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        seconds @ 60..=3599 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
