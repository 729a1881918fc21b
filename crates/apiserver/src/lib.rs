//! The Kubernetes API server: URL grammar, one pipeline for every kind, table
//! of kinds, codec, admission, authentication, authorization, watch, apply,
//! CRDs, aggregation. The only crate that names the store. It runs no
//! controller and decides nothing about pods.

pub mod access;
mod admission;
mod allocate;
mod authn;
mod authz;
mod bootstrap;
mod builtin;
mod cel;
pub mod codec;
mod config;
mod custom;
pub mod discovery;
mod entropy;
mod facet;
mod field;
mod handle;
mod hooks;
mod kinds;
pub mod kinds_table;
mod metrics;
mod object;
pub mod openapi;
pub mod patch;
mod paths;
mod pipeline;
mod request_info;
mod resource;
mod resource_metrics;
mod server;
mod state;
mod strategy;
mod subresources;
mod table;
mod tokens;
mod validation;
mod wire;

pub use access::{Peer, UserInfo};
pub use config::{Config, Settings, StartError};
pub use pipeline::body::{BodyError, RequestBody, ResponseBody};
pub use server::{ApiServer, SignError};
pub use tokens::{KeyError, SigningKey};
