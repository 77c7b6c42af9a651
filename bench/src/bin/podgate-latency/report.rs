//! How long changes took, and what the gateway's log says of the time in between.

use std::time::{SystemTime, UNIX_EPOCH};

use podgate_bench::spread::quantile;
use serde_json::Value;

use super::Change;

const DAY: u64 = 24 * 3600 * 1_000_000;

pub fn micros_of_day(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64) % DAY
}

/// A line of the log that says how long something took.
pub struct Line {
    at: u64,
    took: u64,
    compiled: u64,
    message: String,
}

pub fn line(text: &str) -> Option<Line> {
    let value: Value = serde_json::from_str(text).ok()?;
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let took = number("took_us")?;
    let time = value.get("timestamp")?.as_str()?.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.split(':');
    let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    let at = (hours * 60 + minutes) * 60_000_000 + (seconds * 1e6).round() as u64;
    let message = value.get("message")?.as_str()?.to_owned();
    Some(Line { at, took, compiled: number("compiled_us").unwrap_or(0), message })
}

/// Milliseconds of one share, of all changes.
#[derive(Default)]
struct Share(Vec<f64>);

impl Share {
    fn tell(mut self, name: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&self.0, share).unwrap_or(f64::NAN);
        println!("| {name} | {:.2} | {:.2} | {:.2} | {} |", at(0.5), at(0.99), at(1.0), self.0.len());
    }
}

pub fn totals(changes: &[Change]) {
    for admitted in [false, true] {
        let of = changes.iter().filter(|change| change.admitted == admitted);
        let total = Share(of.map(|change| change.took.as_secs_f64() * 1e3).collect());
        total.tell(if admitted {
            "**to the first packet that passes**"
        } else {
            "**to the last packet that passes**"
        });
    }
}

fn milliseconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e3
}

/// The first line that says this, since then.
fn after<'l>(lines: &'l [Line], message: &str, since: u64) -> Option<&'l Line> {
    lines.iter().find(|line| line.at >= since && line.message == message)
}

pub fn shares_of_server(changes: &[Change], lines: &[Line]) {
    let [mut server, mut read, mut settle, mut compile, mut rest, mut force] =
        std::array::from_fn(|_| Share::default());
    for change in changes {
        let Some(told) = after(lines, "told", change.at) else { continue };
        let Some(published) = after(lines, "published", told.at) else { continue };
        server.0.push(milliseconds(change.at + told.took, told.at));
        read.0.push(told.took as f64 / 1e3);
        settle.0.push(milliseconds(told.at + published.took, published.at));
        compile.0.push(published.compiled as f64 / 1e3);
        rest.0.push(published.took.saturating_sub(published.compiled) as f64 / 1e3);
        force.0.push(milliseconds(published.at, change.at + change.took.as_micros() as u64));
    }
    server.tell("the server takes it, and its event is here");
    read.tell("the event is decoded and taken over");
    settle.tell("others are waited for");
    compile.tell("what changed is compiled");
    rest.tell("the rest of a publication");
    force.tell("workers obey, the packet arrives");
}

pub fn shares_of_files(changes: &[Change], lines: &[Line]) {
    let [mut noticed, mut files, mut decode, mut settle, mut compile, mut rest, mut force] =
        std::array::from_fn(|_| Share::default());
    for change in changes {
        let Some(changed) = after(lines, "files changed", change.at) else { continue };
        let Some(decoded) = after(lines, "decoded", change.at) else { continue };
        let Some(published) = after(lines, "published", changed.at) else { continue };
        noticed.0.push(milliseconds(change.at + changed.took, changed.at));
        files.0.push((changed.took.saturating_sub(decoded.took)) as f64 / 1e3);
        decode.0.push(decoded.took as f64 / 1e3);
        settle.0.push(milliseconds(changed.at + published.took, published.at));
        compile.0.push(published.compiled as f64 / 1e3);
        rest.0.push(published.took.saturating_sub(published.compiled) as f64 / 1e3);
        force.0.push(milliseconds(published.at, change.at + change.took.as_micros() as u64));
    }
    noticed.tell("the kernel tells of the file");
    files.tell("all files looked at, the one read");
    decode.tell("it is decoded");
    settle.tell("others are waited for");
    compile.tell("what changed is compiled");
    rest.tell("the rest of a publication");
    force.tell("workers obey, the packet arrives");
}
