//! Links, addresses, routes and neighbours as rtnetlink has them
//! (`rtnetlink(7)`, `linux/if_link.h`). Which ones there should be is decided
//! by the callers.

use super::message::{self, CREATE, EXCLUSIVE, REPLACE};
use super::{Messages, NetlinkError, Socket};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IPV4_DEVCONF_ROUTE_LOCALNET: u16 = 26;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

const IFF_UP: u32 = 1;

/// Index of the loopback device, the same in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// A link-layer address.
pub(crate) type Mac = [u8; 6];

/// A link as the kernel lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Interface index.
    pub(crate) index: u32,
    /// Interface name.
    pub(crate) name: String,
    /// Free text that survives with the link.
    pub(crate) alias: String,
    /// Group number, 0 by default.
    pub(crate) group: u32,
    /// Largest packet, bytes.
    pub(crate) mtu: u32,
}

fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Makes a bridge without ports. Fails if the name is taken.
pub(crate) fn add_bridge(messages: &mut Messages, name: &str, mac: Mac, mtu: u32, alias_group: u32) {
    messages.push("make the node's pod interface", RTM_NEWLINK, CREATE | EXCLUSIVE, &ifinfo(0, IFF_UP, IFF_UP), |a| {
        a.text(IFLA_IFNAME, name);
        a.bytes(IFLA_ADDRESS, &mac);
        a.u32_ne(IFLA_MTU, mtu);
        a.u32_ne(IFLA_GROUP, alias_group);
        a.nest(IFLA_LINKINFO, |a| a.text(IFLA_INFO_KIND, "bridge"));
    });
}

/// One end of a veth pair.
pub(crate) struct VethEnd<'a> {
    /// Interface name.
    pub(crate) name: &'a str,
    /// Its link-layer address.
    pub(crate) mac: Mac,
}

/// Makes a veth pair whose `far` end lies in another namespace.
pub(crate) fn add_veth(
    messages: &mut Messages,
    near: &VethEnd<'_>,
    far: &VethEnd<'_>,
    namespace: BorrowedFd<'_>,
    mtu: u32,
    group: u32,
) {
    messages.push("make the pod's interface pair", RTM_NEWLINK, CREATE | EXCLUSIVE, &ifinfo(0, IFF_UP, IFF_UP), |a| {
        a.text(IFLA_IFNAME, near.name);
        a.bytes(IFLA_ADDRESS, &near.mac);
        a.u32_ne(IFLA_MTU, mtu);
        a.u32_ne(IFLA_GROUP, group);
        a.nest(IFLA_LINKINFO, |a| {
            a.text(IFLA_INFO_KIND, "veth");
            a.nest(IFLA_INFO_DATA, |a| {
                a.nest_after(VETH_INFO_PEER, &ifinfo(0, 0, 0), |a| {
                    a.text(IFLA_IFNAME, far.name);
                    a.bytes(IFLA_ADDRESS, &far.mac);
                    a.u32_ne(IFLA_MTU, mtu);
                    a.u32_ne(IFLA_NET_NS_FD, u32::try_from(namespace.as_raw_fd()).unwrap_or(u32::MAX));
                });
            });
        });
    });
}

