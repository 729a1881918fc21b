//! Why the runtime refuses: by what a caller can do about it. Not what is shown
//! to users of the cluster; that is made from it elsewhere.

use std::time::Duration;

/// Why the runtime refused.
#[derive(thiserror::Error, Debug)]
pub enum RuntimeError {
    /// The machine or the runtime does not have this.
    #[error("{what} is not offered: {reason}")]
    NotOffered {
        /// What was asked for.
        what: &'static str,
        /// Why it is not there, and how to get it where that is known.
        reason: String,
    },
    /// No such sandbox, container or image.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The object is in a state that does not allow this.
    #[error("{what} {id:?} is {state}, needs to be {needed}")]
    State {
        /// `sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
        /// What it is.
        state: String,
        /// What it would have to be.
        needed: &'static str,
    },
    /// The configuration can't be carried out; a retry with the same one is useless.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which field of the configuration.
        field: String,
        /// Why.
        reason: String,
    },
    /// The process could not be started (no such command, not executable, …).
    #[error("{0}")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An image could not be had; the message is the registry's or the parser's.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It took longer than allowed.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// The operation.
        what: &'static str,
        /// Its limit.
        limit: Duration,
    },
    /// A system call or file operation failed.
    #[error("{step}")]
    Io {
        /// What was being done, with its path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The network plugin failed.
    #[error("network of the sandbox")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why an image could not be had.
#[derive(thiserror::Error, Debug)]
pub enum ImageError {
    /// The reference does not parse.
    #[error("invalid image reference {reference:?}: {reason}")]
    Reference {
        /// As given.
        reference: String,
        /// Why.
        reason: String,
    },
    /// The registry does not have it.
    #[error("{reference}: not found")]
    NotFound {
        /// As asked for.
        reference: String,
    },
    /// The registry wants other credentials.
    #[error("{reference}: pull access denied, repository does not exist or may require authorization: {detail}")]
    Denied {
        /// As asked for.
        reference: String,
        /// The registry's words.
        detail: String,
    },
    /// No endpoint answered; the message names each that was tried.
    #[error("{reference}: {detail}")]
    Registry {
        /// As asked for.
        reference: String,
        /// Endpoint and failure.
        detail: String,
    },
    /// A digest, layer or manifest is not what it should be.
    #[error("{reference}: {detail}")]
    Corrupt {
        /// As asked for.
        reference: String,
        /// What is wrong.
        detail: String,
    },
    /// The disk refused.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
