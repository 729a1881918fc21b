//! Tables of nftables as values: what there should be is a [`RuleSet`], and the
//! difference between two of them is one batch that the kernel takes as a
//! whole or not at all. It touches no table but the one named, and decides
//! nothing about packets.

use super::expression::{Data, Expression, NFTA_DATA_VALUE, NFTA_LIST_ELEM, last_used};
use super::message::{self, APPEND, CREATE};
use super::{Messages, NetlinkError, Socket};
use std::collections::BTreeMap;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_LAST_SET: u16 = 1;
const NFTA_LAST_MSECS: u16 = 2;

/// Elements in one message: an attribute ends at 64 KiB, and the longest
/// element (three-part key, verdict with a chain's name) takes below 120 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Which packets a table sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    /// IPv4.
    Ipv4,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
        }
    }
}

/// Where a base chain sees packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hook {
    /// As they come in.
    Prerouting,
    /// From this node.
    Output,
    /// As they go out.
    Postrouting,
}

/// What a chain is hooked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HookedAt {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// Where.
    pub(crate) hook: Hook,
    /// Order among the chains there, lowest first.
    pub(crate) priority: i32,
}

/// A list of rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Chain {
    /// Base chains say where they are hooked.
    pub(crate) hooked: Option<HookedAt>,
    /// In order.
    pub(crate) rules: Vec<Vec<Expression>>,
}

/// The type numbers `nft` prints values by; concatenations shift by six bits.
pub(crate) mod types {
    /// An IPv4 address.
    pub(crate) const IPV4_ADDRESS: u32 = 7;
    /// A port.
    pub(crate) const PORT: u32 = 13;
    /// A transport protocol number.
    pub(crate) const PROTOCOL: u32 = 12;
    /// A number in host order.
    pub(crate) const MARK: u32 = 19;
    /// A number in host order.
    pub(crate) const INTEGER: u32 = 4;
    /// A decision.
    pub(crate) const VERDICT: u32 = 0xffff_ff00;

    /// The type of a concatenation.
    pub(crate) const fn concat(parts: &[u32]) -> u32 {
        let mut all = 0;
        let mut index = 0;
        while index < parts.len() {
            all = (all << 6) | parts[index];
            index += 1;
        }
        all
    }
}

/// What a set holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SetKind {
    /// One of [`types`].
    pub(crate) key: u32,
    /// Bytes of the key.
    pub(crate) key_length: u32,
    /// Type and length in bytes of the values; a verdict's length is 0.
    pub(crate) value: Option<(u32, u32)>,
    /// Rules change it; its elements may carry timeouts if `timeouts`.
    pub(crate) dynamic: bool,
    /// Elements expire.
    pub(crate) timeouts: bool,
    /// Most elements that rules may add; 0 without a bound.
    pub(crate) size: u32,
    /// Each element remembers when it was last found.
    pub(crate) remembers_use: bool,
}

/// A set or map with its elements.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Set {
    /// What it holds.
    pub(crate) kind: SetKind,
    /// Key to value; a plain set has none. Empty for a set that rules fill.
    pub(crate) elements: BTreeMap<Vec<u8>, Option<Data>>,
}

/// Everything one table holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RuleSet {
    /// By name.
    pub(crate) sets: BTreeMap<String, Set>,
    /// By name.
    pub(crate) chains: BTreeMap<String, Chain>,
}

/// How much a batch changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Size {
    /// Elements added or removed.
    pub(crate) elements: usize,
    /// Rules written.
    pub(crate) rules: usize,
}

/// One transaction on one table.
pub(crate) struct Batch {
    family: Family,
    table: String,
    messages: Messages,
    next_set: u32,
    size: Size,
}

fn generic(family: u8, resource: u16) -> [u8; 4] {
    let resource = resource.to_be_bytes();
    [family, 0, resource[0], resource[1]]
}

impl Batch {
    /// An empty transaction.
    pub(crate) fn new(family: Family, table: &str) -> Self {
        let mut messages = Messages::new();
        messages.push("open a batch", NFNL_MSG_BATCH_BEGIN, 0, &generic(0, NFNL_SUBSYS_NFTABLES), |_| {});
        Self { family, table: table.to_owned(), messages, next_set: 1, size: Size::default() }
    }

