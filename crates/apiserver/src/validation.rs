//! Rules that all kinds share: names and metadata. What one kind demands lives
//! with the kind.

pub(crate) mod metadata;
pub(crate) mod names;
