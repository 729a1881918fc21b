//! Pod interfaces, addresses, Service rules, packet activity and held packets:
//! plan a rule set, then apply it by netlink in one transaction. It answers no DNS query
//! and proxies no byte.

pub mod activity;
pub mod cidr;
pub mod hold;
pub mod pod;
pub mod service;

mod netlink;
mod precedence;
mod rule;
#[cfg(test)]
mod testnet;

pub use netlink::NetlinkError;
