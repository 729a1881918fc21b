//! Finding and removing tracked connections (`nfnetlink_conntrack`). UDP has no
//! end of connection, so an entry that points to an endpoint that is gone must
//! be removed by hand. It neither makes nor changes entries.

use super::message::{attribute, attribute_at};
use super::{Messages, NetlinkError, Socket};
use std::net::{IpAddr, Ipv4Addr};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tuple {
    /// Transport protocol number.
    pub(crate) protocol: u8,
    /// Sender.
    pub(crate) source: (IpAddr, u16),
    /// Receiver.
    pub(crate) destination: (IpAddr, u16),
}

/// A tracked connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Connection {
    /// As the first packet was addressed.
    pub(crate) original: Tuple,
    /// As answers are addressed.
    pub(crate) reply: Tuple,
}

/// Removes every IPv4 connection that `stale` picks; gives how many.
pub(crate) fn remove(socket: &mut Socket, stale: impl Fn(&Connection) -> bool) -> Result<usize, NetlinkError> {
    let mut picked = Vec::new();
    let family = u8::try_from(libc::AF_INET).unwrap_or(2);
    socket.list(
        |messages| {
            let kind = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_GET;
            messages.push("list connections", kind, 0, &[family, 0, 0, 0], |_| {});
        },
        true,
        |answer| {
            let attributes = answer.payload.get(4..).unwrap_or_default();
            if parse(attributes).is_some_and(|connection| stale(&connection)) {
                picked.extend(attribute(attributes, CTA_TUPLE_ORIG).map(<[u8]>::to_vec));
            }
        },
    )?;
    let mut removed = 0;
    for original in picked {
        let mut messages = Messages::new();
        let kind = (NFNL_SUBSYS_CTNETLINK << 8) | IPCTNL_MSG_CT_DELETE;
        messages.push("remove a connection", kind, 0, &[family, 0, 0, 0], |a| {
            a.bytes(CTA_TUPLE_ORIG | 0x8000, &original);
        });
        match socket.request(messages) {
            Ok(()) => removed += 1,
            // It ended by itself meanwhile.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

fn parse(attributes: &[u8]) -> Option<Connection> {
    Some(Connection {
        original: tuple(attribute(attributes, CTA_TUPLE_ORIG)?)?,
        reply: tuple(attribute(attributes, CTA_TUPLE_REPLY)?)?,
    })
}

fn tuple(value: &[u8]) -> Option<Tuple> {
    let address = |kind| -> Option<IpAddr> {
        let octets = <[u8; 4]>::try_from(attribute_at(value, &[CTA_TUPLE_IP, kind])?).ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let port = |kind| -> u16 {
        attribute_at(value, &[CTA_TUPLE_PROTO, kind])
            .and_then(|port| Some(u16::from_be_bytes(port.try_into().ok()?)))
            .unwrap_or(0)
    };
    let protocol = *attribute_at(value, &[CTA_TUPLE_PROTO, CTA_PROTO_NUM])?.first()?;
    Some(Tuple {
        protocol,
        source: (address(CTA_IP_V4_SRC)?, port(CTA_PROTO_SRC_PORT)),
        destination: (address(CTA_IP_V4_DST)?, port(CTA_PROTO_DST_PORT)),
    })
}
