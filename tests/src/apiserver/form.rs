//! How objects are written into answers: whole, as metadata alone, or as the rows of a Table.

use std::sync::Arc;

use serde_json::{Value, json};

use super::events;
use super::kinds::Resource;
use super::object::Object;
use super::request::Form;
use super::table;

/// The object as its own resource shows it.
fn value(resource: &Resource, object: &Object) -> Value {
    let value = object.value(resource);
    if events::is_new(resource) { events::to_new(value) } else { value }
}

fn metadata_only(value: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": value.get("metadata").cloned().unwrap_or_default(),
    })
}

fn table(resource: &Resource, metadata: &Value, values: &[Value]) -> Value {
    let rows: Vec<Value> = values
        .iter()
        .map(|value| json!({ "cells": table::cells(resource, value), "object": metadata_only(value) }))
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": table::columns(resource), "rows": rows,
    })
}

/// One object.
#[must_use]
pub fn document(form: Form, resource: &Resource, object: &Object) -> Vec<u8> {
    match form {
        Form::Full if !events::is_new(resource) => object.document(resource),
        Form::Full => value(resource, object).to_string().into_bytes(),
        Form::Metadata => metadata_only(&value(resource, object)).to_string().into_bytes(),
        Form::Table => {
            let metadata = json!({ "resourceVersion": object.version.to_string() });
            table(resource, &metadata, &[value(resource, object)]).to_string().into_bytes()
        }
    }
}

/// A list under its metadata.
#[must_use]
pub fn list(form: Form, resource: &Resource, metadata: &Value, objects: &[&Arc<Object>]) -> Vec<u8> {
    let values = || objects.iter().map(|object| value(resource, object));
    match form {
        Form::Table => table(resource, metadata, &values().collect::<Vec<_>>()).to_string().into_bytes(),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
            "items": values().map(|value| metadata_only(&value)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes(),
        Form::Full => {
            let mut out = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                resource.kind,
                resource.api_version()
            )
            .into_bytes();
            for (place, object) in objects.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                if events::is_new(resource) {
                    out.extend_from_slice(value(resource, object).to_string().as_bytes());
                } else {
                    out.extend_from_slice(object.item());
                }
            }
            out.extend_from_slice(b"]}");
            out
        }
    }
}

/// A bookmark: nothing but a kind and a version.
#[must_use]
pub fn bookmark(form: Form, resource: &Resource, version: u64) -> Vec<u8> {
    let metadata = json!({ "resourceVersion": version.to_string(), "creationTimestamp": null });
    match form {
        Form::Table => table(resource, &json!({ "resourceVersion": version.to_string() }), &[]),
        Form::Metadata => metadata_only(&json!({ "metadata": metadata })),
        Form::Full => {
            json!({ "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata })
        }
    }
    .to_string()
    .into_bytes()
}
