//! How each policy is: `podgate status policies`.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::duration;
use crate::cli::{Console, Table, Tone};

/// Every NetworkPolicy that the sources know, or knew and that is still in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoliciesStatus {
    /// Number of the snapshot handed to the workers last.
    pub generation_published: u64,
    /// Number of the oldest snapshot that a worker may still be judging by.
    pub generation_in_force: u64,
    /// By namespace and name.
    pub policies: Vec<PolicyStanding>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStanding {
    /// `namespace/name`.
    pub policy: String,
    /// Whether it is in force.
    pub state: Standing,
    /// Why it is not in force as its file says; `None` if it is.
    pub reason: Option<String>,
    /// The generation since which it is in force as it is (of an earlier version: as it was); `None` if it never was.
    pub generation: Option<u64>,
    /// When that was published, in milliseconds since 1970; `None` if that is too long ago to be remembered.
    pub since_ms: Option<u64>,
    /// Pods that it selects, of those with a port here.
    pub pods_here: usize,
    /// Pods that it selects, in the whole cluster.
    pub pods: usize,
    /// What it decided; `None` if it does not concern this direction.
    pub ingress: Option<Decisions>,
    /// What it decided; `None` if it does not concern this direction.
    pub egress: Option<Decisions>,
}

/// How far a policy is what packets are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// On every worker, as its file says.
    InForce,
    /// On every worker, but for what is not understood of it: that allows nothing.
    InPart,
    /// Published, but some worker still judges by an older generation.
    OnItsWay,
    /// What it said earlier is in force: the change, or its deletion, is not.
    Earlier,
    /// Nothing of it is in force.
    NotInForce,
}

impl Standing {
    fn word(self) -> &'static str {
        match self {
            Self::InForce => "in force",
            Self::InPart => "in force in part",
            Self::OnItsWay => "on its way",
            Self::Earlier => "earlier version in force",
            Self::NotInForce => "not in force",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Self::InForce => Tone::Good,
            Self::InPart | Self::OnItsWay | Self::Earlier => Tone::Warn,
            Self::NotInForce => Tone::Bad,
        }
    }
}

/// New connections decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decisions {
    /// That it allowed, together with others if several allow the same.
    pub allowed: u64,
    /// Denied while it was one of those that isolate the pod.
    pub denied: u64,
}

impl From<crate::compiler::PolicyHits> for Decisions {
    fn from(hits: crate::compiler::PolicyHits) -> Self {
        Self { allowed: hits.allowed, denied: hits.denied }
    }
}

impl PoliciesStatus {
    /// Whether packets are judged by what the files say.
    #[must_use]
    pub fn all_in_force(&self) -> bool {
        self.policies.iter().all(|policy| policy.state == Standing::InForce)
    }

    /// The text for people: a summary, what is wrong, and all policies.
    ///
    /// # Errors
    /// The console's.
    pub fn print(&self, console: &mut Console) -> io::Result<()> {
        let states = [
            Standing::InForce,
            Standing::InPart,
            Standing::OnItsWay,
            Standing::Earlier,
            Standing::NotInForce,
        ];
        let counts: Vec<String> = states
            .into_iter()
            .map(|state| (state, self.policies.iter().filter(|policy| policy.state == state).count()))
            .filter(|(state, count)| *count > 0 || *state == Standing::InForce)
            .map(|(state, count)| console.paint(state.tone(), format!("{count} {}", state.word())))
            .collect();
        console.line(format!(
            "Policies: {}; generation published {}, in force {}",
            counts.join(", "),
            self.generation_published,
            self.generation_in_force
        ))?;
        if self.policies.is_empty() {
            return Ok(());
        }
        console.line("")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut table =
            Table::new(&["policy", "generation", "since", "pods here", "of", "ingress", "egress", "state"]);
        for policy in &self.policies {
            let reason = policy.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let plain = |text: String| (text, None);
            table.toned([
                plain(policy.policy.clone()),
                plain(policy.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string())),
                plain(age(now, policy)),
                plain(policy.pods_here.to_string()),
                plain(policy.pods.to_string()),
                plain(in_words(policy.ingress)),
                plain(in_words(policy.egress)),
                (format!("{}{reason}", policy.state.word()), Some(policy.state.tone())),
            ]);
        }
        table.print(console, "")
    }
}

fn age(now: Duration, policy: &PolicyStanding) -> String {
    match (policy.generation, policy.since_ms) {
        (None, _) => "-".to_owned(),
        (Some(_), None) => "long ago".to_owned(),
        (Some(_), Some(time)) => {
            format!("{} ago", duration(now.saturating_sub(Duration::from_millis(time)).as_secs()))
        }
    }
}

fn in_words(decisions: Option<Decisions>) -> String {
    let Some(Decisions { allowed, denied }) = decisions else { return "-".to_owned() };
    format!("{allowed} allowed, {denied} denied")
}
