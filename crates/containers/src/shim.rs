//! The processes that hold sandboxes: a zygote, started once by the agent, and
//! one shim per sandbox, forked from it so that they share the pages the
//! loader relocated. They are single-threaded and outlive the agent. Nothing
//! here knows images, registries or what a container is for.

pub(crate) mod child;
pub(crate) mod log;
pub(crate) mod protocol;
pub(crate) mod rootfs;
pub(crate) mod server;
mod zygote;

/// Entry of the hidden subcommand: the caller's `main` calls this before it
/// starts any thread, with the arguments after the subcommand's name.
/// Descriptor 0 is the zygote's control socket. Never returns.
pub fn shim_main<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> ! {
    let mode = args.into_iter().next();
    match mode.as_ref().and_then(|mode| mode.as_ref().to_str()) {
        Some("zygote") => zygote::run(),
        _ => {
            eprintln!("this command is started by the node agent; it is of no use by itself");
            crate::sys::exit_now(2)
        }
    }
}
