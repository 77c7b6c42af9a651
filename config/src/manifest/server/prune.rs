//! JSON into values, without what nobody asks for.
//!
//! Most of what a server says about a pod is images, environments, conditions and managedFields. A [`Keep`] names the
//! fields that count; the parser passes over all others without building them. So reading costs what is kept, and what a newer
//! server adds elsewhere is not even seen.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::yaml::json::ValueVisitor;
use super::super::yaml::{Map, Value};

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

/// What `keep` says of a JSON text.
pub fn parse(json: &[u8], keep: Keep<'_>) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = keep.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
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

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        ValueVisitor.visit_u64(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        ValueVisitor.visit_f64(value)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let Self::Items(keep) = self else { return ValueVisitor.visit_seq(list) };
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(*keep)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let Self::Fields(fields) = self else { return ValueVisitor.visit_map(object) };
        let mut map = Map::default();
        while let Some(field) = object.next_key_seed(Field(fields))? {
            match field {
                Some((name, keep)) => {
                    let value = object.next_value_seed(keep)?;
                    map.fields.push((name.to_owned(), value));
                }
                None => drop(object.next_value::<IgnoredAny>()?),
            }
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
