//! Manifests as they stand there, for whoever hands them on to an API server.
//!
//! Scalars mean what they mean to [`decode`](super::decode). Nothing is checked: what is wrong, `decode` says.

use serde_json::{Map, Value as Json};

use super::yaml::{self, Value};

/// The objects of a file, the items of lists among them. Documents that cannot be read are left out.
#[must_use]
pub fn objects(bytes: &[u8]) -> Vec<Json> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim_start_matches('\u{feff}');
    let mut found = Vec::new();
    for (_, document) in yaml::documents(text) {
        if let Ok(document) = document {
            take_apart(json(&document), &mut found);
        }
    }
    found
}

fn take_apart(mut object: Json, found: &mut Vec<Json>) {
    let kind = object.get("kind").and_then(Json::as_str).unwrap_or_default();
    let Some(item_kind) = kind.strip_suffix("List").map(str::to_owned) else { return found.push(object) };
    let version = object.get("apiVersion").cloned().unwrap_or_default();
    let Some(Json::Array(items)) = object.get_mut("items").map(Json::take) else { return found.push(object) };
    for mut item in items {
        // Those of a typed list may leave out what the list says.
        if let (false, Some(item)) = (item_kind.is_empty(), item.as_object_mut()) {
            item.entry("kind").or_insert_with(|| item_kind.clone().into());
            item.entry("apiVersion").or_insert_with(|| version.clone());
        }
        take_apart(item, found);
    }
}

fn json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(text) => value
            .integer()
            .map(Json::from)
            .or_else(|| serde_json::Number::from_f64(text.replace('_', "").parse().ok()?).map(Json::Number))
            .unwrap_or_else(|| text.clone().into()),
        Value::Str(text) => text.clone().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(map) => {
            map.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::objects;

    #[test]
    fn documents_and_items_of_lists() {
        let text = "kind: A\nspec: {live: yes, count: 80.0, share: 1.5, text: '1', nothing: }\n---\n\n---\n{bad\n---\n\
                    kind: PodList\napiVersion: v1\nitems: [{metadata: {name: x}}, {kind: B}]\n---\n\
                    kind: List\nitems: [{kind: C, apiVersion: v2}]\n";
        assert_eq!(
            objects(text.as_bytes()),
            [
                json!({ "kind": "A", "spec": { "live": true, "count": 80, "share": 1.5, "text": "1", "nothing": null } }),
                json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "x" } }),
                json!({ "kind": "B", "apiVersion": "v1" }),
                json!({ "kind": "C", "apiVersion": "v2" }),
            ]
        );
    }
}
