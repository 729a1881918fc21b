//! Precedence of threads whose work is a packet somebody waits for: it takes
//! microseconds and must not queue behind a busy node's. No other thread has
//! it.

/// Puts the calling thread before ordinary ones. Needs `CAP_SYS_NICE`.
pub(crate) fn raise() -> std::io::Result<()> {
    schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)
}

/// Makes the calling thread an ordinary one again.
pub(crate) fn lower() -> std::io::Result<()> {
    schedule(libc::SCHED_OTHER, 0)
}

fn schedule(class: libc::c_int, priority: libc::c_int) -> std::io::Result<()> {
    // SAFETY: sched_param is plain numbers, for which zero is a valid value.
    #[expect(unsafe_code, reason = "libc has no constructor for it")]
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: 0 is the calling thread and the parameters outlive the call.
    #[expect(unsafe_code, reason = "the scheduling class has no safe interface")]
    let result = unsafe { libc::sched_setscheduler(0, class, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