    /// Turns the table into `new` whatever it holds now.
    pub(crate) fn replace(family: Family, table: &str, new: &RuleSet) -> Self {
        let mut batch = Self::new(family, table);
        // Adding first makes the removal succeed when there is none.
        batch.add_table();
        batch.delete_table();
        batch.add_table();
        batch.change(&RuleSet::default(), new);
        batch
    }

    /// Turns a table that holds `old` into `new`.
    pub(crate) fn update(family: Family, table: &str, old: &RuleSet, new: &RuleSet) -> Self {
        let mut batch = Self::new(family, table);
        batch.change(old, new);
        batch
    }

    /// Removes the table with all it holds, if there is one.
    pub(crate) fn remove(family: Family, table: &str) -> Self {
        let mut batch = Self::new(family, table);
        batch.add_table();
        batch.delete_table();
        batch
    }

    /// Adds a rule to a table of this name and takes all of it away again:
    /// committed, it says whether the kernel has the rule's expressions. The
    /// chain is hooked nowhere, so no packet meets it.
    pub(crate) fn probe(family: Family, table: &str, rule: &[Expression]) -> Self {
        let mut batch = Self::new(family, table);
        batch.add_table();
        batch.add_chain("probe", None);
        batch.add_rule("probe", rule);
        batch.delete_table();
        batch
    }

