//! JSON into the same values as YAML, whole or without what nobody asks for.
//!
//! A manifest is read whole and strictly: a field twice is an error here too, for serde_json's own value would keep the last one
//! without a word. serde_json bounds the depth (128).
//!
//! Most of what a server says about a pod is images, environments, conditions and managedFields. A [`Keep`] names the
//! fields that count; the parser passes over all others without building them. So reading costs what is kept, and what a newer
//! server adds elsewhere is not even seen.

use std::collections::HashSet;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::{Map, Value};

/// Why a text is not taken.
pub enum Refused {
    /// It is not JSON; what the YAML parser said of it counts.
    Syntax,
    /// It is JSON that no manifest may be.
    Content(String),
}

/// One JSON value, whole.
pub fn parse(text: &str) -> Result<Value, Refused> {
    parse_kept(text.as_bytes(), Keep::Whole).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Refused::Content(error.to_string()),
        _ => Refused::Syntax,
    })
}

/// What `keep` says of one JSON value.
pub fn parse_kept(json: &[u8], keep: Keep<'_>) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = keep.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// What is kept of a value. Where the value is of another shape it is kept whole: whoever reads it says what is wrong.
#[derive(Clone, Copy)]
pub enum Keep<'k> {
    /// All of it.
    Whole,
    /// Of an object these fields.
    Fields(&'k [(&'k str, Keep<'k>)]),
    /// Of a list every item, but of each only this.
    Items(&'k Keep<'k>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Keep::Whole.deserialize(deserializer)
    }
}

impl<'de> DeserializeSeed<'de> for Keep<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Keep<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::Float(value.to_string()), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let keep = if let Self::Items(keep) = self { *keep } else { Keep::Whole };
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(keep)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut map = Map::default();
        if let Self::Fields(fields) = self {
            while let Some(field) = object.next_key_seed(Field(fields))? {
                match field {
                    Some((name, keep)) => map.fields.push((name.to_owned(), object.next_value_seed(keep)?)),
                    None => drop(object.next_value::<IgnoredAny>()?),
                }
            }
            return Ok(Value::Map(map));
        }
        let mut seen = HashSet::new();
        while let Some(name) = object.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("the field {name:?} is there twice, expected once")));
            }
            map.fields.push((name, object.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

/// Which of these fields a name is. No memory is taken for the names of others.
struct Field<'k>(&'k [(&'k str, Keep<'k>)]);

impl<'de, 'k> DeserializeSeed<'de> for Field<'k> {
    type Value = Option<(&'k str, Keep<'k>)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'k> Visitor<'_> for Field<'k> {
    type Value = Option<(&'k str, Keep<'k>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(known, _)| *known == name).copied())
    }
}
