//! The little of netlink that pods, Services and sleep need: one encoder, one
//! blocking socket and typed helpers for links, nftables, conntrack, packet
//! logs and packet queues. Every request is answered by the kernel within microseconds, so
//! nothing here is async. It is no general netlink library, and it decides
//! nothing about addresses or rules.

pub(crate) mod conntrack;
pub(crate) mod expression;
pub(crate) mod log;
pub(crate) mod message;
pub(crate) mod namespace;
pub(crate) mod nftables;
pub(crate) mod queue;
pub(crate) mod route;
pub(crate) mod socket;

pub(crate) use message::{Attributes, Messages};
pub(crate) use socket::{Protocol, Socket};

use std::io;

/// Why the kernel did not do what was asked.
#[derive(thiserror::Error, Debug)]
pub enum NetlinkError {
    /// The socket could not be made, bound or sized. Needs `CAP_NET_ADMIN`.
    #[error("cannot open a {protocol} netlink socket")]
    Open {
        /// `route` or `netfilter`.
        protocol: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The request did not reach the kernel or its answer did not come back.
    #[error("cannot exchange netlink messages to {step}")]
    Exchange {
        /// What the request was to do.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused one message. In an nftables batch nothing was
    /// changed; in any other the messages before it took effect.
    #[error("the kernel refused to {step}{}{hint}", if hint.is_empty() { "" } else { ": " })]
    Refused {
        /// What the refused message was to do.
        step: &'static str,
        /// The kernel's own words, often empty.
        hint: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The answer is not laid out as netlink messages are.
    #[error("the kernel's answer to {step} is malformed")]
    Malformed {
        /// What the request was to do.
        step: &'static str,
    },
    /// A network namespace could not be entered. Needs `CAP_SYS_ADMIN`.
    #[error("cannot enter the network namespace {path}")]
    Namespace {
        /// Its path.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("cannot write {value} to {path}")]
    Setting {
        /// File under `/proc/sys`.
        path: String,
        /// What was to be written.
        value: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// The errno of the kernel's refusal, if it is one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The thing named in the request does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}
