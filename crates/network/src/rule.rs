//! Pieces of rules that several tables need. The tables themselves stand beside
//! what they are for.

use crate::cidr::Cidr;
use crate::netlink::expression::{Base, Conntrack, Expression, Register, STATE_NEW, STATUS_DESTINATION_NAT};
use crate::netlink::route::octets;
use std::net::{IpAddr, Ipv4Addr};

/// Loads the packet's source address.
pub(crate) fn source(register: Register) -> Expression {
    Expression::Payload(Base::Network, 12, 4, register)
}

/// Loads the packet's destination address.
pub(crate) fn destination(register: Register) -> Expression {
    Expression::Payload(Base::Network, 16, 4, register)
}

/// Loads the packet's source port.
pub(crate) fn source_port(register: Register) -> Expression {
    Expression::Payload(Base::Transport, 0, 2, register)
}

/// Loads the packet's destination port.
pub(crate) fn destination_port(register: Register) -> Expression {
    Expression::Payload(Base::Transport, 2, 2, register)
}

/// Goes on only if the loaded address lies in the range.
pub(crate) fn in_range(register: Register, range: &Cidr) -> [Expression; 2] {
    let octets = octets(range.address());
    [Expression::Bits(register, range.mask(), vec![0; octets.len()]), Expression::Equal(register, octets)]
}

/// Goes on only if the loaded address lies outside the range.
pub(crate) fn outside_range(register: Register, range: &Cidr) -> [Expression; 2] {
    let octets = octets(range.address());
    [Expression::Bits(register, range.mask(), vec![0; octets.len()]), Expression::NotEqual(register, octets)]
}

/// Goes on only if the connection's destination was rewritten.
pub(crate) fn was_redirected(register: Register) -> [Expression; 3] {
    let bit = STATUS_DESTINATION_NAT.to_ne_bytes().to_vec();
    [
        Expression::Conntrack(Conntrack::Status, register),
        Expression::Bits(register, bit, vec![0; 4]),
        Expression::NotEqual(register, vec![0; 4]),
    ]
}

/// Goes on only for the first packet of a connection.
pub(crate) fn is_new(register: Register) -> [Expression; 3] {
    let bit = STATE_NEW.to_ne_bytes().to_vec();
    [
        Expression::Conntrack(Conntrack::State, register),
        Expression::Bits(register, bit, vec![0; 4]),
        Expression::NotEqual(register, vec![0; 4]),
    ]
}

/// 127.0.0.0/8.
pub(crate) fn loopback() -> Cidr {
    Cidr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8).expect("8 is below 32")
}
