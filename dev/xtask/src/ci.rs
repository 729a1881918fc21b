//! `test` and `ci`: the first ring and the lints around it. The slow rings
//! (recordings, benches) are commands of their own.

use std::path::Path;
use std::process::Command;

use crate::check::{Failure, cargo, run};
use crate::{deny, tidy};

/// Debian packages that tests of the node need, and a file that each brings.
const TEST_PACKAGES: &[(&str, &str)] = &[("busybox-static", "/bin/busybox"), ("iproute2", "/usr/sbin/ip")];

#[derive(clap::Args)]
pub(crate) struct TestArguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// A nextest profile; `ci` retries nothing and prints no progress.
    #[arg(long, default_value = "default")]
    profile: String,
}

#[derive(clap::Args)]
pub(crate) struct CiArguments {}

/// Runs every test of the first ring.
pub(crate) fn test(arguments: &TestArguments) -> Result<(), Failure> {
    prepare()?;
    let nextest = cargo()
        .args(["nextest", "--version"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--profile", &arguments.profile]);
    } else {
        command.args(["test", "--workspace", "--bins", "--lib", "--tests"]);
    }
    if let Some(filter) = &arguments.filter {
        command.arg(filter);
    }
    run(&mut command)
}

/// Format, lints, tidy, licences, then the tests.
pub(crate) fn ci(_arguments: &CiArguments) -> Result<(), Failure> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    deny::run()?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo().args(["clippy", "-p", "darter", "--test", "rings", "--", "-D", "warnings"]))?;
    test(&TestArguments { filter: None, profile: "ci".to_owned() })
}

/// Installs what the tests need and this machine lacks.
pub(crate) fn prepare() -> Result<(), Failure> {
    for (package, file) in TEST_PACKAGES {
        if Path::new(file).exists() {
            continue;
        }
        if !Path::new("/usr/bin/apt-get").exists() {
            return Err(Failure::Missing { what: format!("{file} is missing; install it (Debian package {package})") });
        }
        let install =
            |arguments: &[&str]| run(Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"));
        if install(&["install", "-y", "-qq", package]).is_err() {
            install(&["update", "-qq"])?;
            install(&["install", "-y", "-qq", package])?;
        }
    }
    Ok(())
}
