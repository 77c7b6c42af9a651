//! GET of one object and of lists, with selectors and pages.

use std::sync::Arc;

use serde_json::json;

use super::Shared;
use super::failure::Failure;
use super::form;
use super::http::Answer;
use super::object::Object;
use super::request::{Query, Request, Target};
use super::selector::Selector;
use super::store::Snapshot;

/// One object, or its `/status`, which is the whole object too.
pub(crate) fn get(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let name = target.object();
    let found = shared.store().get(target.resource, target.space(), name);
    let object = found.ok_or_else(|| Failure::not_found(target.resource, name))?;
    Ok(Answer::json(200, form::document(request.form()?, target.resource, &object)))
}

/// The selectors of a request.
pub(crate) fn selector(query: &Query, target: &Target) -> Result<Selector, Failure> {
    let mut fields = query.get("fieldSelector").to_owned();
    if let Some(name) = &target.name {
        fields = format!("metadata.name={name},{fields}");
    }
    Selector::parse(target.resource, query.get("labelSelector"), &fields)
}

/// A list, or one page of it.
///
/// A page after the first shows the moment of the first, from the store's snapshots. The token names snapshot and
/// place, so it can be used more than once, and is refused with 410 once the snapshot is forgotten.
pub(crate) fn list(shared: &Shared, request: &Request, target: &Target) -> Result<Answer, Failure> {
    let form = request.form()?;
    let query = &request.query;
    let selector = selector(query, target)?;
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let (snapshot, number, start) = moment(shared, query, target)?;

    let rest = snapshot.objects.get(start..).unwrap_or_default();
    let mut matching = rest.iter().enumerate().filter(|(_, object)| selector.matches(object));
    let page: Vec<&Arc<Object>> = if limit == 0 {
        matching.by_ref().map(|(_, object)| object).collect()
    } else {
        matching.by_ref().take(limit).map(|(_, object)| object).collect()
    };
    let next = matching.next().map(|(place, _)| start + place);

    let mut metadata = json!({ "resourceVersion": snapshot.version.to_string() });
    if let Some(next) = next {
        if selector.is_empty() {
            metadata["remainingItemCount"] = (snapshot.objects.len() - next).into();
        }
        let number = match number {
            Some(number) => number,
            None => shared.store().keep_snapshot(snapshot.clone()),
        };
        metadata["continue"] = format!("{number}-{next}").into();
    }
    Ok(Answer::json(200, form::list(form, target.resource, &metadata, &page)))
}

/// The moment that a list shows, the number of its snapshot if it has one, and where this page begins.
fn moment(
    shared: &Shared,
    query: &Query,
    target: &Target,
) -> Result<(Arc<Snapshot>, Option<u64>, usize), Failure> {
    let asked = query.number("resourceVersion")?;
    let token = query.get("continue");
    let store = shared.store();
    if !token.is_empty() {
        if asked.is_some_and(|version| version != 0) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Failure::bad_request(why));
        }
        let parts = token
            .split_once('-')
            .and_then(|(number, start)| Some((number.parse::<u64>().ok()?, start.parse::<usize>().ok()?)));
        let (number, start) =
            parts.ok_or_else(|| Failure::bad_request(format!("continue key is not valid: {token}")))?;
        let snapshot = store.snapshot(number).ok_or_else(|| {
            Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a \
                 new list without the continue parameter.",
            )
        })?;
        return Ok((snapshot, Some(number), start));
    }
    let version = store.version();
    match asked {
        Some(asked) if asked > version => return Err(Failure::too_large(asked, version)),
        Some(asked) if query.get("resourceVersionMatch") == "Exact" && asked != version => {
            return Err(Failure::expired(format!(
                "The resourceVersion for the provided list is too old: {asked}"
            )));
        }
        _ => {}
    }
    let objects = store.all(target.resource, target.namespace.as_deref());
    Ok((Arc::new(Snapshot { version, objects }), None, 0))
}
