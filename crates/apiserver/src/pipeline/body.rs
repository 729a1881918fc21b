//! Bodies of requests and responses, and the bound on what is read.

use std::error::Error;

use api::status::Status;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;
/// Body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, BodyError>;
/// Body of a response: may never end (watch).
pub type ResponseBody = UnsyncBoxBody<Bytes, BodyError>;

/// Largest request body, bytes (`MaxRequestBodyBytes`, upstream 1.36).
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A body that is all there.
pub(crate) fn full(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a request's whole body; more than the limit is refused.
pub(crate) async fn read(body: RequestBody) -> Result<Bytes, Status> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Status::too_large(format!("Request entity too large: limit is {BODY_LIMIT}")))
        }
        Err(_) => Err(Status::bad_request("the request's body broke off")),
    }
}
