//! Killing and cleaning often enough to promise that it always goes well. The
//! first ring does the same a few times.

use super::{adoption, machine, traces, writes};

/// Acknowledged writes a second under which the server is killed.
const RATE: f64 = 500.0;

/// The full number, or what `DARTER_ROUNDS` says times `each`.
fn rounds(full: usize, each: usize) -> usize {
    match std::env::var("DARTER_ROUNDS") {
        Ok(text) => each * text.parse::<usize>().expect("DARTER_ROUNDS is a number"),
        Err(_) => full,
    }
}

#[test]
fn no_acknowledged_write_and_no_event_is_lost_when_the_server_is_killed() {
    let kills = rounds(50, 1);
    let figures = writes::survive(u32::try_from(kills).unwrap());
    println!("{kills} kills: {figures}");
    assert!(figures.rate >= RATE, "{:.0} writes/s are fewer than {RATE}: the test shows too little", figures.rate);
}

#[test]
fn no_container_is_restarted_when_the_server_is_killed() {
    if machine::alone() {
        let kills = rounds(20, 1);
        adoption::survive(u32::try_from(kills).unwrap());
        println!("{kills} kills with 10 pods: the same processes");
    }
}

#[test]
fn pods_leave_the_machine_as_it_was() {
    if machine::alone() {
        traces::leave_none(rounds(200, 10));
    }
}
