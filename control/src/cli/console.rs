//! What a command prints, and how it ends.
//!
//! Findings go to standard output through a [`Console`], errors to standard error from one place
//! ([`super::main`]). A reader that went away (`podgate drops --follow | head`) ends a command quietly; so nobody
//! here may use `println!`, which panics on a closed pipe.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How a command that ran to its end turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0. A deny is an answer, not an error.
    Fine,
    /// Exit code 1: invalid manifest, mismatch, failed assertion.
    BadNews,
    /// Exit code 2 after the findings have been printed: input of which a part could not be answered.
    Unusable,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document, or one object a line for streams.
    Json,
}

/// Colours with a meaning, used on a terminal only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Allowed, healthy.
    Good,
    /// Denied, broken.
    Bad,
    /// Suspicious.
    Warn,
    /// Headings.
    Strong,
    /// Details that may be skipped.
    Faint,
}

/// Standard output with its format and whether it may be coloured.
pub struct Console {
    out: Box<dyn Write + Send>,
    format: Format,
    colour: bool,
}

impl Console {
    /// Buffered standard output; coloured if it is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        let out = io::stdout();
        let colour = format == Format::Text
            && out.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out: Box::new(io::BufWriter::new(out)), format, colour }
    }

    /// Any other writer, without colour.
    #[must_use]
    pub fn to(out: Box<dyn Write + Send>, format: Format) -> Self {
        Self { out, format, colour: false }
    }

    /// Whether answers are wanted as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.format == Format::Json
    }

    /// One line of text.
    ///
    /// # Errors
    /// The writer's; [`io::ErrorKind::BrokenPipe`] ends a command quietly.
    pub fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Text of whole lines, as it is.
    ///
    /// # Errors
    /// The writer's.
    pub fn text(&mut self, lines: &str) -> io::Result<()> {
        self.out.write_all(lines.as_bytes())
    }

    /// Standard output itself.
    pub fn writer(&mut self) -> &mut (dyn Write + Send) {
        &mut *self.out
    }

    /// One JSON value on one line.
    ///
    /// # Errors
    /// The writer's.
    pub fn object(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// One JSON document, indented for people who look at it.
    ///
    /// # Errors
    /// The writer's.
    pub fn document(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// `text` in the colour of `tone` if this is a terminal, as it is otherwise.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: impl std::fmt::Display) -> String {
        if !self.colour {
            return text.to_string();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warn => "33",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Pushes what is buffered out; streams call it after each line.
    ///
    /// # Errors
    /// The writer's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Aligned columns for people. Widths count characters, so colour is put on after padding.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<(String, Option<Tone>)>>,
}

impl Table {
    /// A table under these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|text| ((*text).to_owned(), Some(Tone::Strong))).collect()] }
    }

    /// One more row of plain cells.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.toned(cells.into_iter().map(|cell| (cell.into(), None)));
    }

    /// One more row whose cells may have a tone.
    pub fn toned(&mut self, cells: impl IntoIterator<Item = (String, Option<Tone>)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether there is no row below the headings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// Prints it, each line after `indent`.
    ///
    /// # Errors
    /// The writer's.
    pub fn print(&self, console: &mut Console, indent: &str) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0usize; columns];
        for row in &self.rows {
            for (width, (text, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(text.chars().count());
            }
        }
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            let mut line = String::from(indent);
            for (i, ((text, tone), width)) in row.iter().zip(&widths).enumerate() {
                let padding = if i == last { 0 } else { width.saturating_sub(text.chars().count()) + 2 };
                match tone {
                    Some(tone) => line.push_str(&console.paint(*tone, text)),
                    None => line.push_str(text),
                }
                line.extend(std::iter::repeat_n(' ', padding));
            }
            console.line(line.trim_end())?;
        }
        Ok(())
    }
}

/// A moment in milliseconds since 1970 as UTC's time of the day, to the millisecond.
#[must_use]
pub fn time_of_day(time_ms: u64) -> String {
    let seconds = time_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, time_ms % 1000)
}
