//! `postStart` and `preStop`: a command, a request or a pause. What follows
//! from a failure is the caller's matter.

use std::net::IpAddr;
use std::time::Duration;

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, Runtime};

use crate::http_get::Request;
use crate::spec;

/// Longest time an HTTP hook may take; without it a hook without end would
/// hold its pod for ever.
const HTTP_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Why a hook failed, as the waiting container shows it.
#[derive(thiserror::Error, Debug)]
#[error("{0}")]
pub(crate) struct HookFailed(String);

/// Runs it to its end. Cancel by dropping.
pub(crate) async fn run(
    runtime: &dyn Runtime,
    pod: &core::Pod,
    container: &core::Container,
    id: &ContainerId,
    handler: &core::LifecycleHandler,
    pod_ip: Option<IpAddr>,
) -> Result<(), HookFailed> {
    let place = format!("Container {:?} in Pod {:?}", container.name, spec::full_name(pod));
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = format!("[{}]", command.join(" "));
        let failed = |problem: String, output: &[u8]| {
            let output = String::from_utf8_lossy(output);
            HookFailed(format!(
                "Exec lifecycle hook ({shown}) for {place} failed - error: {problem}, message: {output:?}"
            ))
        };
        return match runtime.exec_sync(id, command.clone(), None).await {
            Ok(output) if output.exit_code == 0 => Ok(()),
            Ok(output) => {
                let problem = format!(
                    "command '{}' exited with {}: {}",
                    command.join(" "),
                    output.exit_code,
                    String::from_utf8_lossy(&output.stderr)
                );
                Err(failed(problem, &[output.stdout, output.stderr].concat()))
            }
            Err(err) => Err(failed(api::error::Chain(&err).to_string(), &[])),
        };
    }
    if let Some(get) = &handler.http_get {
        let failed = |problem: String| {
            let path = get.path.as_deref().unwrap_or_default();
            HookFailed(format!("HTTP lifecycle hook ({path}) for {place} failed - error: {problem}"))
        };
        let request = Request::new(get, container, pod_ip, "lifecycle").map_err(failed)?;
        // Any answer will do, whatever its status.
        return request.send(HTTP_LIMIT).await.map(drop).map_err(|err| failed(err.to_string()));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookFailed("Cannot run handler: invalid handler".into()))
}
