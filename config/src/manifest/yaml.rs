//! Text into plain values: YAML 1.2 with the implicit types that Kubernetes' own parser (YAML 1.1) sees, and JSON.
//!
//! Documents are split before they are parsed, at lines that begin with `---`, as kubectl does it: a syntax error spoils
//! its own document alone and is reported with that document's number. Duplicate keys are errors, because one of the
//! two would be lost without a word. Depth and the growth by aliases are bounded, so that no file exhausts memory or stack.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

pub(super) mod json;

/// Deeper nesting is refused; Kubernetes objects stay far below.
const MAX_DEPTH: usize = 100;
/// What aliases and anchors of one file may add, in values; text counts too, as a long one repeated fills the memory as
/// well as many values do. One bound for the file, since its documents may be as many as one likes.
const MAX_ALIASED: usize = 100_000;
/// The field of which the fields become those of the object around it.
const MERGE: &str = "<<";
/// Bytes of text that count as a value.
const TEXT_VALUE: usize = 32;

/// A value as Kubernetes sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true`, `yes`, `on`, ...
    Bool(bool),
    /// An integer that fits into 64 bits.
    Int(i64),
    /// Any other number, as written.
    Float(String),
    /// Text.
    Str(String),
    /// A list.
    List(Vec<Value>),
    /// An object.
    Map(Map),
}

/// An object's fields, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    /// Name and value.
    pub fields: Vec<(String, Value)>,
}

impl Map {
    /// The value of a field; `None` also for `null`, which the API server takes for absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let (_, value) = self.fields.iter().find(|(field, _)| field == name)?;
        (*value != Value::Null).then_some(value)
    }
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// An integer, or a number that is one: kubectl turns `80.0` and `8e1` into 80 on the way to JSON.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Float(text) => text.replace('_', "").parse::<f64>().ok()?.to_string().parse().ok(),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "empty".to_owned(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Str(text) => format!("the text {text:?}"),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "an object".to_owned(),
        }
    }

    /// How many containers are inside of each other at most.
    fn depth(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or_default(),
            Self::Map(map) => 1 + map.fields.iter().map(|(_, value)| value.depth()).max().unwrap_or_default(),
            _ => 0,
        }
    }

    /// How much memory a copy takes, in values.
    fn size(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Self::Map(map) => {
                let field = |(name, value): &(String, Self)| name.len() / TEXT_VALUE + value.size();
                1 + map.fields.iter().map(field).sum::<usize>()
            }
            Self::Str(text) | Self::Float(text) => 1 + text.len() / TEXT_VALUE,
            Self::Null | Self::Bool(_) | Self::Int(_) => 1,
        }
    }
}

/// The documents of a file that are not empty, numbered from 1, each as a value or with what is wrong.
pub fn documents(text: &str) -> impl Iterator<Item = (usize, Result<Value, String>)> {
    documents_with(text, Scalars::Resolved)
}

/// The same, but every scalar is the text that stands there, unless it is nothing: what `0123` or `no` means is up to
/// whoever knows the field.
pub fn documents_of_text(text: &str) -> impl Iterator<Item = (usize, Result<Value, String>)> {
    documents_with(text, Scalars::Text)
}

/// What a plain scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalars {
    /// What [`resolve`] says.
    Resolved,
    /// The text that stands there, unless it is nothing.
    Text,
}

impl Scalars {
    fn value(self, text: &str) -> Value {
        match (self, resolve(text)) {
            (Self::Resolved, value) => value,
            (Self::Text, Value::Null) => Value::Null,
            (Self::Text, _) => Value::Str(text.to_owned()),
        }
    }
}

