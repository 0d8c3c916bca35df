//! The serde side: any JSON value is read, an object field by field into a record, keys without a copy.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One element of a call's array, or one line of NDJSON.
#[derive(Clone, Debug)]
pub enum Element<T> {
    Object(T),
    /// A JSON value of another kind, or a line that is not JSON.
    Other,
}

/// A record type that can be read from a JSON object, field by field.
pub trait FromObject<'de>: Default {
    fn read_fields<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error>;
}

/// Dispatches on a key without allocating for it.
pub(super) struct Key<F>(pub F);

impl<'de, R, F: FnOnce(&str) -> R> DeserializeSeed<'de> for Key<F> {
    type Value = R;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, R, F: FnOnce(&str) -> R> Visitor<'de> for Key<F> {
    type Value = R;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<R, E> {
        Ok((self.0)(key))
    }
}

/// Reads any JSON value: an object into `T`, everything else as [`Element::Other`].
pub struct ElementSeed<T>(std::marker::PhantomData<T>);

impl<T> Default for ElementSeed<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<'de, T: FromObject<'de>> DeserializeSeed<'de> for ElementSeed<T> {
    type Value = Element<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: FromObject<'de>> Visitor<'de> for ElementSeed<T> {
    type Value = Element<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut value = T::default();
        value.read_fields(map)?;
        Ok(Element::Object(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }
}
