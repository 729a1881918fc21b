//! Cluster DNS: names of Services and pods as Kubernetes' DNS specification 1.1
//! has them, everything else asked of the machine's resolvers. It reads the
//! cluster through the client and writes nothing; it has no zone files and is
//! no recursive resolver.
//!
//! [`directory`] knows the cluster's names, [`zone`] answers a question from it
//! (both pure), [`forward`] asks others, [`server`] speaks UDP and TCP.

mod directory;
mod forward;
mod server;
mod zone;

pub use server::{Dns, DnsConfig, DnsError};

use std::net::{IpAddr, SocketAddr};

/// The port of DNS.
pub const PORT: u16 = 53;

/// The resolvers that a `resolv.conf` names, in order. Lines that make no sense
/// are skipped, as every resolver does.
pub fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok())?
        })
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn resolvers_are_read_in_order() {
        let text = "# x\nsearch a b\nnameserver 192.0.2.1\nnameserver\nnameserver fd00::1 # y\nnameserver z\n";
        let expected: Vec<std::net::SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(super::resolvers(text), expected);
    }
}
