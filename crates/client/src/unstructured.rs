//! What a failure says whose body is no `Status`: a path that nobody serves, a
//! proxy, an aggregated server of another kind. In client-go's words, as they
//! end up in conditions and events; no cause is guessed from the body.

use ::api::gvk::GroupResource;
use ::api::status::{Status, StatusCause, StatusDetails};

/// Of a text body at most this much is told, in bytes; client-go's bound.
const TEXT_LIMIT_BYTES: usize = 2048;

/// A `Status` for this code. `request` is `METHOD PATH`; `text` is the body if
/// it is one.
pub(crate) fn status(code: u16, request: &str, text: Option<&[u8]>) -> Status {
    let (method, path) = request.split_once(' ').unwrap_or(("GET", request));
    let said = match text {
        Some(body) => String::from_utf8_lossy(&body[..body.len().min(TEXT_LIMIT_BYTES)]).trim().to_owned(),
        None => "unknown".to_owned(),
    };
    let (reason, mut message) = words(code, method, &said);
    let target = target(path);
    if let Some((resource, name)) = &target {
        let space = if name.is_empty() { "" } else { " " };
        message = format!("{message} ({} {resource}{space}{name})", method.to_lowercase());
    }
    let mut status = Status::failure(code, reason, message);
    let cause = StatusCause { reason: Some("UnexpectedServerResponse".into()), message: Some(said), field: None };
    status.details = Some(StatusDetails { causes: vec![cause], ..StatusDetails::default() });
    match target {
        Some((resource, name)) => status.about(&resource, &name),
        None => status,
    }
}

/// Reason and message (`NewGenericServerResponse`, upstream 1.36).
fn words(code: u16, method: &str, said: &str) -> (&'static str, String) {
    let (reason, message) = match code {
        400 => ("BadRequest", "the server rejected our request for an unknown reason"),
        401 => ("Unauthorized", "the server has asked for the client to provide credentials"),
        403 => ("Forbidden", said),
        404 => ("NotFound", "the server could not find the requested resource"),
        405 => ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
        406 if said.is_empty() || said == "unknown" => {
            ("NotAcceptable", "the server was unable to respond with a content type that the client supports")
        }
        406 => ("NotAcceptable", said),
        409 if method == "POST" => ("AlreadyExists", "the server reported a conflict"),
        409 => ("Conflict", "the server reported a conflict"),
        // Not among upstream's: a watch of ours knows it by code and reason.
        410 => ("Gone", "the server no longer has what was asked for"),
        415 => ("UnsupportedMediaType", said),
        422 => ("Invalid", "the server rejected our request due to an error in our request"),
        429 => ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
        504 => (
            "Timeout",
            "the server was unable to return a response in the time allotted, but may still be processing the request",
        ),
        500.. => {
            let message = format!("an error on the server ({said:?}) has prevented the request from succeeding");
            return ("InternalError", message);
        }
        _ => {
            let message =
                format!("the server responded with the status code {code} but did not return more information");
            return ("", message);
        }
    };
    (reason, message.to_owned())
}

/// The resource and the name in a path of the API.
fn target(path: &str) -> Option<(GroupResource, String)> {
    let path = path.split('?').next().unwrap_or_default();
    let segments: Vec<String> = path.split('/').skip(1).map(decode).collect();
    let (group, mut rest) = match segments.as_slice() {
        [api, _, rest @ ..] if api == "api" => (String::new(), rest),
        [apis, group, _, rest @ ..] if apis == "apis" => (group.clone(), rest),
        _ => return None,
    };
    if let [namespaces, _, resource @ ..] = rest
        && namespaces == "namespaces"
        && !resource.is_empty()
    {
        rest = resource;
    }
    let resource = rest.first().filter(|resource| !resource.is_empty())?.clone();
    Some((GroupResource { group, resource }, rest.get(1).cloned().unwrap_or_default()))
}

/// Undoes the encoding of a segment; what is none stays.
fn decode(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_without_a_status_names_what_was_asked_for() {
        let say = |code, request: &str, text: Option<&[u8]>| status(code, request, text).to_string();
        for (request, expected) in [
            ("GET /apis/x.k8s.io/v1/namespaces/a/queue?labelSelector=b", "(get queue.x.k8s.io)"),
            ("GET /apis/x.k8s.io/v1/namespaces/a/pods/%2A/rate", "(get pods.x.k8s.io *)"),
            ("PUT /apis/apps/v1/deployments/web/scale", "(put deployments.apps web)"),
            ("GET /api/v1/namespaces/a", "(get namespaces a)"),
        ] {
            let wanted = format!("the server could not find the requested resource {expected}");
            assert_eq!(say(404, request, Some(b"404 page not found\n")), wanted);
        }
        assert_eq!(say(404, "GET /version", None), "the server could not find the requested resource");
        assert_eq!(
            say(502, "GET /api/v1/pods", Some(b" bad \"gateway\"\n")),
            "an error on the server (\"bad \\\"gateway\\\"\") has prevented the request from succeeding (get pods)"
        );
        assert_eq!(say(403, "GET /api/v1/pods", Some(b"not you")), "not you (get pods)");
    }

    #[test]
    fn codes_and_reasons_tell_what_kind_of_failure_it_is() {
        for (code, method, reason) in [
            (404, "GET", "NotFound"),
            (409, "POST", "AlreadyExists"),
            (409, "PUT", "Conflict"),
            (502, "GET", "InternalError"),
        ] {
            let status = status(code, &format!("{method} /api/v1/pods"), None);
            assert!(status.is(reason) && status.code == Some(code), "{status:?}");
        }
    }
}
