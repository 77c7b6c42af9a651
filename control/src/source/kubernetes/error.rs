//! What goes wrong between us and an API server, and what to do about it.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use podgate_config::manifest::server::{NotAnAnswer, ServerKind};

/// How rustls begins to say that a server's certificate is not good.
const UNTRUSTED: &str = "invalid peer certificate: ";

/// Why following a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file that says how.
    #[error("kubeconfig {file}: {error}", file = .file.display())]
    Kubeconfig {
        /// Its path.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// It would have programs run.
    #[error(
        "kubeconfig {file}: its user has `{field}`, and podgate runs no programs to get credentials; name a token, a \
         tokenFile or a client certificate there",
        file = .file.display()
    )]
    Plugin {
        /// Its path.
        file: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// What a pod has of its service account.
    #[error("in-cluster: {0}; is this a pod with a service account (automountServiceAccountToken)?")]
    InCluster(#[from] kube::config::InClusterError),
    /// Certificates, proxies.
    #[error("{access}: {error}")]
    Client {
        /// Where the settings of the connection are from.
        access: String,
        /// What is wrong with them.
        error: kube::Error,
    },
    /// No thread or no runtime.
    #[error("cannot start the thread that follows the API server: {0}")]
    Thread(std::io::Error),
}

/// Why a request, or a watch, did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 401.
    #[error("it does not know us (401 {message}); mend the token or the certificate in {access}")]
    Unauthorized {
        /// The server's words.
        message: String,
        /// Where the credentials are from.
        access: String,
    },
    /// 403.
    #[error(
        "it does not let us (403 {message}); grant list and watch on {resource} to this user: `podgate config --rbac` \
         prints the ClusterRole"
    )]
    Forbidden {
        /// The server's words.
        message: String,
        /// What was asked for.
        resource: &'static str,
    },
    /// 404.
    #[error("it has no {path} (404); is the address an API server's?")]
    Absent {
        /// What was asked for.
        path: &'static str,
    },
    /// 410: the version, or the place in a list, is no longer known.
    #[error("it does not know that version any more (410 {0})")]
    Gone(String),
    /// Another status.
    #[error("it answers {code} {message}")]
    Status {
        /// The HTTP status.
        code: u16,
        /// The server's words.
        message: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Whoever answers there cannot show that it is the server.
    #[error(
        "its certificate is not believed ({reason}); mend the certificate authority or the server's name in {access}"
    )]
    Untrusted {
        /// What is wrong with the certificate.
        reason: String,
        /// Where the authority is from.
        access: String,
    },
    /// No connection, or a broken one.
    #[error("{0}")]
    Connection(String),
    /// The connection is there and nothing comes.
    #[error("it was silent for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// Something else answers there.
    #[error("it answers what no API server does: {0}")]
    Answer(#[from] NotAnAnswer),
    /// It sends the same place again as the next one of a list.
    #[error("its list has no end: the next page is the same one again")]
    Endless,
    /// The server tells of the deletion of an object that is not the one that is known.
    #[error("it has deleted another {0} than the one that is known, so something was missed")]
    Missed(String),
}

impl ApiError {
    /// What kube says, in our terms.
    pub(super) fn of(error: kube::Error, kind: ServerKind, access: &str) -> Self {
        let no_answer = |text: String| match text.split_once(UNTRUSTED) {
            Some((_, reason)) => Self::Untrusted { reason: reason.to_owned(), access: access.to_owned() },
            None => Self::Connection(text),
        };
        let status = match error {
            kube::Error::Api(status) => status,
            kube::Error::Service(error) => return no_answer(chain(&*error)),
            kube::Error::HyperError(error) => return no_answer(chain(&error)),
            other => return no_answer(chain(&other)),
        };
        let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        let message = line(&message);
        match status.code {
            401 => Self::Unauthorized { message, access: access.to_owned() },
            403 => Self::Forbidden { message, resource: resource(kind) },
            404 => Self::Absent { path: kind.path() },
            410 => Self::Gone(message),
            code => {
                let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                Self::Status { code, message, retry_after }
            }
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Status { code, .. } => *code == 429 || *code >= 500,
            Self::Connection(_) | Self::Silent(_) => true,
            _ => false,
        }
    }

    /// Whether another connection, with credentials read anew, may do better.
    pub(super) fn is_about_the_connection(&self) -> bool {
        matches!(
            self,
            Self::Unauthorized { .. } | Self::Untrusted { .. } | Self::Connection(_) | Self::Silent(_)
        )
    }
}

/// The last part of a kind's path: what RBAC calls it.
pub(super) fn resource(kind: ServerKind) -> &'static str {
    kind.path().rsplit('/').next().unwrap_or_default()
}

/// A server's words as a part of one line.
pub(super) fn line(text: &str) -> String {
    const LONGEST: usize = 300;
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push_str("...");
    }
    line
}

/// An error with its causes, each once: the outer ones often say no more than that something failed.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    // kube's wrapping says nothing.
    for wrapping in ["ServiceError: ", "HyperError: "] {
        text = text.strip_prefix(wrapping).map(ToOwned::to_owned).unwrap_or(text);
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            // Writing to a text does not fail.
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    line(&text)
}
