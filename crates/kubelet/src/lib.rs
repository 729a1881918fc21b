//! Pod life on a node: sync, probes, volumes, eviction, status, sleep, and the
//! node's HTTP API. It drives a `containers::runtime::Runtime` and never
//! schedules.
//!
//! [`agent`] follows the pods of the node and gives each a [`worker`]. A worker
//! decides by two pure functions, [`plan`] (what to do) and [`status`] (what to
//! show), has the steps carried out, and writes the status. It is woken by the
//! API's watch, by runtime events, by probes, and by deadlines; nothing polls.

pub mod agent;
pub mod config;
pub mod node_api;
pub mod server;
pub mod sleep;

mod admission;
mod backoff;
mod context;
mod env;
mod events;
mod eviction;
mod expand;
mod hooks;
mod hostname;
mod http_get;
mod image;
mod kill;
mod labels;
mod logs;
mod machine;
mod mailbox;
mod node;
mod observe;
mod plan;
mod probe;
mod references;
mod resize;
mod resolv;
mod resources;
mod security;
mod spec;
mod status;
mod tokens;
mod users;
mod volume;
mod worker;