fn documents_with(text: &str, scalars: Scalars) -> impl Iterator<Item = (usize, Result<Value, String>)> {
    let mut aliased = 0;
    split(text)
        .into_iter()
        .filter_map(move |(first_line, text)| {
            // As kubectl does it: what begins like JSON is read as that. It is read ten times as fast; what it refuses is
            // told by the other parser, which knows the line.
            if scalars == Scalars::Resolved
                && text.trim_ascii_start().starts_with('{')
                && let Ok(value) = json::parse(text)
            {
                return Some(Ok(value));
            }
            match parse(text, first_line, scalars, &mut aliased) {
                Ok(None) => None,
                Ok(Some(value)) => Some(Ok(value)),
                // JSON that is not quite YAML: tabs, surrogate pairs. What the builder refuses, JSON may not sneak past.
                Err(error) => match json::parse(text) {
                    Ok(value) => Some(Ok(value)),
                    Err(json::Refused::Syntax) => Some(Err(error)),
                    Err(json::Refused::Content(message)) => Some(Err(message)),
                },
            }
        })
        .enumerate()
        .map(|(i, value)| (i + 1, value))
}

/// The text between separators, with the number of its first line.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        let separator = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if separator {
            parts.push((start_line, text.get(start..offset).unwrap_or_default()));
            // What follows the dashes on their line is content.
            start = offset + 3;
            start_line = i + 1;
        }
        offset += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

/// A container that is being filled.
enum Open {
    List {
        anchor: usize,
        items: Vec<Value>,
    },
    /// `merged` is what `<<` brings; it waits for the fields that win over it.
    Map {
        anchor: usize,
        map: Map,
        key: Option<String>,
        seen: HashSet<String>,
        merged: Vec<Map>,
    },
}

struct Builder<'a> {
    first_line: usize,
    scalars: Scalars,
    stack: Vec<Open>,
    anchors: HashMap<usize, Value>,
    /// What aliases and anchors have added so far.
    aliased: &'a mut usize,
    root: Option<Value>,
}

