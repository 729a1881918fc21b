//! One probe: a command, a request, a connection or a gRPC health check.

use std::net::IpAddr;
use std::time::Duration;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, Runtime, RuntimeError};

use super::grpc;
use crate::expand;
use crate::http_get::{self, Request};

/// Most bytes of output that are kept.
const MAX_OUTPUT_BYTES: usize = 10 << 10;
/// Attempts when a probe can't be carried out.
const ATTEMPTS: u32 = 3;
/// Most redirects that are followed.
const MAX_REDIRECTS: u32 = 10;

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It answered well.
    Success,
    /// Well enough, but someone should know.
    Warning(String),
    /// It did not; with what it said.
    Failure(String),
    /// The probe could not be carried out.
    Unknown(String),
}

/// Runs one probe to its end, at most its timeout.
pub(super) async fn run(
    runtime: &dyn Runtime,
    probe: &core::Probe,
    container: &core::Container,
    id: &ContainerId,
    pod_ip: Option<IpAddr>,
    pod: &str,
) -> Outcome {
    let mut outcome = Outcome::Unknown(format!("missing probe handler for {pod}:{}", container.name));
    for _ in 0..ATTEMPTS {
        outcome = once(runtime, probe, container, id, pod_ip).await.unwrap_or(outcome);
        if !matches!(outcome, Outcome::Unknown(_)) {
            break;
        }
    }
    outcome
}

/// `None`: the probe names nothing to do.
async fn once(
    runtime: &dyn Runtime,
    probe: &core::Probe,
    container: &core::Container,
    id: &ContainerId,
    pod_ip: Option<IpAddr>,
) -> Option<Outcome> {
    let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
    let limit = Duration::from_secs(seconds);
    let address = pod_ip.map(|ip| ip.to_string()).unwrap_or_default();
    if let Some(exec) = &probe.exec {
        return Some(command(runtime, exec, container, id, limit).await);
    }
    if let Some(get) = &probe.http_get {
        return Some(match Request::new(get, container, pod_ip, "probe") {
            Ok(request) => http(request, limit).await,
            Err(err) => Outcome::Unknown(err),
        });
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|h| !h.is_empty()).unwrap_or(address);
        let port = match http_get::resolve_port(&tcp.port, container) {
            Ok(port) => port,
            Err(err) => return Some(Outcome::Unknown(err)),
        };
        return Some(match tokio::time::timeout(limit, http_get::dial(&host, port)).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(err)) => Outcome::Failure(err),
            Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
        });
    }
    if let Some(check) = &probe.grpc {
        return Some(grpc::check(&address, check, limit).await);
    }
    None
}

async fn command(
    runtime: &dyn Runtime,
    exec: &core::ExecAction,
    container: &core::Container,
    id: &ContainerId,
    limit: Duration,
) -> Outcome {
    // Only values that are written in the pod are known here.
    let env = container.env.iter().flatten().map(|e| (e.name.clone(), e.value.clone().unwrap_or_default())).collect();
    let command: Vec<String> = exec.command.iter().flatten().map(|word| expand::with_env(word, &env)).collect();
    let timed_out =
        || Outcome::Failure(format!("command timed out: {:?} timed out after {}s", command.join(" "), limit.as_secs()));
    match runtime.exec_sync(id, command.clone(), Some(limit)).await {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(output) => {
            let mut text = [output.stdout, output.stderr].concat();
            text.truncate(MAX_OUTPUT_BYTES);
            Outcome::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(RuntimeError::Timeout { .. }) => timed_out(),
        Err(err) => Outcome::Unknown(format!(
            "rpc error: code = Unknown desc = failed to exec in container: {}",
            api::error::Chain(&err)
        )),
    }
}

async fn http(mut request: Request, limit: Duration) -> Outcome {
    for _ in 0..=MAX_REDIRECTS {
        let answer = match request.send(limit).await {
            Ok(answer) => answer,
            Err(err) => return Outcome::Failure(err.to_string()),
        };
        match answer.status {
            200..300 => return Outcome::Success,
            300..400 => match answer.location.as_deref().and_then(|l| request.redirected(l)) {
                Some(next) => request = next,
                None => {
                    let body = String::from_utf8_lossy(&answer.body).into_owned();
                    return Outcome::Warning(format!("Probe terminated redirects, Response body: {body}"));
                }
            },
            status => return Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        }
    }
    Outcome::Failure(format!("Get {:?}: stopped after {MAX_REDIRECTS} redirects", request.host()))
}