/// Marks a link with free text, lets packets between it and 127.0.0.0/8 pass
/// the address checks, and keeps IPv6 from giving it an address of its own.
pub(crate) fn dress_veth(messages: &mut Messages, name: &str, alias: &str) {
    messages.push("mark the pod's interface", RTM_NEWLINK, 0, &ifinfo(0, 0, 0), |a| {
        a.text(IFLA_IFNAME, name);
        a.text(IFLA_IFALIAS, alias);
        a.nest(IFLA_AF_SPEC, |a| {
            a.nest(u16::try_from(libc::AF_INET).unwrap_or(0), |a| {
                a.nest(IFLA_INET_CONF, |a| a.u32_ne(IPV4_DEVCONF_ROUTE_LOCALNET, 1));
            });
            a.nest(u16::try_from(libc::AF_INET6).unwrap_or(0), |a| {
                a.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    });
}

/// Sets a link up.
pub(crate) fn set_up(messages: &mut Messages, index: u32) {
    messages.push("set an interface up", RTM_NEWLINK, 0, &ifinfo(index, IFF_UP, IFF_UP), |_| {});
}

/// Removes a link by name.
pub(crate) fn delete_link(messages: &mut Messages, name: &str) {
    messages.push("remove an interface", RTM_DELLINK, 0, &ifinfo(0, 0, 0), |a| a.text(IFLA_IFNAME, name));
}

/// Adds an address to a link; one that is there stays.
pub(crate) fn add_address(messages: &mut Messages, index: u32, address: IpAddr, prefix: u8) {
    let mut header = vec![family(address), prefix, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    messages.push("add an address", RTM_NEWADDR, CREATE | REPLACE, &header, |a| {
        a.bytes(IFA_LOCAL, &octets(address));
        a.bytes(IFA_ADDRESS, &octets(address));
    });
}

/// A route of the main table.
pub(crate) struct Route {
    /// Destination; `None` is the default route.
    pub(crate) destination: Option<(IpAddr, u8)>,
    /// Next hop, taken to be on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub(crate) index: u32,
    /// Source address of the node's own packets.
    pub(crate) source: Option<IpAddr>,
}

/// Adds a route or replaces the one to the same destination.
pub(crate) fn add_route(messages: &mut Messages, route: &Route) {
    let any = route.destination.map(|(address, _)| address).or(route.gateway);
    let header = {
        let mut header = vec![
            any.map_or(0, family),
            route.destination.map_or(0, |(_, prefix)| prefix),
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            if route.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK },
            RTN_UNICAST,
        ];
        header.extend_from_slice(&(if route.gateway.is_some() { RTNH_F_ONLINK } else { 0 }).to_ne_bytes());
        header
    };
    messages.push("add a route", RTM_NEWROUTE, CREATE | REPLACE, &header, |a| {
        if let Some((destination, _)) = route.destination {
            a.bytes(RTA_DST, &octets(destination));
        }
        if let Some(gateway) = route.gateway {
            a.bytes(RTA_GATEWAY, &octets(gateway));
        }
        if let Some(source) = route.source {
            a.bytes(RTA_PREFSRC, &octets(source));
        }
        a.u32_ne(RTA_OIF, route.index);
    });
}

/// Fixes the link-layer address of a neighbour, so that nobody asks for it.
pub(crate) fn add_neighbour(messages: &mut Messages, index: u32, address: IpAddr, mac: Mac) {
    let mut header = vec![family(address), 0, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[0, 0]);
    messages.push("fix a neighbour's link address", RTM_NEWNEIGH, CREATE | REPLACE, &header, |a| {
        a.bytes(NDA_DST, &octets(address));
        a.bytes(NDA_LLADDR, &mac);
    });
}

/// All links of the socket's namespace.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut links = Vec::new();
    socket.list(
        |messages| messages.push("list interfaces", RTM_GETLINK, 0, &ifinfo(0, 0, 0), |_| {}),
        true,
        |answer| links.extend(parse_link(answer.payload)),
    )?;
    Ok(links)
}

/// One link by name; `None` if there is none.
pub(crate) fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut found = None;
    let result = socket.list(
        |messages| {
            messages.push("look an interface up", RTM_GETLINK, 0, &ifinfo(0, 0, 0), |a| a.text(IFLA_IFNAME, name));
        },
        false,
        |answer| found = parse_link(answer.payload),
    );
    match result {
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = payload.get(4..8).and_then(message::u32_ne)?;
    let attributes = payload.get(16..)?;
    let words = |kind| message::attribute(attributes, kind).and_then(message::text).unwrap_or_default().to_owned();
    let number = |kind| message::attribute(attributes, kind).and_then(message::u32_ne).unwrap_or_default();
    Some(Link {
        index,
        name: words(IFLA_IFNAME),
        alias: words(IFLA_IFALIAS),
        group: number(IFLA_GROUP),
        mtu: number(IFLA_MTU),
    })
}

fn unreachable_header(range: &crate::cidr::Cidr) -> [u8; 12] {
    const RTN_UNREACHABLE: u8 = 7;
    let mut header = [0; 12];
    header[0] = family(range.address());
    header[1] = range.prefix();
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_STATIC;
    header[6] = RT_SCOPE_UNIVERSE;
    header[7] = RTN_UNREACHABLE;
    header
}

/// Refuses packets to a range unless a longer route takes them.
pub(crate) fn add_unreachable(messages: &mut Messages, range: &crate::cidr::Cidr) {
    messages.push("add a refusing route", RTM_NEWROUTE, CREATE | REPLACE, &unreachable_header(range), |a| {
        a.bytes(RTA_DST, &octets(range.address()));
    });
}

/// Undoes [`add_unreachable`].
pub(crate) fn delete_unreachable(messages: &mut Messages, range: &crate::cidr::Cidr) {
    const RTM_DELROUTE: u16 = 25;
    messages.push("remove a refusing route", RTM_DELROUTE, 0, &unreachable_header(range), |a| {
        a.bytes(RTA_DST, &octets(range.address()));
    });
}

fn address_of(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

/// All addresses with their prefix lengths and interface indexes.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
    const RTM_GETADDR: u16 = 22;
    let mut found = Vec::new();
    socket.list(
        |messages| messages.push("list addresses", RTM_GETADDR, 0, &[0; 8], |_| {}),
        true,
        |answer| {
            let parse = || -> Option<(u32, IpAddr, u8)> {
                let index = answer.payload.get(4..8).and_then(message::u32_ne)?;
                let attributes = answer.payload.get(8..)?;
                let value = message::attribute(attributes, IFA_LOCAL)
                    .or_else(|| message::attribute(attributes, IFA_ADDRESS))?;
                Some((index, address_of(value)?, answer.payload[1]))
            };
            found.extend(parse());
        },
    )?;
    Ok(found)
}

/// Listings that only tests need, to see that nothing is left behind.
#[cfg(test)]
pub(crate) mod inventory {
    use super::{NetlinkError, RT_TABLE_MAIN, RTA_DST, RTA_OIF, Socket, address_of, message};
    use std::net::IpAddr;

    const RTM_GETROUTE: u16 = 26;

    /// All routes of the main table with a destination: destination, prefix length
    /// and interface index.
    pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<(IpAddr, u8, u32)>, NetlinkError> {
        let mut found = Vec::new();
        socket.list(
            |messages| messages.push("list routes", RTM_GETROUTE, 0, &[0; 12], |_| {}),
            true,
            |answer| {
                let parse = || -> Option<(IpAddr, u8, u32)> {
                    let header = answer.payload.get(..12)?;
                    let attributes = answer.payload.get(12..)?;
                    let destination = message::attribute(attributes, RTA_DST).and_then(address_of)?;
                    let index = message::attribute(attributes, RTA_OIF).and_then(message::u32_ne)?;
                    (header[4] == RT_TABLE_MAIN).then_some((destination, header[1], index))
                };
                found.extend(parse());
            },
        )?;
        Ok(found)
    }
}
