//! The table that sees traffic. It changes no packet and drops none.

use super::{ActivityConfig, LOGGED_BYTES};
use crate::netlink::expression::{Base, Conntrack, Expression, Meta, Register, Verdict};
use crate::netlink::nftables::{Chain, Hook, HookedAt, RuleSet, Set, SetKind, types};
use crate::netlink::route::octets;
use crate::pod::TransportProtocol;
use crate::rule::{destination, outside_range, source};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Set of addresses whose last traffic is remembered.
pub(super) const TRACKED: &str = "tracked";
/// Set of addresses whose first packet is reported.
pub(super) const ARMED: &str = "armed";
/// Set of addresses whose first answer after a wake is reported.
pub(super) const ANSWERS: &str = "answers";
const TRANSPORTS: &str = "transports";
const EMPTY_SEGMENTS: &str = "empty-segments";
const JUDGE: &str = "judge";

/// After connection tracking (-200), where the connection's mark is known.
const AWAY_PRIORITY: i32 = -150;
/// After destinations are rewritten and before sources are.
const TOWARD_PRIORITY: i32 = 0;

/// Flag of a TCP header.
const SYN: u8 = 0x02;

const A: Register = Register(0);
const B: Register = Register(1);

fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

fn has_bits(register: Register, bits: u32) -> [Expression; 2] {
    let bits = bits.to_ne_bytes().to_vec();
    [Expression::Bits(register, bits.clone(), vec![0; 4]), Expression::Equal(register, bits)]
}

/// Lets everything pass that is no activity; the rest comes back.
fn judge(config: &ActivityConfig) -> Vec<Vec<Expression>> {
    let mut rules = Vec::new();
    if config.ignored_mark != 0 {
        let mark = config.ignored_mark;
        let mut marked = vec![Expression::Meta(Meta::Mark, A)];
        marked.extend(has_bits(A, mark));
        let mut remember = marked.clone();
        remember.extend([
            Expression::Conntrack(Conntrack::Mark, A),
            Expression::Bits(A, (!mark).to_ne_bytes().to_vec(), mark.to_ne_bytes().to_vec()),
            Expression::SetConntrack(Conntrack::Mark, A),
        ]);
        marked.push(accept());
        let mut remembered = vec![Expression::Conntrack(Conntrack::Mark, A)];
        remembered.extend(has_bits(A, mark));
        remembered.push(accept());
        rules.extend([remember, marked, remembered]);
    }
    rules.push(vec![Expression::Meta(Meta::TransportProtocol, A), Expression::NotIn(TRANSPORTS.into(), A), accept()]);
    rules.push(vec![
        Expression::Meta(Meta::TransportProtocol, A),
        Expression::Equal(A, vec![TransportProtocol::Tcp.number()]),
        Expression::Payload(Base::Transport, 13, 1, A),
        Expression::Bits(A, vec![SYN], vec![0]),
        Expression::Equal(A, vec![0]),
        // Length of the TCP header in words, and of the whole packet.
        Expression::Payload(Base::Transport, 12, 1, A),
        Expression::Bits(A, vec![0xf0], vec![0]),
        Expression::Payload(Base::Network, 2, 2, B),
        Expression::In(EMPTY_SEGMENTS.into(), A),
        accept(),
    ]);
    rules
}

/// Header length and packet length of TCP segments without data, for IPv4
/// headers without options.
fn empty_segments() -> BTreeMap<Vec<u8>, Option<crate::netlink::expression::Data>> {
    (5_u8..=15)
        .map(|words| {
            let length = (20 + 4 * u16::from(words)).to_be_bytes();
            (vec![words << 4, 0, 0, 0, length[0], length[1], 0, 0], None)
        })
        .collect()
}

/// Reports what a woken pod sends. The handshake is not it: the kernel answers
/// that for a frozen pod too.
fn answers(log_group: u16) -> [Vec<Expression>; 2] {
    let from_sleeper = [source(A), Expression::In(ANSWERS.into(), A), Expression::Meta(Meta::TransportProtocol, B)];
    let tcp = vec![TransportProtocol::Tcp.number()];
    let log = Expression::Log(log_group, LOGGED_BYTES);
    let mut datagram = from_sleeper.to_vec();
    datagram.extend([Expression::NotEqual(B, tcp.clone()), log.clone()]);
    let mut segment = from_sleeper.to_vec();
    segment.extend([
        Expression::Equal(B, tcp),
        Expression::Payload(Base::Transport, 13, 1, B),
        Expression::Bits(B, vec![SYN], vec![0]),
        Expression::Equal(B, vec![0]),
        log,
    ]);
    [datagram, segment]
}

fn base(hook: Hook, priority: i32, rules: Vec<Vec<Expression>>) -> Chain {
    Chain { hooked: Some(HookedAt { kind: "filter", hook, priority }), rules }
}

/// The table's content, with these addresses armed.
pub(super) fn plan(config: &ActivityConfig, log_group: u16, armed: &BTreeSet<IpAddr>) -> RuleSet {
    let addresses = SetKind { key: types::IPV4_ADDRESS, key_length: 4, ..SetKind::default() };
    let transports = [TransportProtocol::Tcp, TransportProtocol::Udp, TransportProtocol::Sctp];
    let sets = [
        (TRACKED, Set { kind: SetKind { remembers_use: true, ..addresses.clone() }, elements: BTreeMap::new() }),
        (
            ARMED,
            Set {
                kind: SetKind { remembers_use: true, ..addresses.clone() },
                elements: armed.iter().map(|address| (octets(*address), None)).collect(),
            },
        ),
        (ANSWERS, Set { kind: addresses, elements: armed.iter().map(|address| (octets(*address), None)).collect() }),
        (
            TRANSPORTS,
            Set {
                kind: SetKind { key: types::PROTOCOL, key_length: 1, ..SetKind::default() },
                elements: transports.iter().map(|protocol| (vec![protocol.number()], None)).collect(),
            },
        ),
        (
            EMPTY_SEGMENTS,
            Set {
                kind: SetKind {
                    key: types::concat(&[types::INTEGER, types::INTEGER]),
                    key_length: 8,
                    ..SetKind::default()
                },
                elements: empty_segments(),
            },
        ),
    ];
    let elsewhere = |end: fn(Register) -> Expression| {
        let mut rule = vec![end(A)];
        rule.extend(outside_range(A, &config.pod_cidr));
        rule.push(accept());
        rule
    };
    let ask = vec![Expression::Verdict(Verdict::Jump(JUDGE.into()))];
    let toward = vec![
        elsewhere(destination),
        ask.clone(),
        vec![destination(A), Expression::In(TRACKED.into(), A)],
        vec![destination(A), Expression::In(ARMED.into(), A), Expression::Log(log_group, LOGGED_BYTES)],
    ];
    let mut away = vec![elsewhere(source), ask, vec![source(A), Expression::In(TRACKED.into(), A)]];
    away.extend(answers(log_group));
    let chains = [
        (JUDGE, Chain { hooked: None, rules: judge(config) }),
        ("toward-pods", base(Hook::Postrouting, TOWARD_PRIORITY, toward)),
        ("away-from-pods", base(Hook::Prerouting, AWAY_PRIORITY, away)),
    ];
    RuleSet {
        sets: sets.into_iter().map(|(name, set)| (name.into(), set)).collect(),
        chains: chains.into_iter().map(|(name, chain)| (name.into(), chain)).collect(),
    }
}
