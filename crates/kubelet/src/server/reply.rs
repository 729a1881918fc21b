//! Responses of the node's HTTP API and the reading of its queries. What is
//! answered is decided elsewhere.

use api::error::Chain;
use bytes::Bytes;
use containers::runtime::RuntimeError;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// Names and values, in order.
pub(super) type Query = Vec<(String, String)>;

/// What the runtime could not do.
pub(super) fn failed(error: &RuntimeError) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, Chain(error).to_string())
}

/// Plain bytes.
pub(super) fn bytes(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A text.
pub(super) fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = bytes(status, Bytes::from(message.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A value as JSON.
pub(super) fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = bytes(StatusCode::OK, Bytes::from(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Names and values of a query, decoded; what is malformed is taken as it is.
pub(super) fn parse_query(query: &str) -> Query {
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match (byte, escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(decoded)) => {
                    out.push(decoded);
                    at += 3;
                    continue;
                }
                (b'+', _) => out.push(b' '),
                (byte, _) => out.push(*byte),
            }
            at += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(n, v)| (decode(n), decode(v))).collect()
}