fn parse(
    text: &str,
    first_line: usize,
    scalars: Scalars,
    aliased: &mut usize,
) -> Result<Option<Value>, String> {
    let mut builder =
        Builder { first_line, scalars, stack: Vec::new(), anchors: HashMap::new(), aliased, root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = first_line + error.marker().line().saturating_sub(1);
            format!(
                "line {line}, column {}: {}, expected YAML or JSON",
                error.marker().col() + 1,
                error.info()
            )
        })?;
        builder.event(event, span.start.line())?;
    }
    Ok(builder.root.filter(|value| *value != Value::Null))
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        let at = |message: String| format!("line {}: {message}", self.first_line + line.saturating_sub(1));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = match tag.as_deref().map(|tag| tag.suffix.as_str()) {
                    None if style == ScalarStyle::Plain => self.scalars.value(&text),
                    None | Some("str") => Value::Str(text.into_owned()),
                    Some("int" | "bool" | "float" | "null") => self.scalars.value(&text),
                    // !!binary and its like would mean another value to the API server.
                    Some(other) => {
                        return Err(at(format!("the tag {other:?} is not understood; write the value out")));
                    }
                };
                self.put(value, anchor, line)
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if self.stack.len() >= MAX_DEPTH =>
            {
                let _ = anchor;
                Err(at(format!("is nested deeper than {MAX_DEPTH}")))
            }
            Event::SequenceStart(anchor, _) => {
                if let Some(Open::Map { key: None, .. }) = self.stack.last() {
                    return Err(at("a list is no field name".to_owned()));
                }
                self.stack.push(Open::List { anchor, items: Vec::new() });
                Ok(())
            }
            Event::MappingStart(anchor, _) => {
                if let Some(Open::Map { key: None, .. }) = self.stack.last() {
                    return Err(at("an object is no field name".to_owned()));
                }
                self.stack.push(Open::Map {
                    anchor,
                    map: Map::default(),
                    key: None,
                    seen: HashSet::new(),
                    merged: Vec::new(),
                });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Open::List { anchor, items }) => self.put(Value::List(items), anchor, line),
                Some(Open::Map { anchor, mut map, mut seen, merged, .. }) => {
                    for (name, value) in merged.into_iter().flat_map(|map| map.fields) {
                        if seen.insert(name.clone()) {
                            map.fields.push((name, value));
                        }
                    }
                    self.put(Value::Map(map), anchor, line)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(value) = self.anchors.get(&anchor) else {
                    return Err(at("an alias of something that is not complete yet".to_owned()));
                };
                charge(self.aliased, value).map_err(at)?;
                // Aliases of aliases could nest far deeper than the text, and readers recurse.
                if self.stack.len() + value.depth() > MAX_DEPTH {
                    return Err(at(format!("is nested deeper than {MAX_DEPTH} by aliases")));
                }
                let value = value.clone();
                self.put(value, 0, line)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(at("a second document without a line of dashes before it".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, value: Value, anchor: usize, line: usize) -> Result<(), String> {
        let line = self.first_line + line.saturating_sub(1);
        if anchor != 0 {
            // A copy is kept for each; nested anchors would multiply.
            charge(self.aliased, &value).map_err(|message| format!("line {line}: {message}"))?;
            self.anchors.insert(anchor, value.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(value),
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { map, key: key @ Some(_), seen, merged, .. }) => {
                let name = key.take().unwrap_or_default();
                if name == MERGE {
                    *merged = to_merge(value, seen).map_err(|message| format!("line {line}: {message}"))?;
                } else {
                    map.fields.push((name, value));
                }
            }
            Some(Open::Map { key, seen, .. }) => {
                let name = match value {
                    Value::Str(text) => text,
                    Value::Int(number) => number.to_string(),
                    Value::Bool(value) => value.to_string(),
                    Value::Float(number) => number,
                    other => return Err(format!("line {line}: {} is no field name", other.describe())),
                };
                if !seen.insert(name.clone()) {
                    return Err(format!("line {line}: the field {name:?} is there twice, expected once"));
                }
                *key = Some(name);
            }
        }
        Ok(())
    }
}

/// The objects that a merge key brings, the one that wins first.
fn to_merge(value: Value, seen: &HashSet<String>) -> Result<Vec<Map>, String> {
    let values = match value {
        Value::List(items) => items,
        one => vec![one],
    };
    let mut maps = Vec::with_capacity(values.len());
    for value in values {
        let Value::Map(map) = value else {
            return Err(format!("{MERGE} is {}, expected an object or a list of objects", value.describe()));
        };
        // go-yaml takes the merged one of the two, YAML's own text the other.
        if let Some((name, _)) = map.fields.iter().find(|(name, _)| seen.contains(name)) {
            return Err(format!("the field {name:?} is before {MERGE} and in it, expected {MERGE} first"));
        }
        maps.push(map);
    }
    Ok(maps)
}

/// Counts one more copy of a value, before it is made.
fn charge(aliased: &mut usize, value: &Value) -> Result<(), String> {
    *aliased += value.size();
    if *aliased <= MAX_ALIASED {
        return Ok(());
    }
    Err(format!(
        "anchors and aliases repeat too much, expected at most {MAX_ALIASED} values in the whole file, with each \
         {TEXT_VALUE} bytes of text as one more"
    ))
}

/// The type of a plain scalar, as sigs.k8s.io/yaml (YAML 1.1 types) has it.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Value::Float(text.to_owned());
        }
        _ => {}
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.')) {
        return Value::Str(text.to_owned());
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['+', '-']) {
        Some(digits) => (if plain.starts_with('-') { "-" } else { "" }, digits),
        None => ("", plain.as_str()),
    };
    let radix = |digits: &str, radix| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok();
    let integer = if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        radix(binary, 2)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        radix(octal, 8)
    } else if digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        radix(digits, 8)
    } else {
        radix(digits, 10)
    };
    if let Some(integer) = integer.filter(|_| digits.starts_with(|first: char| first.is_ascii_digit())) {
        return Value::Int(integer);
    }
    let number =
        digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
            && digits.bytes().any(|byte| byte.is_ascii_digit())
            && plain.parse::<f64>().is_ok();
    if number { Value::Float(text.to_owned()) } else { Value::Str(text.to_owned()) }
}
