//! What every controller is given: the client, the local copies, the event
//! recorder. No controller keeps a state of its own beyond these.

use std::sync::Arc;

use api::selector::SelectorError;
use client::informer::Behind;
use client::{Client, ClientError};

use crate::informers::Informers;
use client::events::Recorder;

/// Shared by all controllers.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Arc<Informers>,
    pub(crate) recorder: Recorder,
}

impl Context {
    /// The same with events under a controller's own name.
    pub(crate) fn named(&self, component: &str) -> Context {
        Context { recorder: self.recorder.named(component), ..self.clone() }
    }
}

/// Why a reconciliation failed. All of them are retried.
#[derive(thiserror::Error, Debug)]
pub(crate) enum Error {
    /// A request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Own writes do not show yet.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// The API server let a selector pass that cannot be read.
    #[error("the selector of {object} cannot be read")]
    Selector {
        /// Kind and key.
        object: String,
        /// The cause.
        #[source]
        source: SelectorError,
    },
    /// The object of this name is not the one that was meant.
    #[error("original {kind} {key} is gone: got uid {found}, wanted {wanted}")]
    Replaced {
        /// Kind.
        kind: &'static str,
        /// Namespace and name.
        key: String,
        /// What is there.
        found: String,
        /// What was meant.
        wanted: String,
    },
    /// An owner that is going away adopts nothing.
    #[error("{kind} {key} has just been deleted")]
    OwnerDeleted {
        /// Kind.
        kind: &'static str,
        /// Namespace and name.
        key: String,
    },
    /// A template hash is taken by another template; the next try uses another.
    #[error("the name {name} is taken by another pod template")]
    HashCollision {
        /// Name of the ReplicaSet.
        name: String,
    },
    /// A token could not be signed.
    #[error("cannot sign a token")]
    Sign {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that the plan needs is not there yet.
    #[error("{what} is not there yet")]
    Missing {
        /// What.
        what: String,
    },
}
