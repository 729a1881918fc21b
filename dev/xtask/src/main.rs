//! Development commands: `cargo xtask NAME`. A dispatcher; each command lives
//! in its own file and nothing here ships with the product.

mod bench;
mod check;
mod ci;
mod cluster;
mod deny;
mod r#gen;
mod rings;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development commands of this repository")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every test of the first ring, with the set-up that it needs.
    Test(ci::TestArguments),
    /// What CI runs: format, lints, tidy, licences, tests.
    Ci(ci::CiArguments),
    /// Check the rules of the tree that no compiler checks.
    Tidy,
    /// Check licences and sources of all dependencies.
    Deny,
    /// Hold a running Darter against recordings of upstream Kubernetes.
    Rings(rings::Arguments),
    /// Write the tables under crates/apiserver/generated.
    Gen(r#gen::Arguments),
    /// Measure; prints each figure beside its goal from docs/promises.md.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test(arguments) => ci::test(&arguments),
        Command::Ci(arguments) => ci::ci(&arguments),
        Command::Tidy => tidy::run(),
        Command::Deny => deny::run(),
        Command::Rings(arguments) => rings::run_ring(&arguments),
        Command::Gen(arguments) => r#gen::run(&arguments).map_err(|what| check::Failure::Missing { what }),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
