//! Kubernetes' vocabulary: group, version, kind and resource names, metadata,
//! quantities, selectors, `Status`, and the schema that describes every kind.
//!
//! Values and rules only: no I/O, no async, nothing about how objects are
//! stored, served or acted on. Built-in kinds as Rust types are k8s-openapi's,
//! re-exported as [`types`]; the API server works on untyped trees and schemas.

pub mod amounts;
pub mod elastic;
pub mod error;
pub mod gvk;
pub mod names;
pub mod node_selector;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time;

pub use k8s_openapi as types;
