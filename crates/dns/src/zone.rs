//! Answers from the cluster's own names, as "Kubernetes DNS-Based Service
//! Discovery" 1.1.0 lays them out. Pure: a question and the directory in,
//! records out.

use crate::directory::{Directory, Entry, NamedPort, dashed};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Seconds for which answers may be kept; the specification's example and
/// upstream's add-on.
pub(crate) const TTL: u32 = 5;
const SCHEMA_VERSION: &str = "1.1.0";
/// SRV weights of one name add up to about this.
const WEIGHT: usize = 100;

/// What the zone has to say.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// NOERROR or NXDOMAIN.
    pub(crate) code: ResponseCode,
    /// Answers; empty with NOERROR if the name exists without such records.
    pub(crate) answers: Vec<Record>,
    /// Addresses of names in the answers.
    pub(crate) additionals: Vec<Record>,
    /// The zone's SOA, with a negative answer.
    pub(crate) authorities: Vec<Record>,
    /// A name outside the zone that the answer leads to and that the server
    /// resolves further.
    pub(crate) continue_at: Option<Name>,
}

/// The cluster's domain.
pub(crate) struct Zone {
    domain: Name,
    labels: Vec<String>,
}

impl Zone {
    /// `cluster.local`; `None` if it is not a domain name.
    pub(crate) fn new(domain: &str) -> Option<Self> {
        let mut name = Name::from_ascii(domain.trim_end_matches('.')).ok()?.to_lowercase();
        name.set_fqdn(true);
        let labels = labels(&name);
        (!labels.is_empty()).then_some(Self { domain: name, labels })
    }

    /// The answer, or `None` if the question is not the zone's.
    pub(crate) fn answer(&self, directory: &Directory, name: &Name, kind: RecordType) -> Option<Answer> {
        let all = labels(name);
        if let Some(rest) = all.strip_suffix(self.labels.as_slice()) {
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            let found = self.find(directory, name, kind, &rest);
            return Some(self.complete(directory, found));
        }
        let address = reverse_address(&all)?;
        let mut records = Vec::new();
        for (namespace, service, label) in directory.names_of(address) {
            let target = self.service_name(namespace, service, label.as_slice())?;
            records.push(record(name, RData::PTR(PTR(target))));
        }
        if records.is_empty() {
            return None;
        }
        // The name exists; other types have no records.
        records.retain(|_| wants(kind, RecordType::PTR));
        Some(self.complete(directory, Found::Records(records)))
    }

    fn complete(&self, directory: &Directory, found: Found) -> Answer {
        let mut answer = match found {
            Found::Nothing => Answer { code: ResponseCode::NXDomain, ..Answer::default() },
            Found::Records(answers) => Answer { answers, ..Answer::default() },
            Found::Services(answers, additionals) => Answer { answers, additionals, ..Answer::default() },
            Found::Alias(alias, target) => {
                Answer { answers: vec![alias], continue_at: Some(target), ..Answer::default() }
            }
        };
        if answer.answers.is_empty() {
            answer.authorities.push(self.start_of_authority(directory));
        }
        answer
    }

    /// `rest` is the name's labels before the domain.
    fn find(&self, directory: &Directory, name: &Name, kind: RecordType, rest: &[&str]) -> Found {
        match rest {
            [] => self.apex(directory, name, kind),
            ["dns-version"] => Found::Records(
                wants(kind, RecordType::TXT)
                    .then(|| record(name, RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))))
                    .into_iter()
                    .collect(),
            ),
            ["dns", ..] | ["ns", "dns"] => Found::Records(Vec::new()),
            ["svc" | "pod"] => Found::Records(Vec::new()),
            [namespace, "svc" | "pod"] if directory.has_namespace(namespace) => Found::Records(Vec::new()),
            [address, namespace, "pod"] if directory.has_namespace(namespace) => pod(name, kind, address),
            [parts @ .., service, namespace, "svc"] => match directory.service(namespace, service) {
                Some(entry) => self.service(entry, name, kind, parts, (namespace, service)),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }

    fn apex(&self, directory: &Directory, name: &Name, kind: RecordType) -> Found {
        let mut records = Vec::new();
        if wants(kind, RecordType::SOA) {
            records.push(self.start_of_authority(directory));
        }
        if wants(kind, RecordType::NS)
            && let Some(server) = self.below(["ns", "dns"])
        {
            records.push(record(name, RData::NS(NS(server))));
        }
        Found::Records(records)
    }

    fn service(
        &self,
        entry: &Entry,
        name: &Name,
        kind: RecordType,
        parts: &[&str],
        (namespace, service): (&str, &str),
    ) -> Found {
        match (entry, parts) {
            (Entry::External(target), []) => match Name::from_ascii(target) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    Found::Alias(record(name, RData::CNAME(CNAME(target.clone()))), target)
                }
                Err(_) => Found::Records(Vec::new()),
            },
            (Entry::External(_), _) => Found::Nothing,
            (Entry::Addresses(own, ports), parts) => {
                let Some(asked) = Asked::parse(parts) else { return Found::Nothing };
                let matching: Vec<_> = ports.iter().filter(|port| asked.matches(port)).collect();
                match asked {
                    Asked::All if kind != RecordType::SRV => Found::Records(address_records(name, kind, own)),
                    _ if matching.is_empty() => asked.without_records(ports),
                    _ => {
                        let Some(target) = self.service_name(namespace, service, &[]) else { return Found::Nothing };
                        let ports = matching.iter().map(|port| (target.clone(), port.port));
                        let additionals = address_records(&target, RecordType::ANY, own);
                        services(name, kind, ports.collect(), additionals)
                    }
                }
            }
            (Entry::Headless(endpoints), [label]) if !label.starts_with('_') => {
                let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.label == *label) else {
                    return Found::Nothing;
                };
                let own: Vec<_> = endpoint.addresses.iter().copied().collect();
                if kind != RecordType::SRV {
                    return Found::Records(address_records(name, kind, &own));
                }
                let ports = endpoint.ports.iter().map(|port| (name.clone(), port.port)).collect();
                services(name, kind, ports, address_records(name, RecordType::ANY, &own))
            }
            (Entry::Headless(endpoints), parts) => {
                let Some(asked) = Asked::parse(parts) else { return Found::Nothing };
                if endpoints.is_empty() {
                    return Found::Nothing;
                }
                if matches!(asked, Asked::All) && kind != RecordType::SRV {
                    let all = endpoints.iter().flat_map(|endpoint| &endpoint.addresses).copied();
                    return Found::Records(address_records(name, kind, &all.collect::<Vec<_>>()));
                }
                let (mut ports, mut additionals) = (Vec::new(), Vec::new());
                for endpoint in endpoints {
                    let label = [endpoint.label.as_str()];
                    let Some(target) = self.service_name(namespace, service, &label) else { continue };
                    let matching: Vec<_> = endpoint.ports.iter().filter(|port| asked.matches(port)).collect();
                    if !matching.is_empty() {
                        let own: Vec<_> = endpoint.addresses.iter().copied().collect();
                        additionals.extend(address_records(&target, RecordType::ANY, &own));
                    }
                    ports.extend(matching.iter().map(|port| (target.clone(), port.port)));
                }
                if ports.is_empty() {
                    return asked.without_records(endpoints.iter().flat_map(|endpoint| &endpoint.ports));
                }
                services(name, kind, ports, additionals)
            }
        }
    }

    fn below<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
        let labels: Vec<&[u8]> = labels.into_iter().map(str::as_bytes).collect();
        let mut name = Name::from_labels(labels.into_iter().chain(self.domain.iter())).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    fn service_name(&self, namespace: &str, service: &str, label: &[&str]) -> Option<Name> {
        self.below(label.iter().copied().chain([service, namespace, "svc"]))
    }

    fn start_of_authority(&self, directory: &Directory) -> Record {
        let server = self.below(["ns", "dns"]).unwrap_or_else(|| self.domain.clone());
        let mailbox = self.below(["hostmaster"]).unwrap_or_else(|| self.domain.clone());
        // Refresh, retry and expire speak to secondaries, of which there are
        // none; the last number bounds how long a negative answer is kept.
        let data = SOA::new(server, mailbox, directory.version(), 7200, 1800, 86400, TTL);
        record(&self.domain, RData::SOA(data))
    }
}

