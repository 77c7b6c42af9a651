//! `podgate check`.

use std::collections::BTreeMap;

use podgate_config::manifest::{Finding, Severity};
use serde::Serialize;

use super::args::FilesArgs;
use super::console::{Console, Outcome, Tone};
use crate::{source, store};

#[derive(Serialize)]
struct Report<'a> {
    files: usize,
    errors: usize,
    warnings: usize,
    skipped: &'a BTreeMap<String, usize>,
    findings: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    severity: &'static str,
    file: &'a str,
    document: usize,
    kind: &'a str,
    name: &'a str,
    field: &'a str,
    message: &'a str,
}

/// Prints every finding, errors first. Exit code 1 if there is an error.
pub fn check(args: &FilesArgs, console: &mut Console) -> anyhow::Result<Outcome> {
    let loaded = source::load(&args.files)?;
    let mut findings = loaded.findings;
    // What does not fit together is worth knowing also if a file is bad; it may be a consequence, so it comes later.
    findings.extend(store::merge(&loaded.objects).findings);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    findings.sort_by_key(|finding| finding.severity != Severity::Error);

    if console.json() {
        let skipped = &loaded.skipped;
        let findings = findings.iter().map(line).collect();
        console.document(&Report { files: loaded.files, errors, warnings, skipped, findings })?;
    } else {
        for finding in &findings {
            let text = finding.to_string();
            let painted = match finding.severity {
                Severity::Error => console.paint(Tone::Bad, &text),
                Severity::Warning => console.paint(Tone::Warn, &text),
            };
            console.line(painted)?;
        }
        let skipped: usize = loaded.skipped.values().sum();
        let skipped = if skipped == 0 {
            String::new()
        } else {
            format!(", {skipped} documents of other kinds skipped")
        };
        let summary = format!(
            "{}: {}, {}{skipped}",
            counted(loaded.files, "file"),
            counted(errors, "error"),
            counted(warnings, "warning")
        );
        console.line(console.paint(Tone::Faint, summary))?;
    }
    Ok(if errors == 0 { Outcome::Fine } else { Outcome::BadNews })
}

fn line(finding: &Finding) -> Line<'_> {
    Line {
        severity: match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        file: &finding.file,
        document: finding.document,
        kind: &finding.kind,
        name: &finding.name,
        field: &finding.field,
        message: &finding.message,
    }
}

fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
