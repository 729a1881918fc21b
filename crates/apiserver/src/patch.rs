//! The four patches: JSON patch, merge patch, strategic merge patch, and apply
//! with the tracking of field owners. A patch gives a tree; decoding,
//! defaulting and validating it is for the pipeline.

pub mod managed;
