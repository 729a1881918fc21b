//! The Kubernetes API server: URL grammar, one pipeline for every kind, table
//! of kinds, codec, admission, authentication, authorization, watch, apply,
//! CRDs, aggregation. The only crate that names the store. It runs no
//! controller and decides nothing about pods.

pub mod codec;
pub mod discovery;
pub mod kinds_table;
pub mod openapi;
pub mod patch;
