//! The `darter` binary: flags, composition, run, drain. It holds no cluster
//! logic; each command is a file.

mod arguments;
mod demo;
mod demo_app;
mod image;
mod instance;
mod logging;
mod networks;
mod parts;
mod pki;
mod progress;
mod reset;
mod status;
mod transport;
mod up;
mod version;

use std::process::ExitCode;

use api::error::Chain;
use clap::{CommandFactory, Parser};

use arguments::{Arguments, Command};

/// Worker threads of the runtime; the work is spread by tasks, not by threads.
const MAX_WORKERS: usize = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The two commands that live inside pods stay single-threaded and small.
    match &arguments.command {
        Command::Shim { arguments } => containers::shim_main(arguments),
        Command::DemoApp { listen } => {
            return outcome(small_runtime().and_then(|runtime| runtime.block_on(demo_app::run(*listen))));
        }
        Command::Completion { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "darter", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Command::Version(version) => return version::print(version),
        _ => {}
    }
    if let Err(problem) = logging::start(&arguments.log, arguments.log_format) {
        eprintln!("darter: {problem}");
        return ExitCode::from(2);
    }
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return outcome(Err::<(), _>(error)),
    };
    runtime.block_on(run(arguments.command))
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Demo(demo) => outcome(demo::run(&demo).await),
        Command::Up(up) => outcome(up::run(&up).await),
        Command::Scheduler(part) => outcome(parts::scheduler(&part).await),
        Command::Controllers(part) => outcome(parts::controllers(&part).await),
        Command::Autoscaler(autoscaler) => outcome(parts::autoscaler(&autoscaler).await),
        Command::Image(image) => outcome(image::run(&image).await),
        Command::Reset(reset) => outcome(reset::run(&reset).await),
        Command::Status(status) => status::print(&status).await,
        Command::Shim { .. } | Command::DemoApp { .. } | Command::Completion { .. } | Command::Version(_) => {
            unreachable!("answered before the runtime was built")
        }
    }
}

fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints what went wrong, with all its causes.
fn outcome<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("darter: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}
