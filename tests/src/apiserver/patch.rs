//! The patch types that change an object that is there: JSON patch, merge patch, strategic merge patch.

use serde_json::Value;

use super::failure::Failure;
use super::kinds::Resource;
use super::object::text;
use super::strategic;

const READ: &str = "application/json-patch+json, application/merge-patch+json, \
                    application/strategic-merge-patch+json, application/apply-patch+yaml";

/// The object after a patch.
///
/// # Errors
/// [`Failure`] 415 for another type, 400 for what is no patch, 422 for one that does not fit the object.
pub fn patched(resource: &Resource, kind: &str, mut value: Value, body: &[u8]) -> Result<Value, Failure> {
    let broken =
        |error: serde_json::Error| Failure::bad_request(format!("the patch cannot be read: {error}"));
    let name = text(&value, "/metadata/name").to_owned();
    match kind {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body).map_err(broken)?;
            json_patch::patch(&mut value, &patch)
                .map_err(|error| Failure::invalid(resource, &name, "patch", &error.to_string()))?;
        }
        "application/merge-patch+json" => {
            let patch: Value = serde_json::from_slice(body).map_err(broken)?;
            if !patch.is_object() {
                return Err(Failure::bad_request("a merge patch is an object"));
            }
            json_patch::merge(&mut value, &patch);
        }
        // Kinds of a CRD have no Go types for the server to take merge keys from.
        "application/strategic-merge-patch+json" if resource.group != "policy.networking.k8s.io" => {
            let patch: Value = serde_json::from_slice(body).map_err(broken)?;
            strategic::merge(resource, &mut value, &patch)?;
        }
        _ => return Err(Failure::media_type(kind, READ)),
    }
    if !value.get("metadata").is_some_and(Value::is_object) {
        return Err(Failure::invalid(resource, &name, "metadata", "Required value"));
    }
    Ok(value)
}
