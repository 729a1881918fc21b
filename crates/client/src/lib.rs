//! The typed client of the Kubernetes API: requests, watches, reflectors and
//! work queues. The transport is a service, HTTPS or in process, so the same
//! code talks to our API server inside one binary and to any other Kubernetes.
//! It never touches the store and decides nothing about objects.
//!
//! From the bottom up: [`transport`] sends a request; [`https`] is the
//! transport over the network; [`Client`] and [`Api`] speak of objects;
//! [`reflector`] follows a collection; [`informer`] keeps a local copy of it;
//! [`queue`] and [`runner`] turn changes into reconciliations; [`events`]
//! records what happened; [`leader`] elects who acts; [`discovery`] asks which
//! kinds there are.

pub mod transport;

pub mod https;
pub mod kubeconfig;

mod api;
mod client;
mod error;
mod lines;
mod partial;
mod query;
mod unstructured;
mod watch;

pub mod backoff;
pub mod discovery;
pub mod events;
pub mod informer;
pub mod leader;
pub mod queue;
pub mod reflector;
pub mod runner;
pub mod zones;

#[cfg(test)]
mod fake;

pub use crate::api::{Api, DeleteParams, List, ListParams, Patch, Preconditions, Propagation};
pub use crate::client::Client;
pub use crate::error::ClientError;
pub use crate::informer::{Delta, Informer, InformerTask, ObjectKey, Subscription};
pub use crate::kubeconfig::ClientConfig;
pub use crate::partial::{DynamicObject, PartialObjectMetadata};
pub use crate::runner::{Action, Controller};
pub use crate::watch::{WatchEvent, WatchParams, WatchStream};