    /// How much it changes.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    /// Carries it out.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> Result<(), NetlinkError> {
        if self.messages.len() == 1 {
            return Ok(());
        }
        self.messages.push("commit a batch", NFNL_MSG_BATCH_END, 0, &generic(0, NFNL_SUBSYS_NFTABLES), |_| {});
        socket.transaction(self.messages)
    }

    fn push(&mut self, step: &'static str, kind: u16, flags: u16, fill: impl FnOnce(&mut super::Attributes<'_>, &str)) {
        let table = &self.table;
        self.messages.push(
            step,
            (NFNL_SUBSYS_NFTABLES << 8) | kind,
            flags,
            &generic(self.family.number(), 0),
            |attributes| fill(attributes, table),
        );
    }

    fn add_table(&mut self) {
        self.push("add an nftables table", NFT_MSG_NEWTABLE, CREATE, |a, table| {
            a.text(1, table);
            a.u32_be(2, 0);
        });
    }

    fn delete_table(&mut self) {
        self.push("remove an nftables table", NFT_MSG_DELTABLE, 0, |a, table| a.text(1, table));
    }

    fn change(&mut self, old: &RuleSet, new: &RuleSet) {
        // A set of another kind, or a set that is gone, means another program
        // version wrote the table; the caller replaces the table then.
        for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
            self.add_set(name, &set.kind);
        }
        for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            self.add_chain(name, chain.hooked.as_ref());
        }
        for (name, chain) in &new.chains {
            match old.chains.get(name) {
                Some(before) if before.rules == chain.rules => continue,
                Some(before) if !before.rules.is_empty() => self.flush_chain(name),
                Some(_) | None => {}
            }
            for rule in &chain.rules {
                self.add_rule(name, rule);
            }
        }
        let nothing = BTreeMap::new();
        for (name, set) in &new.sets {
            let before = old.sets.get(name).map_or(&nothing, |set| &set.elements);
            let gone: Vec<_> = before
                .iter()
                .filter(|(key, value)| set.elements.get(*key) != Some(value))
                .map(|(key, _)| (key.as_slice(), None))
                .collect();
            let fresh: Vec<_> = set
                .elements
                .iter()
                .filter(|(key, value)| before.get(*key) != Some(value))
                .map(|(key, value)| (key.as_slice(), value.as_ref()))
                .collect();
            self.delete_elements(name, &gone);
            self.add_elements(name, &fresh);
        }
        let unused: Vec<_> = old.chains.iter().filter(|(name, _)| !new.chains.contains_key(*name)).collect();
        // Rules go first: chains may name each other.
        for (name, _) in unused.iter().filter(|(_, chain)| !chain.rules.is_empty()) {
            self.flush_chain(name);
        }
        for (name, _) in unused {
            self.push("remove an nftables chain", NFT_MSG_DELCHAIN, 0, |a, table| {
                a.text(1, table);
                a.text(3, name);
            });
        }
    }

    fn add_chain(&mut self, name: &str, hooked: Option<&HookedAt>) {
        self.push("add an nftables chain", NFT_MSG_NEWCHAIN, CREATE, |a, table| {
            a.text(1, table);
            a.text(3, name);
            if let Some(at) = hooked {
                a.nest(4, |a| {
                    a.u32_be(
                        1,
                        match at.hook {
                            Hook::Prerouting => 0,
                            Hook::Output => 3,
                            Hook::Postrouting => 4,
                        },
                    );
                    a.bytes(2, &at.priority.to_be_bytes());
                });
                a.text(7, at.kind);
            }
        });
    }

    fn flush_chain(&mut self, name: &str) {
        self.push("flush an nftables chain", NFT_MSG_DELRULE, 0, |a, table| {
            a.text(1, table);
            a.text(2, name);
        });
    }

    fn add_rule(&mut self, chain: &str, rule: &[Expression]) {
        self.size.rules += 1;
        self.push("add an nftables rule", NFT_MSG_NEWRULE, CREATE | APPEND, |a, table| {
            a.text(1, table);
            a.text(2, chain);
            a.nest(4, |a| {
                for expression in rule {
                    expression.encode(a);
                }
            });
        });
    }

    fn add_set(&mut self, name: &str, kind: &SetKind) {
        const MAP: u32 = 8;
        const TIMEOUT: u32 = 0x10;
        const EVALUATED: u32 = 0x20;
        const EXPRESSION: u32 = 0x100;
        let id = self.next_set;
        self.next_set += 1;
        self.push("add an nftables set", NFT_MSG_NEWSET, CREATE, |a, table| {
            a.text(1, table);
            a.text(2, name);
            let flags = [
                (kind.value.is_some(), MAP),
                (kind.timeouts, TIMEOUT),
                (kind.dynamic, EVALUATED),
                (kind.remembers_use, EXPRESSION),
            ];
            a.u32_be(3, flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).sum());
            a.u32_be(4, kind.key);
            a.u32_be(5, kind.key_length);
            if let Some((data, length)) = kind.value {
                a.u32_be(6, data);
                a.u32_be(7, length);
            }
            if kind.size > 0 {
                a.nest(9, |a| a.u32_be(1, kind.size));
            }
            a.u32_be(10, id);
            if kind.remembers_use {
                a.nest(17, last_used);
            }
        });
    }

    /// Adds elements; one that is there already with the same value stays.
    pub(crate) fn add_elements(&mut self, set: &str, elements: &[(&[u8], Option<&Data>)]) {
        self.elements("add elements to an nftables set", NFT_MSG_NEWSETELEM, CREATE, set, elements);
    }

    /// Removes elements; one that is not there fails the batch.
    pub(crate) fn delete_elements(&mut self, set: &str, elements: &[(&[u8], Option<&Data>)]) {
        self.elements("remove elements from an nftables set", NFT_MSG_DELSETELEM, 0, set, elements);
    }

    fn elements(&mut self, step: &'static str, kind: u16, flags: u16, set: &str, elements: &[(&[u8], Option<&Data>)]) {
        self.size.elements += elements.len();
        for part in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(step, kind, flags, |a, table| {
                a.text(NFTA_SET_ELEM_LIST_TABLE, table);
                a.text(NFTA_SET_ELEM_LIST_SET, set);
                a.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| {
                    for (key, value) in part {
                        a.nest(NFTA_LIST_ELEM, |a| {
                            a.nest(NFTA_SET_ELEM_KEY, |a| a.bytes(NFTA_DATA_VALUE, key));
                            if let Some(value) = value {
                                a.nest(NFTA_SET_ELEM_DATA, |a| value.encode(a));
                            }
                        });
                    }
                });
            });
        }
    }
}

/// An element as the kernel holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Its key.
    pub(crate) key: Vec<u8>,
    /// Its value, if it is bytes.
    pub(crate) value: Option<Vec<u8>>,
    /// The chain that its value leads to, if it is such a verdict.
    pub(crate) chain: Option<String>,
    /// Milliseconds since it was last found by a rule, if ever and if the set
    /// remembers.
    pub(crate) used_ms_ago: Option<u64>,
}

