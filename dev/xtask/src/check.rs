//! Running other programs and naming what failed. Not a build system.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a development command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A program could not be started.
    Start {
        /// The command line.
        command: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A program ended with a failure.
    Exit {
        /// The command line.
        command: String,
        /// Its exit status in words.
        status: String,
    },
    /// A file could not be read or written.
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Findings were printed already.
    Findings {
        /// How many.
        count: usize,
        /// Of what.
        what: &'static str,
    },
    /// Something is missing on this machine.
    Missing {
        /// What, and how to get it.
        what: String,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { command, source } => write!(f, "cannot start `{command}`: {source}"),
            Self::Exit { command, status } => write!(f, "`{command}` failed: {status}"),
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Findings { count, what } => write!(f, "{count} {what}"),
            Self::Missing { what } => write!(f, "{what}"),
        }
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("xtask lies two folders below the root").to_path_buf()
}

/// What `cargo xtask` tells this program about its own package.
const OWN_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Cargo as from a shell. Build scripts look at the variables that say which
/// package runs; with ours in them, cryptography and all that stands on it
/// would be built again whenever `cargo build` and `cargo xtask` take turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OWN_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// Program and arguments, for people.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command from the root; its output goes to ours.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let line = line(command);
    eprintln!("xtask: {line}");
    let status =
        command.current_dir(root()).status().map_err(|source| Failure::Start { command: line.clone(), source })?;
    if status.success() { Ok(()) } else { Err(Failure::Exit { command: line, status: status.to_string() }) }
}

/// Runs a command from the root and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let line = line(command);
    let output = command
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| Failure::Start { command: line.clone(), source })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Failure::Exit { command: line, status: output.status.to_string() })
    }
}

/// Reads a text file below the root.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|source| Failure::File { path: path.to_path_buf(), source })
}

/// Files below a folder of the root that git tracks or would track.
pub(crate) fn tracked(pattern: &str) -> Result<Vec<PathBuf>, Failure> {
    let list =
        output(Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]))?;
    Ok(list.lines().map(|line| root().join(line)).filter(|path| path.is_file()).collect())
}
