//! The nftables expressions that Darter's rules are made of, as values that
//! can be compared, and their encoding (`linux/netfilter/nf_tables.h`). What a
//! rule is for is said where it is put together.

use super::message::Attributes;
use std::time::Duration;

/// One of the sixteen 32-bit registers, 0 to 15. Neighbours form longer ones,
/// which is how concatenated keys are built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Register(pub(crate) u8);

impl Register {
    fn number(self) -> u32 {
        const NFT_REG32_00: u32 = 8;
        NFT_REG32_00 + u32::from(self.0)
    }
}

/// A property of the packet that is not in its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meta {
    /// `skb->mark`.
    Mark,
    /// Transport protocol number.
    TransportProtocol,
    /// Index of the incoming interface.
    IncomingInterface,
}

impl Meta {
    fn key(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::IncomingInterface => 4,
            Self::TransportProtocol => 16,
        }
    }
}

/// Where payload offsets count from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    /// The IP header.
    Network,
    /// The transport header.
    Transport,
}

/// A property of the packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Conntrack {
    /// Bits of `NF_CT_STATE_BIT`.
    State,
    /// Bits of `enum ip_conntrack_status`.
    Status,
    /// The connection's mark.
    Mark,
}

impl Conntrack {
    fn key(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Status => 2,
            Self::Mark => 3,
        }
    }
}

/// Bit of [`Conntrack::State`]: first packet of a connection.
pub(crate) const STATE_NEW: u32 = 8;
/// Bit of [`Conntrack::Status`]: the destination was rewritten.
pub(crate) const STATUS_DESTINATION_NAT: u32 = 1 << 5;

/// Which address of the packet is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What happens to the packet next.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It is dropped.
    Drop,
    /// On in another chain, and back after it.
    Jump(String),
    /// On in another chain, not coming back.
    Goto(String),
}

impl Verdict {
    fn encode(&self, attributes: &mut Attributes<'_>) {
        const NFTA_VERDICT_CODE: u16 = 1;
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4_i32, Some(chain)),
        };
        attributes.nest(NFTA_DATA_VERDICT, |a| {
            a.bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
            if let Some(chain) = chain {
                a.text(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }
}

/// What a set element's key or value holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Data {
    /// Bytes as they stand in registers; each field padded to 4.
    Value(Vec<u8>),
    /// A decision.
    Verdict(Verdict),
}

impl Data {
    /// As the content of an attribute that takes `NFTA_DATA_*`.
    pub(crate) fn encode(&self, attributes: &mut Attributes<'_>) {
        match self {
            Self::Value(value) => attributes.bytes(NFTA_DATA_VALUE, value),
            Self::Verdict(verdict) => verdict.encode(attributes),
        }
    }
}

/// `NFTA_DATA_VERDICT`.
pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
/// `NFTA_VERDICT_CHAIN`.
pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;
/// `NFTA_DATA_VALUE`.
pub(crate) const NFTA_DATA_VALUE: u16 = 1;

/// How a rule reaches a packet queue in this kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QueueBy {
    /// nftables' own `queue`.
    Expression,
    /// The iptables target `NFQUEUE`, carried by nftables.
    Target,
}

/// A packet queue as rules name it. While nobody has the queue, packets to it
/// are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queueing {
    /// The queue's number.
    pub(crate) number: u16,
    /// How to say so.
    pub(crate) by: QueueBy,
}

/// One step of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expression {
    /// Loads packet metadata (4 bytes).
    Meta(Meta, Register),
    /// Stores packet metadata.
    SetMeta(Meta, Register),
    /// Loads packet bytes.
    Payload(Base, u32, u32, Register),
    /// Goes on only if the register equals the bytes.
    Equal(Register, Vec<u8>),
    /// Goes on only if the register differs from the bytes.
    NotEqual(Register, Vec<u8>),
    /// `register = (register & mask) ^ xor`, all of the same length.
    Bits(Register, Vec<u8>, Vec<u8>),
    /// Goes on only if the key is in the set.
    In(String, Register),
    /// Goes on only if the key is not in the set.
    NotIn(String, Register),
    /// Goes on only if the key is in the map; loads its value.
    Map(String, Register, Register),
    /// Follows the verdict that the map holds for the key, if any.
    VerdictMap(String, Register),
    /// Loads a constant.
    Constant(Register, Vec<u8>),
    /// Ends the rule.
    Verdict(Verdict),
    /// Loads a property of the connection.
    Conntrack(Conntrack, Register),
    /// Stores a property of the connection.
    SetConntrack(Conntrack, Register),
    /// Loads a random number below the bound.
    Random(u32, Register),
    /// Hashes so many bytes from a register on to a number below the bound.
    Hash(Register, u32, u32, Register),
    /// Puts an element into a map that rules fill, or renews its timeout: map,
    /// key, value, timeout.
    Remember(String, Register, Register, Duration),
    /// Goes on only if packets with the key come faster than this, and once more
    /// were there at once than the burst: a set that rules fill, key, packets a
    /// second, burst.
    Faster(String, Register, u64, u32),
    /// Goes on only if the address is one of this node's own.
    IsLocal(End, Register),
    /// Sends the connection to address and port (registers of IPv4).
    DestinationNat(Register, Register),
    /// Gives the connection the outgoing interface's address as its source.
    Masquerade,
    /// Answers "port unreachable". The kernel sends a few of these to one host
    /// and then one a second.
    Reject,
    /// Answers a TCP segment with a reset.
    ResetTcp,
    /// Hands the packet's first bytes to a log group: group, bytes.
    Log(u16, u32),
    /// Holds the packet in a queue until its owner decides.
    Queue(Queueing),
}

