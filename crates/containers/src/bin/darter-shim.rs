//! The shim as a program of its own, for those who embed the runtime in a
//! program that cannot give way before it starts threads. The `darter` binary
//! does without it.

fn main() {
    containers::shim_main(std::env::args_os().skip(1))
}
