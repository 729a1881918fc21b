//! Images, snapshots, namespaces, cgroups, seccomp and streams: what runs
//! containers on one machine. OCI words, no Kubernetes words; it never talks to
//! an API server and decides nothing about restarts or probes.

pub mod mounts;
pub mod runtime;
