//! The process that shims are forked from: it waits for requests on descriptor
//! 0 and forks. It holds no sandbox itself and ends when the agent does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use super::protocol::{SpawnSandbox, receive};
use super::server;
use crate::sys;

/// Serves spawn requests until the control socket closes.
pub(super) fn run() -> ! {
    // SAFETY: this is the first use of descriptor 0 in this process; std's
    // stdin is never touched here.
    #[expect(unsafe_code, reason = "takes over the inherited control socket")]
    let control = unsafe { sys::adopt_fd(0) };
    // Whatever the agent was started with is not for shims.
    if let Err(error) = sys::close_range(3, u32::MAX) {
        eprintln!("zygote: close inherited descriptors: {error}");
    }
    sys::ignore_children();
    // Not dumpable: a container's process must never read a shim's memory or
    // reach the machine's root through it, even with the same user id.
    // The name is the program's, which was started by a descriptor's number.
    let code = match sys::prctl(libc::PR_SET_DUMPABLE, 0, 0)
        .and_then(|_| rustix::thread::set_name(c"darter-zygote").map_err(io::Error::from))
        .and_then(|()| rustix::process::setsid().map_err(io::Error::from))
    {
        Ok(_) => serve(&control),
        Err(error) => {
            eprintln!("zygote: cannot detach: {error}");
            1
        }
    };
    sys::exit_now(code)
}

fn serve(control: &OwnedFd) -> i32 {
    let mut buffer = Vec::new();
    loop {
        match poll(&mut [PollFd::new(control, PollFlags::IN)], None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                eprintln!("zygote: poll: {error}");
                return 1;
            }
        }
        match receive::<SpawnSandbox>(control.as_fd(), &mut buffer) {
            Ok(Some((request, fds))) => spawn(request, fds),
            Ok(None) => return 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                eprintln!("zygote: control socket: {error}");
                return 1;
            }
        }
    }
}

/// Forks a shim. On failure the listener closes with `fds`, which the agent
/// sees as a refused connection.
fn spawn(request: SpawnSandbox, fds: Vec<OwnedFd>) {
    let Some(listener) = fds.into_iter().next() else {
        eprintln!("zygote: request without a listener");
        return;
    };
    match sys::clone_process(0, None) {
        Ok(sys::Side::Child) => server::run(request, listener),
        Ok(sys::Side::Parent(..)) => {}
        Err(error) => eprintln!("zygote: fork: {error}"),
    }
}
