//! The controllers of kube-controller-manager on one runner. Each has a pure
//! `plan` and an `apply` that decides nothing. It never touches a node.
//!
//! [`Controllers`] runs them. A controller is a function from a key to a
//! reconciliation; watching, queueing, backing off and bounding is
//! `client::runner`'s. None keeps a state: what they know is the informers'.

mod claim;
mod clock;
mod context;
mod informers;
mod intstr;
mod pods;
mod services;
mod taints;
mod template;

mod deployment;
mod endpoints;
mod endpointslice;
mod gc;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod nodettl;
mod podgc;
mod replicaset;
mod resourcequota;
mod rootca;
mod serviceaccount;
mod tainteviction;
mod tokens;

mod run;

pub use run::{Controllers, ControllersConfig, Name, TokenSigner};
