//! As much protobuf as `kubectl create namespace` sends: an object that is nothing but metadata.
//!
//! Newer versions of `kubectl` write some commands in protobuf, without falling back to JSON. The body is an envelope
//! (`k8s\0`, then kind, version and the object), and every object's first field is its metadata. Anything with more
//! in it is refused, so nothing is ever lost silently.

use serde_json::{Map, Value, json};

/// The content type.
pub const TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Reads a body; `None` for whatever is more than metadata.
#[must_use]
pub fn read(body: &[u8]) -> Option<Value> {
    let mut value = json!({ "metadata": {} });
    for (field, bytes) in fields(body.strip_prefix(b"k8s\0")?)? {
        match field {
            1 => {
                for (field, bytes) in fields(bytes)? {
                    let name = if field == 1 { "apiVersion" } else { "kind" };
                    value[name] = text(bytes)?.into();
                }
            }
            2 => {
                for (field, bytes) in fields(bytes)? {
                    match field {
                        1 => value["metadata"] = metadata(bytes)?,
                        // Spec and status of an object that has neither are written, but empty.
                        _ if empty(bytes) => {}
                        _ => return None,
                    }
                }
            }
            _ if bytes.is_empty() => {}
            _ => return None,
        }
    }
    Some(value)
}

fn metadata(bytes: &[u8]) -> Option<Value> {
    let mut metadata = json!({});
    for (field, bytes) in fields(bytes)? {
        let name = match field {
            1 => "name",
            2 => "generateName",
            3 => "namespace",
            11 => "labels",
            12 => "annotations",
            _ if empty(bytes) => continue,
            _ => return None,
        };
        if field < 11 {
            metadata[name] = text(bytes)?.into();
            continue;
        }
        let mut entry = Map::new();
        let parts = fields(bytes)?;
        let part =
            |wanted: u64| parts.iter().find(|(field, _)| *field == wanted).map_or(Some(""), |(_, b)| text(b));
        entry.insert(part(1)?.to_owned(), part(2)?.into());
        if !metadata[name].is_object() {
            metadata[name] = json!({});
        }
        metadata[name].as_object_mut()?.extend(entry);
    }
    // Texts that are not set are written as empty ones.
    metadata.as_object_mut()?.retain(|_, value| *value != "");
    Some(metadata)
}

/// Whether there is nothing in a field: no byte, the number 0, or a message whose fields have nothing in them.
fn empty(bytes: &[u8]) -> bool {
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    zero(bytes) || fields(bytes).is_some_and(|fields| fields.iter().all(|(_, bytes)| zero(bytes)))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The fields of a message, each with its number and bytes; a number's bytes are those of its varint.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes)?;
        let (value, rest) = match key & 7 {
            0 => rest.split_at_checked(rest.len() - varint(rest)?.1.len())?,
            2 => {
                let (length, rest) = varint(rest)?;
                rest.split_at_checked(usize::try_from(length).ok()?)?
            }
            _ => return None,
        };
        found.push((key >> 3, value));
        bytes = rest;
    }
    Some(found)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(place + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;

    /// A field with bytes, as protobuf writes it.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn body(object: &[u8]) -> Vec<u8> {
        let kind = [field(1, b"v1"), field(2, b"Namespace")].concat();
        [b"k8s\0".to_vec(), field(1, &kind), field(2, object), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn metadata_is_read_and_more_is_refused() {
        let label = [field(1, b"team"), field(2, b"web")].concat();
        // What is not set: an empty text, a time of no fields, the number 0.
        let unset = [field(2, b""), field(8, b""), vec![7 << 3, 0]].concat();
        let metadata = field(1, &[field(1, b"two"), field(11, &label), unset].concat());
        let object = [metadata.clone(), field(2, b""), field(3, &field(1, b""))].concat();
        assert_eq!(
            read(&body(&object)).unwrap(),
            json!({ "kind": "Namespace", "apiVersion": "v1",
                    "metadata": { "name": "two", "labels": { "team": "web" } } })
        );
        let more = [metadata, field(2, &field(1, b"something"))].concat();
        assert_eq!(read(&body(&more)), None);
        for broken in [&b""[..], b"k8s\0\x12\x7f", b"k8s\0\x0a", b"{}"] {
            let read = read(broken);
            assert!(read.is_none(), "{read:?}");
        }
    }
}
