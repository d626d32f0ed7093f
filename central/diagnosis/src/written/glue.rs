//! Serde for types of other crates: the vocabulary and the views of Kubernetes know nothing of files, and stay so.
//!
//! [`Text`] ties a type to its form; the modules are for `#[serde(with = …)]` of a field that holds one of it, many, shared ones, or
//! maybe one. A word is what `Display` writes and `FromStr` reads.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A type that has a written form.
pub(super) trait Text: Sized {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

/// To be written by its form.
pub(super) struct Out<'a, T>(pub(super) &'a T);

impl<T: Text> Serialize for Out<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.write(to)
    }
}

/// Read by its form.
pub(super) struct In<T>(pub(super) T);

impl<'de, T: Text> Deserialize<'de> for In<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from).map(Self)
    }
}

/// One.
pub(super) mod one {
    use super::{Deserializer, Serializer, Text};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        value.write(to)
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        T::read(from)
    }
}

/// One or none.
pub(super) mod maybe {
    use super::{Deserialize as _, Deserializer, In, Out, Serialize as _, Serializer, Text};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(Out).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<In<T>>::deserialize(from)?.map(|In(value)| value))
    }
}

/// A list.
pub(super) mod many {
    use super::{Deserialize as _, Deserializer, In, Out, Serializer, Text};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Out))
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
        Ok(Vec::<In<T>>::deserialize(from)?.into_iter().map(|In(value)| value).collect())
    }
}

/// A list that snapshots share.
pub(super) mod held {
    use super::{Deserializer, Serializer, Text, many};
    use crate::snapshot::Shared;

    pub(in super::super) fn serialize<T: Text, S: Serializer>(values: &Shared<T>, to: S) -> Result<S::Ok, S::Error> {
        many::serialize(values, to)
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Shared<T>, D::Error> {
        many::deserialize(from).map(Shared::from)
    }
}

/// A list of what snapshots share.
pub(super) mod shared {
    use std::sync::Arc;

    use super::{Deserialize as _, Deserializer, In, Out, Serializer, Text};

    pub(in super::super) fn serialize<T: Text, S: Serializer>(values: &[Arc<T>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(|value| Out(&**value)))
    }

    pub(in super::super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Vec<Arc<T>>, D::Error> {
        Ok(Vec::<In<T>>::deserialize(from)?.into_iter().map(|In(value)| Arc::new(value)).collect())
    }
}

/// What has a word.
pub(super) mod word {
    use std::{fmt::Display, str::FromStr};

    use serde::de::Error as _;

    use super::{Deserialize as _, Deserializer, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(in super::super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}