enum Found {
    /// No such name.
    Nothing,
    /// The name exists; these are the records of the type.
    Records(Vec<Record>),
    /// SRV records and the addresses of their targets.
    Services(Vec<Record>, Vec<Record>),
    /// Another name, and the record that says so.
    Alias(Record, Name),
}

/// Which ports of a Service a name asks for.
enum Asked<'a> {
    All,
    /// `_tcp`: exists only because ports do.
    Protocol(&'a str),
    /// `_name._tcp`.
    Port(&'a str, &'a str),
}

impl<'a> Asked<'a> {
    fn parse(parts: &[&'a str]) -> Option<Self> {
        match parts {
            [] => Some(Self::All),
            [protocol] => Some(Self::Protocol(protocol.strip_prefix('_')?)),
            [name, protocol] => Some(Self::Port(name.strip_prefix('_')?, protocol.strip_prefix('_')?)),
            _ => None,
        }
    }

    fn matches(&self, port: &NamedPort) -> bool {
        match self {
            // Ports without name have no SRV record of their own; the Service's
            // name gives all.
            Self::All => true,
            Self::Protocol(_) => false,
            Self::Port(name, protocol) => port.name == *name && port.protocol == *protocol,
        }
    }

    /// The answer when no port matches: a name above existing ones exists.
    fn without_records<'p>(&self, ports: impl IntoIterator<Item = &'p NamedPort>) -> Found {
        let exists = match self {
            Self::All => true,
            Self::Protocol(protocol) => ports.into_iter().any(|port| port.protocol == *protocol),
            Self::Port(..) => false,
        };
        if exists { Found::Records(Vec::new()) } else { Found::Nothing }
    }
}

fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

fn wants(asked: RecordType, kind: RecordType) -> bool {
    asked == kind || asked == RecordType::ANY
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_records(name: &Name, kind: RecordType, addresses: &[IpAddr]) -> Vec<Record> {
    addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => wants(kind, RecordType::A).then(|| record(name, RData::A(A(*address)))),
            IpAddr::V6(address) => wants(kind, RecordType::AAAA).then(|| record(name, RData::AAAA(AAAA(*address)))),
        })
        .collect()
}

fn services(name: &Name, kind: RecordType, ports: Vec<(Name, u16)>, additionals: Vec<Record>) -> Found {
    if !wants(kind, RecordType::SRV) {
        return Found::Records(Vec::new());
    }
    let weight = u16::try_from(WEIGHT / ports.len().max(1)).unwrap_or(0).max(1);
    let records = ports.into_iter().map(|(target, port)| record(name, RData::SRV(SRV::new(0, weight, port, target))));
    Found::Services(records.collect(), additionals)
}

/// `1-2-3-4`, taken at its word: the name says the address.
fn pod(name: &Name, kind: RecordType, label: &str) -> Found {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let v6 = label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    match v4.or(v6) {
        Ok(address) if dashed(address) == label => Found::Records(address_records(name, kind, &[address])),
        _ => Found::Nothing,
    }
}

/// The address of a complete name in `in-addr.arpa` or `ip6.arpa`.
fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [d, c, b, a, inaddr, arpa] if inaddr == "in-addr" && arpa == "arpa" => {
            format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [nibbles @ .., ip6, arpa] if ip6 == "ip6" && arpa == "arpa" && nibbles.len() == 32 => {
            let digits: String = nibbles.iter().rev().map(String::as_str).collect();
            (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok().map(|bits| IpAddr::V6(bits.into())))?
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
