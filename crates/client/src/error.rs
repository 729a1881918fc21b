//! Why a request for an object failed. It keeps what the server said, whole.

use ::api::status::Status;

use crate::transport::{BodyError, TransportError};

/// Why an operation on the API failed.
#[derive(thiserror::Error, Debug)]
pub enum ClientError {
    /// The server answered and said no.
    #[error(transparent)]
    Api(Box<Status>),
    /// No answer came; whether the request was carried out is unknown.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The answer broke off.
    #[error("the response to {request} broke off")]
    Body {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: BodyError,
    },
    /// The answer was larger than the client accepts.
    #[error("the response to {request} is larger than {limit} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The bound.
        limit: usize,
    },
    /// The answer was not what the type says.
    #[error("cannot decode the response to {request}")]
    Decode {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The object cannot be written as JSON.
    #[error("cannot encode the body of {request}")]
    Encode {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A name or parameter that makes no valid URL.
    #[error("cannot build the request {request}")]
    Request {
        /// Method and path.
        request: String,
        /// The cause.
        #[source]
        source: http::Error,
    },
}

impl ClientError {
    /// The server's `Status`, if it answered.
    pub fn status(&self) -> Option<&Status> {
        match self {
            ClientError::Api(status) => Some(status),
            _ => None,
        }
    }

    /// The HTTP status code, if the server answered with a failure.
    pub fn code(&self) -> Option<u16> {
        self.status().and_then(|status| status.code)
    }

    fn has_reason(&self, reason: &str) -> bool {
        self.status().is_some_and(|status| status.is(reason))
    }

    /// The object or resource does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has_reason("NotFound") || self.code() == Some(404)
    }

    /// The object changed since it was read, or a precondition did not hold.
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    /// An object of this name exists.
    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// The asked-for history is no longer kept: list again.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410) || self.has_reason("Expired") || self.has_reason("Gone")
    }

    /// The caller may not do this.
    pub fn is_forbidden(&self) -> bool {
        self.has_reason("Forbidden")
    }

    /// The object was refused by validation.
    pub fn is_invalid(&self) -> bool {
        self.has_reason("Invalid")
    }

    /// The namespace is going away, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.is_forbidden()
            && self.status().and_then(|status| status.details.as_ref()).is_some_and(|details| {
                details.causes.iter().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
            })
    }
}
