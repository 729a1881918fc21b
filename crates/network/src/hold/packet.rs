//! Reading what identifies a held packet. It trusts no byte of it: packets come
//! from anywhere.

use crate::netlink::queue::Queued;
use crate::pod::TransportProtocol;
use std::net::Ipv4Addr;

/// Bytes needed of a packet: the longest IPv4 header and a TCP header up to its
/// flags.
pub(super) const BYTES: u32 = 60 + 14;
/// Kernel memory of a packet besides its bytes: `sk_buff`, shared info, queue
/// entry and connection, rounded up.
const OVERHEAD: usize = 1024;

/// What connections to a Service are addressed to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    /// Transport protocol number.
    pub(crate) protocol: u8,
    /// Any of the node's addresses if absent.
    pub(crate) address: Option<Ipv4Addr>,
    /// Port.
    pub(crate) port: u16,
}

/// What tells two connections apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Connection {
    pub(super) protocol: u8,
    pub(super) source: (Ipv4Addr, u16),
    pub(super) destination: (Ipv4Addr, u16),
}

/// A packet that came from the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrival {
    pub(super) id: u32,
    pub(super) mark: u32,
    pub(super) connection: Connection,
    /// It asks for a connection. A TCP segment without SYN belongs to one that
    /// the kernel has forgotten: nothing can answer it.
    pub(super) opens: bool,
    /// Kernel memory it takes, bytes.
    pub(super) bytes: usize,
}

impl Arrival {
    /// `None` if it is no TCP or UDP packet over IPv4.
    pub(super) fn read(packet: &Queued<'_>) -> Option<Self> {
        let bytes = packet.bytes;
        let first = *bytes.first()?;
        if first >> 4 != 4 {
            return None;
        }
        let octets = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
        let u16_at = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let transport = usize::from(first & 0xf) * 4;
        let protocol = *bytes.get(9)?;
        let connection = Connection {
            protocol,
            source: (octets(12)?, u16_at(transport)?),
            destination: (octets(16)?, u16_at(transport + 2)?),
        };
        let opens = if protocol == TransportProtocol::Tcp.number() {
            const FIN_SYN_RST_ACK: u8 = 0x17;
            const SYN: u8 = 0x02;
            *bytes.get(transport + 13)? & FIN_SYN_RST_ACK == SYN
        } else if protocol == TransportProtocol::Udp.number() {
            true
        } else {
            return None;
        };
        let bytes = usize::from(u16_at(2)?) + OVERHEAD;
        Some(Self { id: packet.id, mark: packet.mark, connection, opens, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0, 10, 42, 0, 2, 10, 43, 0, 10];
        bytes.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0xa0, flags]);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Arrival> {
        Arrival::read(&Queued { id: 7, mark: 0, bytes })
    }

    #[test]
    fn a_segment_that_asks_for_a_connection_is_told_from_others() {
        let arrival = read(&tcp(0x02)).unwrap();
        assert_eq!(arrival.connection.source, (Ipv4Addr::new(10, 42, 0, 2), 40000));
        assert_eq!(arrival.connection.destination, (Ipv4Addr::new(10, 43, 0, 10), 80));
        assert!(arrival.opens && arrival.id == 7);
        // With ECN flags too.
        assert!(read(&tcp(0xc2)).unwrap().opens);
        for flags in [0x12, 0x10, 0x04, 0x03, 0] {
            assert!(!read(&tcp(flags)).unwrap().opens, "{flags}");
        }
    }

    #[test]
    fn a_cut_off_or_foreign_packet_is_nothing() {
        let whole = tcp(0x02);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
        let mut other = whole.clone();
        other[9] = 132;
        assert_eq!(read(&other), None);
        other[0] = 0x65;
        assert_eq!(read(&other), None);
    }
}
