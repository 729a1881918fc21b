//! The whole product from outside: the built binary, real clients, a real
//! node. One binary, so that the product is linked once. Needs root, and takes
//! clients from Debian's packages; what is missing fails with the reason.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

#[path = "system/adoption.rs"]
mod adoption;
#[path = "system/apps.rs"]
mod apps;
#[path = "system/clients.rs"]
mod clients;
#[path = "system/harness.rs"]
mod harness;
#[path = "system/http.rs"]
mod http;
#[path = "system/images.rs"]
mod images;
#[path = "system/kubectl.rs"]
mod kubectl;
#[path = "system/machine.rs"]
mod machine;
#[path = "system/processes.rs"]
mod processes;
#[path = "system/refusals.rs"]
mod refusals;
#[path = "system/registry.rs"]
mod registry;
#[path = "system/restart.rs"]
mod restart;
#[path = "system/sleep.rs"]
mod sleep;
#[path = "system/tools.rs"]
mod tools;
#[path = "system/traces.rs"]
mod traces;
#[path = "system/writes.rs"]
mod writes;
