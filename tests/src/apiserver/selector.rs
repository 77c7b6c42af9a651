//! Label and field selectors as they stand in query strings.

use super::failure::Failure;
use super::kinds::Resource;
use super::object::Object;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    /// The value is one of these.
    In(Vec<String>),
    /// There is no value, or none of these.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// Which objects a request is about.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    labels: Vec<(String, Want)>,
    fields: Vec<(Field, String, bool)>,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Name,
    Namespace,
    Listed(usize),
}

impl Selector {
    /// Reads both selectors; either may be empty.
    ///
    /// # Errors
    /// [`Failure`] 400 for what cannot be read, and for a field that cannot be selected by.
    pub fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    /// Whether everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object matches.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        let labels = self.labels.iter().all(|(key, want)| {
            let found = object.labels.iter().find(|(known, _)| known == key).map(|(_, value)| value);
            match (want, found) {
                (Want::In(values), Some(value)) => values.contains(value),
                (Want::NotIn(values), Some(value)) => !values.contains(value),
                (Want::In(_) | Want::Exists, None) | (Want::Absent, Some(_)) => false,
                (Want::Exists, Some(_)) | (Want::NotIn(_) | Want::Absent, None) => true,
            }
        });
        labels
            && self.fields.iter().all(|(field, wanted, equal)| {
                let found = match field {
                    Field::Name => &object.name,
                    Field::Namespace => &object.namespace,
                    Field::Listed(place) => match object.fields.get(*place) {
                        Some(value) => value,
                        None => return false,
                    },
                };
                (found == wanted) == *equal
            })
    }
}

fn parse_labels(text: &str) -> Result<Vec<(String, Want)>, Failure> {
    let wrong = || Failure::bad_request(format!("unable to parse requirement in label selector: {text:?}"));
    split_outside_brackets(text).into_iter().map(|part| parse_requirement(part).ok_or_else(wrong)).collect()
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn parse_requirement(part: &str) -> Option<(String, Want)> {
    let valid = |key: &str| !key.is_empty() && !key.contains(|letter: char| " ()=!,".contains(letter));
    let named = |key: &str, want: Want| valid(key.trim()).then(|| (key.trim().to_owned(), want));
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((key, value)) = part.split_once("!=") {
        return named(key, Want::NotIn(one(value)));
    }
    if let Some((key, value)) = part.split_once('=') {
        return named(key, Want::In(one(value.trim_start_matches('='))));
    }
    if let Some(key) = part.strip_prefix('!') {
        return named(key, Want::Absent);
    }
    let Some((head, list)) = part.split_once('(') else { return named(part, Want::Exists) };
    let values = list.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
    match head.split_whitespace().collect::<Vec<_>>().as_slice() {
        [key, "in"] => named(key, Want::In(values)),
        [key, "notin"] => named(key, Want::NotIn(values)),
        _ => None,
    }
}

fn parse_fields(resource: &Resource, text: &str) -> Result<Vec<(Field, String, bool)>, Failure> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| parse_field(resource, part)).collect()
}

fn parse_field(resource: &Resource, part: &str) -> Result<(Field, String, bool), Failure> {
    let wrong = || Failure::bad_request(format!("invalid selector: {part:?}; can't understand {part:?}"));
    let (name, value, equal) = match part.split_once("!=") {
        Some((name, value)) => (name, value, false),
        None => part.split_once('=').map(|(name, value)| (name, value, true)).ok_or_else(wrong)?,
    };
    let field = match name {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        _ => resource
            .fields
            .iter()
            .position(|(known, _)| *known == name)
            .map(Field::Listed)
            .ok_or_else(|| Failure::bad_request(format!("field label not supported: {name}")))?,
    };
    Ok((field, value.strip_prefix('=').unwrap_or(value).to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::kinds::PODS;
    use super::super::object::Object;
    use super::Selector;

    fn pod() -> Object {
        Object::seal(
            &PODS,
            json!({ "metadata": { "name": "web", "namespace": "shop", "labels": { "app": "web", "tier": "1" } },
                    "spec": { "nodeName": "one" }, "status": { "phase": "Running" } }),
            7,
        )
    }

    #[test]
    fn label_selectors() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=1", true),
            ("app!=web", false),
            ("none!=web", true),
            ("app in (web, db),tier", true),
            ("app notin (web)", false),
            ("none notin (web)", true),
            ("!app", false),
            ("!none", true),
            ("none", false),
        ] {
            let selector = Selector::parse(&PODS, text, "").unwrap();
            assert_eq!(selector.matches(&pod()), expected, "{text}");
        }
        for text in ["a b", "=x", "app in web", "app within (a)", "app in (a"] {
            assert_eq!(Selector::parse(&PODS, text, "").unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn field_selectors() {
        for (text, expected) in [
            ("metadata.name=web", true),
            ("metadata.namespace!=shop", false),
            ("spec.nodeName=one,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("spec.hostNetwork=false", true),
        ] {
            let selector = Selector::parse(&PODS, "", text).unwrap();
            assert_eq!(selector.matches(&pod()), expected, "{text}");
        }
        assert_eq!(Selector::parse(&PODS, "", "spec.color=red").unwrap_err().code, 400);
    }
}
