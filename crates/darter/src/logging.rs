//! Log lines on standard error: levels, format. Facts are fields; no text is
//! made here.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::arguments::LogFormat;

/// Starts logging for the whole process. `level` is a level or a filter such
/// as `info,kubelet=debug`.
pub(crate) fn start(level: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("--log {level:?}: {error}; use error, warn, info, debug or trace"))?;
    let colour = std::env::var_os("NO_COLOR").is_none() && rustix::termios::isatty(std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let started = match format {
        LogFormat::Text => builder.compact().finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    started.map_err(|error| format!("starting the log: {error}"))
}
