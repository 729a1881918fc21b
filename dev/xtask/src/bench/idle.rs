//! What a whole idle cluster costs: memory of all its processes and CPU time.

use std::path::Path;
use std::time::Duration;

use super::figure::Figure;
use super::lower;
use crate::check::Failure;
use crate::cluster::Cluster;

/// After start, before the first reading: caches fill, leases settle.
const SETTLE: Duration = Duration::from_secs(20);
/// How long CPU time is counted.
const WINDOW: Duration = Duration::from_secs(60);
/// `sysconf(_SC_CLK_TCK)` on every Linux that runs on x86-64 or arm64.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn measure(binary: &Path) -> Result<Vec<Figure>, Failure> {
    let cluster = Cluster::start(binary, &[])?;
    // Measuring is about time that passes, so these two waits are the point.
    std::thread::sleep(SETTLE);
    let before = cpu_seconds(cluster.pid())?;
    std::thread::sleep(WINDOW);
    let after = cpu_seconds(cluster.pid())?;
    let percent = (after - before) / WINDOW.as_secs_f64() * 100.0;
    Ok(vec![
        lower("idle.pss_mb", proportional_set_mb(cluster.pid())?, 64.0, "MB", 1),
        lower("idle.cpu_percent", percent, 0.3, "% of a core", 1),
    ])
}

fn read(path: String) -> Result<String, Failure> {
    std::fs::read_to_string(&path).map_err(|source| Failure::File { path: path.into(), source })
}

fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = read(format!("/proc/{pid}/stat"))?;
    // Fields after the command's closing parenthesis; utime and stime are the
    // 14th and 15th of proc(5).
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: f64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn proportional_set_mb(pid: u32) -> Result<f64, Failure> {
    let rollup = read(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or(Failure::Missing { what: format!("/proc/{pid}/smaps_rollup has no Pss line") })
}
