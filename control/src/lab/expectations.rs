//! What a person expects of an example, written beside its manifests as `expectations.txt`.
//!
//! Written by hand from what the policies are meant to do, never made by the compiler: a demo that compared the
//! product with itself would prove nothing.
//!
//! ```text
//! # Externals of the lab, as `--external` has them.
//! external internet=198.51.100.7,2001:db8::7
//! # FROM -> TO PORT/PROTOCOL[, PORT/PROTOCOL]...; what is not listed is denied.
//! shop/web -> shop/api 8080/TCP, 9090/UDP
//! ext-internet -> shop/web 80/TCP
//! node -> *
//! ```
//!
//! FROM is `namespace/pod`, `node` or `ext-NAME`; TO is `namespace/pod`, `ext-NAME`, or `*` for everybody on every
//! port that answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::plan::{AnswerPort, External};

/// Name of the file.
pub const FILE: &str = "expectations.txt";
/// The node as FROM.
pub const NODE: &str = "node";

/// An example's expectations.
#[derive(Debug, Default)]
pub struct Expectations {
    /// Hosts outside of the cluster.
    pub externals: Vec<External>,
    allowed: BTreeSet<(String, String, AnswerPort)>,
    everywhere: BTreeSet<String>,
}

impl Expectations {
    /// Reads the file of an example's folder.
    ///
    /// # Errors
    /// File, line and what was expected.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{}: a demo needs expectations to compare with", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut expectations = Self::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                expectations.line(line).with_context(|| format!("line {}", i + 1))?;
            }
        }
        Ok(expectations)
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        if let Some(external) = line.strip_prefix("external ") {
            self.externals.push(external.trim().parse()?);
            return Ok(());
        }
        let (from, to) = line.split_once("->").context("expected FROM -> TO PORT/PROTOCOL, ...")?;
        let (from, to) = (from.trim(), to.trim());
        if to == "*" {
            self.everywhere.insert(from.to_owned());
            return Ok(());
        }
        let (to, ports) = to.split_once(char::is_whitespace).context("expected a port after TO")?;
        for port in ports.split(',') {
            let port = port.trim();
            let (number, protocol) =
                port.split_once('/').with_context(|| format!("{port:?}: expected PORT/PROTOCOL"))?;
            let number = number.parse().with_context(|| format!("{port:?}: expected a port number"))?;
            let port = match protocol {
                "TCP" => AnswerPort::Tcp(number),
                "UDP" => AnswerPort::Udp(number),
                other => anyhow::bail!("{other:?}: expected TCP or UDP"),
            };
            self.allowed.insert((from.to_owned(), to.to_owned(), port));
        }
        Ok(())
    }

    /// Whether `from` is expected to reach `to`.
    #[must_use]
    pub fn allows(&self, from: &str, to: &str, port: AnswerPort) -> bool {
        self.everywhere.contains(from) || self.allowed.contains(&(from.to_owned(), to.to_owned(), port))
    }

    /// Names and ports that nobody in the lab has: slips of the pen that would otherwise go unnoticed.
    #[must_use]
    pub fn unknown(
        &self,
        sources: &BTreeSet<String>,
        targets: &BTreeSet<(String, AnswerPort)>,
    ) -> Vec<String> {
        let from = self.allowed.iter().map(|(from, ..)| from).chain(&self.everywhere);
        let mut unknown: BTreeSet<String> =
            from.filter(|from| !sources.contains(*from)).map(|from| format!("{from} is nobody")).collect();
        for (_, to, port) in &self.allowed {
            if !targets.contains(&(to.clone(), *port)) {
                unknown.insert(format!("{to} does not answer on {port}"));
            }
        }
        unknown.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let text = "# x\nexternal internet=192.0.2.1\n a/b -> c/d 80/TCP, 53/UDP # why\nnode -> *\n";
        let expectations = Expectations::parse(text).unwrap();
        assert_eq!(expectations.externals.len(), 1);
        assert!(expectations.allows("a/b", "c/d", AnswerPort::Tcp(80)));
        assert!(expectations.allows("a/b", "c/d", AnswerPort::Udp(53)));
        assert!(!expectations.allows("a/b", "c/d", AnswerPort::Udp(80)));
        assert!(expectations.allows("node", "x/y", AnswerPort::Udp(80)));
        let sources = BTreeSet::from(["a/b".to_owned()]);
        let targets = BTreeSet::from([("c/d".to_owned(), AnswerPort::Tcp(80))]);
        assert_eq!(
            expectations.unknown(&sources, &targets),
            ["c/d does not answer on 53/UDP", "node is nobody"]
        );
        for wrong in
            ["a/b", "a/b -> c/d", "a/b -> c/d 80", "a/b -> c/d 80/tcp", "a/b -> c/d x/TCP", "external a"]
        {
            assert!(Expectations::parse(wrong).is_err(), "{wrong}");
        }
    }
}
