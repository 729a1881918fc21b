//! The slow rings from outside, run by name with `cargo xtask rings`: the same
//! as in the first ring with the full numbers, and a client whose build takes
//! minutes. `DARTER_ROUNDS` shortens.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]
#![allow(dead_code, reason = "the harness serves the first ring too")]

#[path = "system/adoption.rs"]
mod adoption;
#[path = "system/harness.rs"]
mod harness;
#[path = "system/images.rs"]
mod images;
#[path = "system/kube_rs.rs"]
mod kube_rs;
#[path = "system/kubectl.rs"]
mod kubectl;
#[path = "system/loops.rs"]
mod loops;
#[path = "system/machine.rs"]
mod machine;
#[path = "system/processes.rs"]
mod processes;
#[path = "system/tools.rs"]
mod tools;
#[path = "system/traces.rs"]
mod traces;
#[path = "system/writes.rs"]
mod writes;
