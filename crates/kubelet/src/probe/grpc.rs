//! The gRPC health protocol (`grpc.health.v1.Health/Check`) over plain HTTP/2:
//! one request of one field, one answer of one field.

use std::time::Duration;

use api::types::api::core::v1 as core;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Outcome;
use crate::http_get;

/// gRPC status codes that are told apart.
const UNIMPLEMENTED: &str = "12";
const OK: &str = "0";

/// Asks once; any failure is the container's.
pub(super) async fn check(host: &str, action: &core::GRPCAction, limit: Duration) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else {
        return Outcome::Unknown(format!("invalid port number: {}", action.port));
    };
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let deadline = tokio::time::Instant::now() + limit;
    let stream = match tokio::time::timeout_at(deadline, http_get::dial(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) | Err(_) => {
            // A gRPC client goes on trying until its deadline.
            tokio::time::sleep_until(deadline).await;
            return Outcome::Failure(format!(
                "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
                limit.as_secs()
            ));
        }
    };
    let service = action.service.as_deref().unwrap_or_default();
    match tokio::time::timeout_at(deadline, call(stream, &address, service)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(err)) => Outcome::Failure(format!("error: health rpc probe failed: {err}")),
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {}s", limit.as_secs())),
    }
}

async fn call(stream: tokio::net::TcpStream, address: &str, service: &str) -> Result<Outcome, String> {
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let request = http::Request::builder()
        .method("POST")
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(encode(service)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let head = answer.headers().clone();
        let collected = answer.into_body().collect().await.map_err(|e| e.to_string())?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let field = |name: &str| {
            trailers.get(name).or_else(|| head.get(name)).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
        };
        Ok(judge(&field("grpc-status"), &field("grpc-message"), &collected.to_bytes()))
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // Its last poll may have brought the answer.
        _ended = &mut connection => exchange.await,
    }
}

/// A frame with `HealthCheckRequest{service}`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    // API validation keeps names far below 128 bytes... longer ones need a second length byte.
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or(0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or(0x7f));
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

fn judge(status: &str, message: &str, body: &[u8]) -> Outcome {
    match status {
        OK => {}
        UNIMPLEMENTED => {
            return Outcome::Failure(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            ));
        }
        _ => {
            return Outcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {status} desc = {message}"
            ));
        }
    }
    // `HealthCheckResponse{status}`: field 1, a number; absent means 0.
    let serving = match body.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    };
    let name = match serving {
        1 => return Outcome::Success,
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_status_and_field() {
        assert_eq!(judge("0", "", &[0, 0, 0, 0, 2, 8, 1]), Outcome::Success);
        assert_eq!(
            judge("0", "", &[0, 0, 0, 0, 2, 8, 2]),
            Outcome::Failure("service unhealthy (responded with \"NOT_SERVING\")".into())
        );
        assert_eq!(
            judge("0", "", &[0, 0, 0, 0, 0]),
            Outcome::Failure("service unhealthy (responded with \"UNKNOWN\")".into())
        );
        assert!(matches!(judge("12", "m", &[]), Outcome::Failure(text) if text.contains("does not implement")));
        assert_eq!(encode("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }
}
