//! `darter version`. Prints constants of the build.

use std::process::ExitCode;

use serde_json::json;

use crate::arguments::{Output, Version};

/// The Kubernetes release whose API is served.
const KUBERNETES: &str = "v1.36.2";

pub(crate) fn print(arguments: &Version) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    match arguments.output {
        Output::Text => println!("darter {version}, Kubernetes API {KUBERNETES}"),
        Output::Json => println!("{}", json!({"darter": version, "kubernetes": KUBERNETES})),
    }
    ExitCode::SUCCESS
}
