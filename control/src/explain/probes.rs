//! Many questions, one JSON object a line, each answered on its line.

use std::io::{self, BufRead, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Outcome, Side};
use super::end::Query;
use super::world::{Asked, World};

/// A probe written back with its answer. What the probe held besides comes along.
#[derive(Serialize)]
struct Answered {
    from: Value,
    to: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
    verdict: Outcome,
    egress: Side,
    ingress: Side,
}

#[derive(Serialize)]
struct Failed {
    error: String,
}

/// Answers `{"from": END, "to": END, "port": 80, "protocol": "TCP"}` lines in order, each with `verdict`, `egress`
/// and `ingress`; a line that cannot be answered becomes `{"error": "..."}` and the rest go on. Empty lines are
/// skipped. Returns whether any line failed.
///
/// # Errors
/// The reader's or writer's. A line that is not UTF-8 is the reader's error.
pub fn probes(world: &impl Asked, reader: impl BufRead, mut writer: impl Write) -> io::Result<bool> {
    let mut had_errors = false;
    for line in reader.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match world.with(|world| answer(world, &line)) {
            Ok(answered) => serde_json::to_writer(&mut writer, &answered)?,
            Err(error) => {
                had_errors = true;
                serde_json::to_writer(&mut writer, &Failed { error })?;
            }
        }
        writer.write_all(b"\n")?;
    }
    writer.flush()?;
    Ok(had_errors)
}

fn answer(world: &World, line: &str) -> Result<Answered, String> {
    let query: Query = serde_json::from_str(line).map_err(|error| format!("bad probe: {error}"))?;
    let mut rest: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("bad probe: {error}"))?;
    for ours in ["verdict", "egress", "ingress"] {
        rest.remove(ours);
    }
    let explanation = world.explain(&query).map_err(|error| error.to_string())?;
    Ok(Answered {
        from: rest.remove("from").unwrap_or_default(),
        to: rest.remove("to").unwrap_or_default(),
        port: rest.remove("port"),
        protocol: rest.remove("protocol"),
        rest,
        verdict: explanation.verdict,
        egress: explanation.egress,
        ingress: explanation.ingress,
    })
}
