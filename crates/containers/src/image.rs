//! Images: names, what is on this machine, how layers get onto its disk.
//! Running them is not its matter.

pub(crate) mod archive;
mod layer;
mod oci;
pub mod reference;
pub(crate) mod store;

pub(crate) use self::layer::hex;
pub(crate) use self::oci::ImageConfig;
