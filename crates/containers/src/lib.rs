//! Images, snapshots, namespaces, cgroups, seccomp and streams: what runs
//! containers on one machine. OCI words, no Kubernetes words; it never talks to
//! an API server and decides nothing about restarts or probes.

mod capability;
mod cgroup;
mod connections;
mod embedded;
mod files;
mod identity;
mod image;
pub mod mounts;
mod paging;
pub mod runtime;
mod seccomp;
mod shim;
mod spec;
pub mod swap;
mod sys;

pub use embedded::{EmbeddedConfig, EmbeddedRuntime, OpenError, ShimCommand};
pub use image::reference;
pub use image::store::ImageStore;
pub use shim::shim_main;

/// `bytes` random bytes of the kernel as lower-case hex.
fn random_hex(bytes: usize) -> std::io::Result<String> {
    let mut buffer = vec![0_u8; bytes];
    let mut filled = 0;
    while filled < bytes {
        filled += rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(image::hex(&buffer))
}
