//! Reading fields of a value and telling what is wrong with them.
//!
//! A getter returns `None` after it has reported why; the caller goes on, so that one run tells everything that is
//! wrong with a file, and drops the object at the end if [`Reader::failed`].

use super::yaml::{Map, Value};
use super::{Finding, Severity};

/// Characters of a part of a finding.
const LONGEST: usize = 600;

/// Findings of a file that are listed. A few bytes can make one, so a large file could fill the memory with them.
pub(super) const MOST: usize = 1000;

/// One object's findings.
pub struct Reader<'a> {
    file: &'a str,
    document: usize,
    /// `kind` of the object, once it is known.
    pub kind: String,
    /// Its name, once it is known.
    pub name: String,
    findings: &'a mut Vec<Finding>,
    errors: usize,
}

impl<'a> Reader<'a> {
    /// Of one document; findings are added to `findings`.
    pub fn new(file: &'a str, document: usize, findings: &'a mut Vec<Finding>) -> Self {
        Self { file, document, kind: String::new(), name: String::new(), findings, errors: 0 }
    }

    /// Whether an error was found.
    pub fn failed(&self) -> bool {
        self.errors > 0
    }

    /// How many errors were found so far.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Something that the API server would refuse.
    pub fn error(&mut self, field: &str, message: impl Into<String>) {
        self.errors += 1;
        self.add(Severity::Error, field, message.into());
    }

    /// Something that is probably not meant.
    pub fn warning(&mut self, field: &str, message: impl Into<String>) {
        self.add(Severity::Warning, field, message.into());
    }

    fn add(&mut self, severity: Severity, field: &str, message: String) {
        if self.findings.len() > MOST {
            // The last one stands for the rest: an error among that must still make the file bad.
            if let Some(rest) = self.findings.last_mut() {
                rest.severity = rest.severity.min(severity);
            }
            return;
        }
        if self.findings.len() == MOST {
            let message = format!("more is found than the {MOST} findings before this one; mend those first");
            self.findings.push(Finding {
                severity,
                file: self.file.to_owned(),
                document: self.document,
                kind: String::new(),
                name: String::new(),
                field: String::new(),
                message,
            });
            return;
        }
        self.findings.push(Finding {
            severity,
            file: self.file.to_owned(),
            document: self.document,
            kind: line(&self.kind),
            name: line(&self.name),
            field: line(field),
            message: line(&message),
        });
    }

    /// An object.
    pub fn map<'v>(&mut self, value: &'v Value, field: &str) -> Option<&'v Map> {
        match value {
            Value::Map(map) => Some(map),
            other => self.wrong(other, field, "an object"),
        }
    }

    /// A list.
    pub fn list<'v>(&mut self, value: &'v Value, field: &str) -> Option<&'v [Value]> {
        match value {
            Value::List(items) => Some(items),
            other => self.wrong(other, field, "a list"),
        }
    }

    /// A text.
    pub fn text<'v>(&mut self, value: &'v Value, field: &str) -> Option<&'v str> {
        match value {
            Value::Str(text) => Some(text),
            // What YAML takes for something else is the most frequent slip of all.
            other @ (Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
                self.error(field, format!("is {}, expected text; put it in quotes", other.describe()));
                None
            }
            other => self.wrong(other, field, "text"),
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, value: &Value, field: &str) -> Option<bool> {
        match value {
            Value::Bool(value) => Some(*value),
            other => self.wrong(other, field, "true or false"),
        }
    }

    fn wrong<T>(&mut self, value: &Value, field: &str, expected: &str) -> Option<T> {
        self.error(field, format!("is {}, expected {expected}", value.describe()));
        None
    }

    /// An object that may be absent: `None` if it is, or if it is not an object.
    pub fn optional_map<'v>(&mut self, map: &'v Map, name: &str, path: &str) -> Option<&'v Map> {
        let value = map.get(name)?;
        self.map(value, &join(path, name))
    }

    /// A list that may be absent: empty if it is, or if it is not a list.
    pub fn optional_list<'v>(&mut self, map: &'v Map, name: &str, path: &str) -> &'v [Value] {
        map.get(name).and_then(|value| self.list(value, &join(path, name))).unwrap_or_default()
    }

    /// A text that may be absent.
    pub fn optional_text<'v>(&mut self, map: &'v Map, name: &str, path: &str) -> Option<&'v str> {
        let value = map.get(name)?;
        self.text(value, &join(path, name))
    }

    /// Fields that do not exist: errors or warnings.
    pub fn unknown(&mut self, map: &Map, path: &str, known: &[&str], severity: Severity) {
        for (name, _) in &map.fields {
            if known.contains(&name.as_str()) {
                continue;
            }
            let field = join(path, name);
            let message = match nearest(name, known) {
                Some(near) => format!("is not a field here, did you mean {near}?"),
                None => format!("is not a field here, expected one of {}", known.join(", ")),
            };
            match severity {
                Severity::Error => self.error(&field, message),
                Severity::Warning => self.warning(&field, message),
            }
        }
    }
}

/// Text of a manifest as a part of one line on a terminal: control characters are written out, and what is very long is
/// cut.
fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST));
    for (i, c) in text.chars().enumerate() {
        if i == LONGEST {
            line.push_str("...");
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// `path.name`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A known name that differs by case or one letter.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = name.to_lowercase();
    known.iter().copied().find(|candidate| letters_off(&lower, &candidate.to_lowercase()) <= 1)
}

/// How many letters there are from the first to the last that differs.
pub fn letters_off(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let prefix = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let rest = |chars: &[char]| chars.len() - prefix;
    let (longest, shortest) = (rest(&a).max(rest(&b)), rest(&a).min(rest(&b)));
    let suffix = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count().min(shortest);
    longest - suffix
}
