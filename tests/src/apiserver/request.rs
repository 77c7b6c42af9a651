//! A request as the server sees it: the path taken apart, the query, the answer's form that is asked for.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::http::request::Parts;

use super::failure::Failure;
use super::kinds::Resource;

/// What stands before a token in a path.
pub(crate) const AS: &str = "as";

/// The query string.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads one; a leading `&` and empty parts are fine.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The value of a parameter, empty if it is not there.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether a parameter is set to a truth.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    /// A number; `None` if the parameter is missing or empty.
    ///
    /// # Errors
    /// [`Failure`] 400 if it is no number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Failure::bad_request(format!("invalid value for {name}: {text:?}"))),
        }
    }
}

/// What of the API a path names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The kind.
    pub resource: &'static Resource,
    /// The namespace in the path.
    pub namespace: Option<String>,
    /// The object in the path.
    pub name: Option<String>,
    /// The subresource in the path.
    pub part: Option<String>,
}

impl Target {
    /// Reads the path below the version. `None` if no kind is served there.
    #[must_use]
    pub fn parse(kinds: &[&'static Resource], group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let find = |plural: &str| {
            kinds
                .iter()
                .copied()
                .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
        };
        let own = |text: &&str| (*text).to_owned();
        match rest {
            // What follows a namespace is a kind, unless it is a part of the namespace itself.
            ["namespaces", namespace, plural, rest @ ..] if !matches!(*plural, "status" | "finalize") => {
                let resource = find(plural).filter(|resource| resource.namespaced)?;
                let (name, part) = (rest.first().map(own), rest.get(1).map(own));
                (rest.len() <= 2).then(|| Self { resource, namespace: Some((*namespace).into()), name, part })
            }
            [plural, rest @ ..] => {
                let resource = find(plural)?;
                let fits = rest.len() <= if resource.namespaced { 0 } else { 2 };
                let (name, part) = (rest.first().map(own), rest.get(1).map(own));
                fits.then_some(Self { resource, namespace: None, name, part })
            }
            [] => None,
        }
    }

    /// The namespace for the store: empty for cluster-wide kinds.
    #[must_use]
    pub fn space(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The name, empty if the path has none.
    #[must_use]
    pub fn object(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The whole objects.
    Full,
    /// Their metadata alone.
    Metadata,
    /// Rows for people.
    Table,
}

/// A request, its body read.
#[derive(Debug, Clone)]
pub struct Request {
    /// HTTP method.
    pub method: Method,
    /// Path, without a token in front.
    pub path: String,
    /// Query.
    pub query: Query,
    /// What is accepted.
    pub accept: String,
    /// What the body is, without parameters.
    pub content_type: String,
    /// Bearer token; the one of the path if no header has one.
    pub token: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Request {
    /// Takes what matters from an HTTP request.
    #[must_use]
    pub fn new(parts: &Parts, body: Bytes) -> Self {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let bearer = header(AUTHORIZATION).strip_prefix("Bearer ").map(str::trim);
        let (token, path) = split_token(parts.uri.path());
        Self {
            method: parts.method.clone(),
            path: path.to_owned(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            accept: header(ACCEPT).to_owned(),
            content_type: header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_owned(),
            token: bearer.or(token).map(str::to_owned),
            body,
        }
    }

    /// The first form among those accepted that is served.
    ///
    /// # Errors
    /// [`Failure`] 406 if none is: a client that takes protobuf alone, say.
    pub fn form(&self) -> Result<Form, Failure> {
        if self.accept.is_empty() {
            return Ok(Form::Full);
        }
        let mut forms = self.accept.split(',').filter_map(|accepted| {
            let mut parts = accepted.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "application/*" | "*/*")) {
                return None;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                None => Some(Form::Full),
                Some("Table") => Some(Form::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Form::Metadata),
                Some(_) => None,
            }
        });
        forms.next().ok_or_else(|| {
            Failure::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            )
        })
    }
}

/// The token in front of a path, and the path behind it.
fn split_token(path: &str) -> (Option<&str>, &str) {
    let behind = path.strip_prefix('/').and_then(|path| path.strip_prefix(AS)?.strip_prefix('/'));
    let Some(behind) = behind else { return (None, path) };
    let (token, rest) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
    (Some(token), rest)
}

#[cfg(test)]
mod tests {
    use super::super::kinds::all;
    use super::{Query, Target, split_token};

    #[test]
    fn tokens_in_paths() {
        assert_eq!(split_token("/as/secret/api/v1/pods"), (Some("secret"), "/api/v1/pods"));
        assert_eq!(split_token("/as/secret"), (Some("secret"), ""));
        for path in ["/api/v1/pods", "/as", "/assets/x", "/", ""] {
            assert_eq!(split_token(path), (None, path));
        }
    }

    #[test]
    fn paths() {
        let kinds = all(false);
        let parse = |path: &str| {
            let rest: Vec<&str> = path.split('/').collect();
            Target::parse(&kinds, "", "v1", &rest).map(|target| {
                (target.resource.plural, target.space().to_owned(), target.object().to_owned(), target.part)
            })
        };
        let is = |plural, space: &str, name: &str, part: Option<&str>| {
            Some((plural, space.to_owned(), name.to_owned(), part.map(str::to_owned)))
        };
        assert_eq!(parse("pods"), is("pods", "", "", None));
        assert_eq!(parse("namespaces/a/pods/b/status"), is("pods", "a", "b", Some("status")));
        assert_eq!(parse("namespaces/a"), is("namespaces", "", "a", None));
        assert_eq!(parse("namespaces/a/status"), is("namespaces", "", "a", Some("status")));
        assert_eq!(parse("nodes/n/status"), is("nodes", "", "n", Some("status")));
        for none in ["pods/b", "namespaces/a/nodes", "namespaces/a/pods/b/c/d", "things", "nodes/a/b/c"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("&limit=500&labelSelector=a%3Db%2Cc&watch=1");
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert_eq!(query.get("labelSelector"), "a=b,c");
        assert!(query.is("watch"));
        assert!(query.number("labelSelector").is_err());
        assert_eq!(query.number("continue").unwrap(), None);
    }
}