/// Lists a set's elements, or looks one up. A set or element that does not
/// exist gives an empty list.
pub(crate) fn elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
    key: Option<&[u8]>,
) -> Result<Vec<Found>, NetlinkError> {
    let mut found = Vec::new();
    let result = socket.list(
        |messages| {
            messages.push(
                "list an nftables set",
                (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETSETELEM,
                0,
                &generic(family.number(), 0),
                |a| {
                    a.text(NFTA_SET_ELEM_LIST_TABLE, table);
                    a.text(NFTA_SET_ELEM_LIST_SET, set);
                    if let Some(key) = key {
                        a.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| {
                            a.nest(NFTA_LIST_ELEM, |a| a.nest(NFTA_SET_ELEM_KEY, |a| a.bytes(NFTA_DATA_VALUE, key)));
                        });
                    }
                },
            );
        },
        key.is_none(),
        |answer| {
            let attributes = answer.payload.get(4..).unwrap_or_default();
            let list = message::attribute(attributes, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
            found.extend(message::attributes(list).filter_map(|(_, element)| parse_element(element)));
        },
    );
    match result {
        Err(error) if error.is_absent() => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(()) => Ok(found),
    }
}

fn parse_element(element: &[u8]) -> Option<Found> {
    let key = message::attribute_at(element, &[NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE])?.to_vec();
    let value = message::attribute_at(element, &[NFTA_SET_ELEM_DATA, NFTA_DATA_VALUE]).map(<[u8]>::to_vec);
    let used_ms_ago = message::attribute_at(element, &[NFTA_SET_ELEM_EXPR, NFTA_EXPR_DATA]).and_then(|last| {
        let ever = message::attribute(last, NFTA_LAST_SET)? != [0; 4];
        ever.then(|| message::attribute(last, NFTA_LAST_MSECS).and_then(message::u64_be))?
    });
    let chain = message::attribute_at(
        element,
        &[NFTA_SET_ELEM_DATA, super::expression::NFTA_DATA_VERDICT, super::expression::NFTA_VERDICT_CHAIN],
    );
    let chain = chain.and_then(message::text).map(str::to_owned);
    Some(Found { key, value, chain, used_ms_ago })
}

/// Names of all tables of a family in the socket's namespace.
#[cfg(test)]
pub(crate) fn tables(socket: &mut Socket, family: Family) -> Result<Vec<String>, NetlinkError> {
    const NFT_MSG_GETTABLE: u16 = 1;
    let mut found = Vec::new();
    socket.list(
        |messages| {
            messages.push(
                "list nftables tables",
                (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETTABLE,
                0,
                &generic(family.number(), 0),
                |_| {},
            );
        },
        true,
        |answer| {
            let name = answer.payload.get(4..).and_then(|a| message::attribute(a, 1)).and_then(message::text);
            found.extend(name.map(str::to_owned));
        },
    )?;
    Ok(found)
}

/// Base chains on the forward hook, in any table, whose policy is to drop, as
/// `family table chain`.
pub(crate) fn forward_drops(socket: &mut Socket) -> Result<Vec<String>, NetlinkError> {
    const NFT_MSG_GETCHAIN: u16 = 4;
    let mut found = Vec::new();
    socket.list(
        |messages| {
            let kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETCHAIN;
            messages.push("list nftables chains", kind, 0, &generic(0, 0), |_| {});
        },
        true,
        |answer| {
            let Some((header, attributes)) = answer.payload.split_at_checked(4) else { return };
            let family = match header[0] {
                1 => "inet",
                2 => "ip",
                10 => "ip6",
                _ => return,
            };
            let hook = message::attribute_at(attributes, &[4, 1]);
            let policy = message::attribute(attributes, 5);
            if hook == Some(&2_u32.to_be_bytes()) && policy == Some(&[0; 4]) {
                let text = |kind| message::attribute(attributes, kind).and_then(message::text).unwrap_or("?");
                found.push(format!("{family} {} {}", text(1), text(3)));
            }
        },
    )?;
    Ok(found)
}