/// Attribute that holds one expression in a list.
pub(crate) const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

fn named(attributes: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    attributes.nest(NFTA_LIST_ELEM, |a| body(a, name, data));
}

fn body(attributes: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    attributes.text(NFTA_EXPR_NAME, name);
    attributes.nest(NFTA_EXPR_DATA, data);
}

/// The per-element memory of when an element was last found (`last`), as the
/// content of `NFTA_SET_EXPR`.
pub(crate) fn last_used(attributes: &mut Attributes<'_>) {
    body(attributes, "last", |_| {});
}

fn compare(attributes: &mut Attributes<'_>, register: Register, operator: u32, value: &[u8]) {
    named(attributes, "cmp", |a| {
        a.u32_be(1, register.number());
        a.u32_be(2, operator);
        a.nest(3, |a| a.bytes(NFTA_DATA_VALUE, value));
    });
}

fn lookup(attributes: &mut Attributes<'_>, set: &str, source: Register, into: Option<u32>, invert: bool) {
    named(attributes, "lookup", |a| {
        a.text(1, set);
        a.u32_be(2, source.number());
        if let Some(into) = into {
            a.u32_be(3, into);
        }
        if invert {
            a.u32_be(5, 1);
        }
    });
}

impl Expression {
    /// Appends the expression to a rule's list.
    pub(crate) fn encode(&self, attributes: &mut Attributes<'_>) {
        const NFT_REG_VERDICT: u32 = 0;
        let load = |a: &mut Attributes<'_>, name: &str, key: u32, register: Register| {
            named(a, name, |a| {
                a.u32_be(1, register.number());
                a.u32_be(2, key);
            });
        };
        match self {
            Self::Meta(key, register) => load(attributes, "meta", key.key(), *register),
            Self::Conntrack(key, register) => load(attributes, "ct", key.key(), *register),
            Self::SetMeta(key, register) => named(attributes, "meta", |a| {
                a.u32_be(2, key.key());
                a.u32_be(3, register.number());
            }),
            Self::SetConntrack(key, register) => named(attributes, "ct", |a| {
                a.u32_be(2, key.key());
                a.u32_be(4, register.number());
            }),
            Self::Payload(base, offset, length, register) => named(attributes, "payload", |a| {
                a.u32_be(1, register.number());
                a.u32_be(
                    2,
                    match base {
                        Base::Network => 1,
                        Base::Transport => 2,
                    },
                );
                a.u32_be(3, *offset);
                a.u32_be(4, *length);
            }),
            Self::Equal(register, value) => compare(attributes, *register, 0, value),
            Self::NotEqual(register, value) => compare(attributes, *register, 1, value),
            Self::Bits(register, mask, xor) => named(attributes, "bitwise", |a| {
                a.u32_be(1, register.number());
                a.u32_be(2, register.number());
                a.u32_be(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                a.nest(4, |a| a.bytes(NFTA_DATA_VALUE, mask));
                a.nest(5, |a| a.bytes(NFTA_DATA_VALUE, xor));
            }),
            Self::In(set, key) => lookup(attributes, set, *key, None, false),
            Self::NotIn(set, key) => lookup(attributes, set, *key, None, true),
            Self::Map(set, key, into) => lookup(attributes, set, *key, Some(into.number()), false),
            Self::VerdictMap(set, key) => lookup(attributes, set, *key, Some(NFT_REG_VERDICT), false),
            Self::Constant(register, value) => named(attributes, "immediate", |a| {
                a.u32_be(1, register.number());
                a.nest(2, |a| a.bytes(NFTA_DATA_VALUE, value));
            }),
            Self::Verdict(verdict) => named(attributes, "immediate", |a| {
                a.u32_be(1, NFT_REG_VERDICT);
                a.nest(2, |a| verdict.encode(a));
            }),
            Self::Random(bound, register) => named(attributes, "numgen", |a| {
                const NFT_NG_RANDOM: u32 = 1;
                a.u32_be(1, register.number());
                a.u32_be(2, *bound);
                a.u32_be(3, NFT_NG_RANDOM);
                a.u32_be(4, 0);
            }),
            Self::Hash(from, length, bound, into) => named(attributes, "hash", |a| {
                a.u32_be(1, from.number());
                a.u32_be(2, into.number());
                a.u32_be(3, *length);
                a.u32_be(4, *bound);
            }),
            Self::Remember(map, key, value, timeout) => named(attributes, "dynset", |a| {
                const NFT_DYNSET_OP_UPDATE: u32 = 1;
                a.text(1, map);
                a.u32_be(3, NFT_DYNSET_OP_UPDATE);
                a.u32_be(4, key.number());
                a.u32_be(5, value.number());
                a.u64_be(6, u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            }),
            Self::Faster(set, key, rate, burst) => named(attributes, "dynset", |a| {
                const NFT_DYNSET_OP_UPDATE: u32 = 1;
                const NFT_LIMIT_PKTS: u32 = 0;
                const NFT_LIMIT_F_INV: u32 = 1;
                // Long enough that a forgotten key's burst is whole again.
                let timeout = u64::from(*burst) * 1000 / rate.max(&1) + 1000;
                a.text(1, set);
                a.u32_be(3, NFT_DYNSET_OP_UPDATE);
                a.u32_be(4, key.number());
                a.u64_be(6, timeout);
                a.nest(7, |a| {
                    body(a, "limit", |a| {
                        a.u64_be(1, *rate);
                        a.u64_be(2, 1);
                        a.u32_be(3, *burst);
                        a.u32_be(4, NFT_LIMIT_PKTS);
                        a.u32_be(5, NFT_LIMIT_F_INV);
                    });
                });
            }),
            Self::IsLocal(end, register) => {
                named(attributes, "fib", |a| {
                    const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
                    a.u32_be(1, register.number());
                    a.u32_be(2, NFT_FIB_RESULT_ADDRTYPE);
                    a.u32_be(
                        3,
                        match end {
                            End::Source => 1,
                            End::Destination => 2,
                        },
                    );
                });
                const RTN_LOCAL: u32 = 2;
                compare(attributes, *register, 0, &RTN_LOCAL.to_ne_bytes());
            }
            Self::DestinationNat(address, port) => named(attributes, "nat", |a| {
                const NFT_NAT_DNAT: u32 = 1;
                a.u32_be(1, NFT_NAT_DNAT);
                a.u32_be(2, u32::try_from(libc::AF_INET).unwrap_or(2));
                a.u32_be(3, address.number());
                a.u32_be(5, port.number());
            }),
            Self::Masquerade => named(attributes, "masq", |_| {}),
            Self::Reject => named(attributes, "reject", |a| {
                const NFT_REJECT_ICMP_UNREACH: u32 = 0;
                const ICMP_PORT_UNREACH: u8 = 3;
                a.u32_be(1, NFT_REJECT_ICMP_UNREACH);
                a.u8(2, ICMP_PORT_UNREACH);
            }),
            Self::ResetTcp => named(attributes, "reject", |a| {
                const NFT_REJECT_TCP_RST: u32 = 1;
                a.u32_be(1, NFT_REJECT_TCP_RST);
            }),
            Self::Log(group, length) => named(attributes, "log", |a| {
                a.u16_be(1, *group);
                a.u32_be(3, *length);
                a.u16_be(4, 1);
            }),
            Self::Queue(Queueing { number, by: QueueBy::Expression }) => named(attributes, "queue", |a| {
                a.u16_be(1, *number);
                a.u16_be(2, 1);
            }),
            Self::Queue(Queueing { number, by: QueueBy::Target }) => named(attributes, "target", |a| {
                // struct xt_NFQ_info_v3: number, how many queues, flags; in
                // host order and padded to 8 as all of xtables' structs.
                const REVISION: u32 = 3;
                let info = [number.to_ne_bytes(), 1_u16.to_ne_bytes(), [0; 2], [0; 2]].concat();
                a.text(1, "NFQUEUE");
                a.u32_be(2, REVISION);
                a.bytes(3, &info);
            }),
        }
    }
}
