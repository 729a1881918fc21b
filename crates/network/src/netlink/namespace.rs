//! Running code inside a network namespace. It makes none except for tests.

use super::NetlinkError;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Runs `work` on a thread of its own inside the network namespace at `path`.
/// What it opens stays in that namespace. Needs `CAP_SYS_ADMIN`.
pub(crate) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    let failed = |source: std::io::Error| NetlinkError::Namespace { path: path.display().to_string(), source };
    let namespace = File::open(path).map_err(failed)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|source| failed(source.into()))?;
            work()
        });
        match thread.map_err(failed)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `work` inside the namespace at `path`, or right here if there is none.
pub(crate) fn within<T: Send>(
    path: Option<&Path>,
    work: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    match path {
        Some(path) => inside(path, work),
        None => work(),
    }
}

/// Sets a network setting of the calling thread's namespace; `name` is a path
/// below `/proc/sys/net`. A setting that has the value already is not written,
/// so that a read-only `/proc/sys` with the right values is no obstacle.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), NetlinkError> {
    let path = format!("/proc/sys/net/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|found| found.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| NetlinkError::Setting { path, value, source })
}
