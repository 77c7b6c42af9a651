//! What goes wrong, as the API says it: a Status document whose `reason` is what clients decide by.

use serde_json::{Value, json};

use super::kinds::Resource;

/// A refused request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Failure {
    /// HTTP status.
    pub code: u16,
    /// The API's word for it.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What it is about.
    pub details: Value,
}

impl Failure {
    /// One without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({ "group": resource.group, "kind": resource.plural, "name": name });
        self
    }

    fn because(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details["causes"] = json!([{ "reason": reason, "message": message, "field": field }]);
        self
    }

    /// The request cannot be understood.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// No such object.
    #[must_use]
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
            .about(resource, name)
    }

    /// No such path.
    #[must_use]
    pub fn no_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// The name is taken.
    #[must_use]
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.qualified()))
            .about(resource, name)
    }

    /// Written on top of a version that is no longer the newest, or meant for another object of the same name.
    #[must_use]
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.qualified());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// Understood, but not a valid object.
    #[must_use]
    pub fn invalid(resource: &Resource, name: &str, field: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", resource.kind);
        Self::new(422, "Invalid", message).about(resource, name).because("FieldValueInvalid", why, field)
    }

    /// The namespace takes nothing new.
    #[must_use]
    pub fn terminating(resource: &Resource, name: &str, namespace: &str) -> Self {
        let why = format!("namespace {namespace} is being terminated");
        let message = format!(
            "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being \
             terminated",
            resource.qualified()
        );
        Self::new(403, "Forbidden", message).about(resource, name).because(
            "NamespaceTerminating",
            &why,
            "metadata.namespace",
        )
    }

    /// Who asks is known, and may not.
    #[must_use]
    pub fn forbidden(resource: &Resource, name: &str, user: &str, verb: &str) -> Self {
        let message = format!(
            "{} \"{name}\" is forbidden: User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\"",
            resource.qualified(),
            resource.plural,
            resource.group
        );
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    /// Who asks is not known.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The version asked for is forgotten.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The version asked for is in the future, for a list.
    #[must_use]
    pub fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(504, "Timeout", message);
        failure.details = json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        });
        failure
    }

    /// A body in a form that is not read.
    #[must_use]
    pub fn media_type(given: &str, read: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format ({given}) - accepted: {read}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The verb is not served there.
    #[must_use]
    pub fn method() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// The Status document.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}
