//! Bodies of requests and responses, and the bound on what is read.

use std::error::Error;

use api::status::Status;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

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
pub(crate) async fn read(mut body: RequestBody) -> Result<Bytes, Status> {
    let mut whole = Vec::new();
    let mut only: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::bad_request("the request's body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > BODY_LIMIT {
            return Err(Status::too_large(format!("Request entity too large: limit is {BODY_LIMIT}")));
        }
        // Most bodies are one frame, which is passed on without a copy.
        match only.take() {
            None if whole.is_empty() => only = Some(data),
            Some(first) => {
                whole.extend_from_slice(&first);
                whole.extend_from_slice(&data);
            }
            None => whole.extend_from_slice(&data),
        }
    }
    Ok(only.unwrap_or_else(|| Bytes::from(whole)))
}
