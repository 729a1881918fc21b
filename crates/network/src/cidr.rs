//! An address range. It allocates nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses that share their first `prefix` bits. The address is
/// the range's first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a range.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
#[error("{text:?} is not an address range like 10.42.0.0/16")]
pub struct CidrError {
    text: String,
}

impl Cidr {
    /// The range of this length around an address; `None` if the prefix is
    /// longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return None;
        }
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Some(Self { address, prefix })
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// True if the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.prefix).is_some_and(|range| range.address == self.address)
    }

    /// The address at this distance from the first; `None` outside the range.
    pub fn nth(&self, index: u32) -> Option<IpAddr> {
        let address = match self.address {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().checked_add(index)?)),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().checked_add(u128::from(index))?)),
        };
        self.contains(address).then_some(address)
    }

    /// The mask as bytes in network order.
    pub(crate) fn mask(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(_) => u32::MAX.checked_shl(u32::from(32 - self.prefix)).unwrap_or(0).to_be_bytes().to_vec(),
            IpAddr::V6(_) => u128::MAX.checked_shl(u32::from(128 - self.prefix)).unwrap_or(0).to_be_bytes().to_vec(),
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.trim().split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| CidrError { text: text.to_owned() })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_addresses() {
        let range: Cidr = "10.42.1.77/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.1.0/24");
        assert!(range.contains("10.42.1.255".parse().unwrap()));
        assert!(!range.contains("10.42.2.0".parse().unwrap()));
        assert!(!range.contains("::1".parse().unwrap()));
        assert_eq!(range.nth(255), Some("10.42.1.255".parse().unwrap()));
        assert_eq!(range.nth(256), None);
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().mask(), [0; 4]);
        for text in ["10.0.0.0", "10.0.0.0/33", "x/8", "", "::/129"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
