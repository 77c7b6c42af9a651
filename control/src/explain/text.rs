//! Answers for people and for programs.

use super::answer::{Explanation, Side};

/// The answer in a few aligned lines, the verdict first. Ends with a newline.
#[must_use]
pub fn explain_text(explanation: &Explanation) -> String {
    let Explanation { from, to, verdict, egress, ingress, .. } = explanation;
    let end = |party: &super::Party| match (&party.pod, &party.node) {
        (None, None) => format!("{} (outside)", party.ip),
        _ => format!("{} ({})", party.name(), party.ip),
    };
    let mut text = format!("{}: {} -> {} {}\n", verdict.word(), end(from), end(to), explanation.target());
    for (direction, side) in [("egress ", egress), ("ingress", ingress)] {
        push_side(&mut text, direction, side);
    }
    text
}

fn push_side(text: &mut String, direction: &str, side: &Side) {
    text.push_str(&format!("  {direction}  {:<10}  {}\n", side.verdict.word(), side.reason));
    for (place, near) in side.nearest.iter().enumerate() {
        let label = if place == 0 { "nearest:" } else { "" };
        text.push_str(&format!("                       {label:<8} {}\n", near.reason));
    }
}

/// The answer as one JSON value.
#[must_use]
pub fn explain_json(explanation: &Explanation) -> serde_json::Value {
    serde_json::to_value(explanation).unwrap_or_default()
}
