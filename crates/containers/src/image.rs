//! Images: names, what is on this machine, how layers get onto its disk, from
//! files and from registries. Running them is not its matter.

mod archive;
mod http;
mod layer;
mod oci;
mod pull;
pub mod reference;
mod registries;
pub(crate) mod store;

pub(crate) use self::layer::hex;
pub(crate) use self::oci::ImageConfig;
