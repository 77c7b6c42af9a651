//! Who may do what: bearer tokens, and rules as a ClusterRole has them.

use super::failure::Failure;
use super::request::Target;

/// What some verbs on some resources allow; `*` stands for all.
#[derive(Debug, Clone)]
pub struct Rule {
    /// API groups, the core group as an empty text.
    pub groups: Vec<String>,
    /// Plural names, with `/status` and the like for subresources.
    pub resources: Vec<String>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verbs: Vec<String>,
}

impl Rule {
    /// A rule of plain texts.
    #[must_use]
    pub fn new(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Self {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Self { groups: own(groups), resources: own(resources), verbs: own(verbs) }
    }

    /// All that there is.
    #[must_use]
    pub fn everything() -> Self {
        Self::new(&["*"], &["*"], &["*"])
    }
}

/// Somebody with a token.
#[derive(Debug, Clone)]
pub struct User {
    /// The bearer token.
    pub token: String,
    /// The name in error messages.
    pub name: String,
    /// What is allowed; nothing else is.
    pub rules: Vec<Rule>,
}

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody, with or without a token.
    #[default]
    Open,
    /// These; all others get 401.
    Users(Vec<User>),
}

impl Access {
    /// Whether whoever bears `token` may use `verb` on `target`; without a target, discovery.
    ///
    /// # Errors
    /// [`Failure`] 401 for unknown tokens and none, 403 for what no rule allows.
    pub fn check(&self, token: Option<&str>, verb: &str, target: Option<&Target>) -> Result<(), Failure> {
        let Self::Users(users) = self else { return Ok(()) };
        let user = users.iter().find(|user| token == Some(user.token.as_str()));
        let user = user.ok_or_else(Failure::unauthorized)?;
        let Some(target) = target else { return Ok(()) };
        let resource = match &target.part {
            None => target.resource.plural.to_owned(),
            Some(part) => format!("{}/{part}", target.resource.plural),
        };
        let has = |texts: &[String], wanted: &str| texts.iter().any(|text| text == "*" || text == wanted);
        let allowed = user.rules.iter().any(|rule| {
            has(&rule.groups, target.resource.group)
                && has(&rule.resources, &resource)
                && has(&rule.verbs, verb)
        });
        if allowed {
            return Ok(());
        }
        Err(Failure::forbidden(target.resource, target.object(), &user.name, verb))
    }
}
