//! URLs, IP addresses and ranges of them (Kubernetes' `url`, `ip`, `cidr`).

use std::net::IpAddr;
use std::sync::Arc;

use super::eval::Fault;
use super::functions::{Row, fault};
use super::library::text;
use super::value::{Key, Val};
use crate::field::Quoted;

/// A URL in its parts, as it was written.
#[derive(Debug)]
pub(crate) struct Url {
    pub(crate) text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// Reads an absolute URL or an absolute path. The error is a message.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("parse {}: {why}", Quoted(text)));
        if text.is_empty() {
            return wrong("empty url");
        }
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return wrong("net/url: invalid control character in URL");
        }
        let scheme_end = text.find(':').filter(|end| {
            let scheme = &text[..*end];
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        let (scheme, rest) = match scheme_end {
            Some(end) => (text[..end].to_ascii_lowercase(), &text[end + 1..]),
            None if text.starts_with(':') => return wrong("missing protocol scheme"),
            None => (String::new(), text),
        };
        if !rest.starts_with('/') && scheme.is_empty() {
            return wrong("invalid URI for request");
        }
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.contains([' ', '<', '>', '"']) {
            let bad = host.chars().find(|c| " <>\"".contains(*c)).unwrap_or(' ');
            return wrong(&format!("invalid character {} in host name", Quoted(&bad.to_string())));
        }
        if let Some((_, port)) = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'))
            && !port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return wrong(&format!("invalid port {} after host", Quoted(&format!(":{port}"))));
        }
        let (host, path, query) = (host.to_owned(), path.to_owned(), query.to_owned());
        Ok(Self { text: text.to_owned(), scheme, host, path, query })
    }

    fn port(&self) -> &str {
        self.host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or("", |(_, port)| port)
    }

    fn hostname(&self) -> &str {
        let host = self
            .host
            .strip_suffix(self.port())
            .map_or(self.host.as_str(), |host| if self.port().is_empty() { host } else { host.trim_end_matches(':') });
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    fn query(&self) -> Val {
        let mut map: std::collections::BTreeMap<Key, Vec<Val>> = std::collections::BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            map.entry(Key::Text(decoded(name).into())).or_default().push(Val::text(&decoded(value)));
        }
        Val::Map(Arc::new(map.into_iter().map(|(key, values)| (key, Val::list(values))).collect()))
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let code = std::str::from_utf8(&digits).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
                out.push(code.unwrap_or(b'%'));
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn url(value: &Val) -> Result<&Url, Fault> {
    match value {
        Val::Url(url) => Ok(url),
        _ => Err(Fault::Overload),
    }
}

/// An address; neither with a zone nor IPv4 within IPv6.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {} is not allowed", Quoted(text)))
        }
        Ok(address) => Ok(address),
        Err(_) if text.contains('%') => Err(format!("IP address {} with zone value is not allowed", Quoted(text))),
        Err(_) => Err(format!(
            "IP Address {} parse error during conversion from string: ParseAddr({}): unable to parse IP",
            Quoted(text),
            Quoted(text)
        )),
    }
}

fn ip(value: &Val) -> Result<IpAddr, Fault> {
    match value {
        Val::Ip(address) => Ok(*address),
        _ => Err(Fault::Overload),
    }
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let (value, width) = bits(address);
    let low = u32::from(width - length.min(width));
    let value = if low >= 128 { 0 } else { value >> low << low };
    match address {
        IpAddr::V4(_) => IpAddr::V4((value as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(value.into()),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        format!(
            "network address parse error during conversion from string: netip.ParsePrefix({}): invalid prefix",
            Quoted(text)
        )
    };
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address = parse_ip(address)?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u8 =
        length.parse().ok().filter(|_| digits && (length == "0" || !length.starts_with('0'))).ok_or_else(wrong)?;
    if length > bits(address).1 { Err(wrong()) } else { Ok((address, length)) }
}

fn cidr(value: &Val) -> Result<(IpAddr, u8), Fault> {
    match value {
        Val::Cidr(address, length) => Ok((*address, *length)),
        _ => Err(Fault::Overload),
    }
}

fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && masked(network, length) == masked(address, length)
}

fn or_fault<T>(found: Result<T, String>) -> Result<T, Fault> {
    found.or_else(fault)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || is_link_local(address)
        || broadcast)
}

pub(super) static FUNCTIONS: &[Row] = &[
    ("url(string): url", |v| match Url::parse(text(&v[0])?) {
        Ok(url) => Ok(Val::Url(Arc::new(url))),
        Err(error) => fault(format!("URL parse error during conversion from string: {error}")),
    }),
    ("isURL(string): bool", |v| Ok(Val::Bool(Url::parse(text(&v[0])?).is_ok()))),
    ("url@getScheme(): string", |v| Ok(Val::text(&url(&v[0])?.scheme))),
    ("url@getHost(): string", |v| Ok(Val::text(&url(&v[0])?.host))),
    ("url@getHostname(): string", |v| Ok(Val::text(url(&v[0])?.hostname()))),
    ("url@getPort(): string", |v| Ok(Val::text(url(&v[0])?.port()))),
    ("url@getEscapedPath(): string", |v| Ok(Val::text(&url(&v[0])?.path))),
    ("url@getQuery(): map(string,list(string))", |v| Ok(url(&v[0])?.query())),
    ("ip(string): ip", |v| or_fault(parse_ip(text(&v[0])?)).map(Val::Ip)),
    ("isIP(string): bool", |v| Ok(Val::Bool(parse_ip(text(&v[0])?).is_ok()))),
    ("ip.isCanonical(string): bool", |v| {
        let given = text(&v[0])?;
        Ok(Val::Bool(or_fault(parse_ip(given))?.to_string() == **given))
    }),
    ("ip@family(): int", |v| Ok(Val::Int(if ip(&v[0])?.is_ipv4() { 4 } else { 6 }))),
    ("ip@isUnspecified(): bool", |v| Ok(Val::Bool(ip(&v[0])?.is_unspecified()))),
    ("ip@isLoopback(): bool", |v| Ok(Val::Bool(ip(&v[0])?.is_loopback()))),
    ("ip@isLinkLocalMulticast(): bool", |v| Ok(Val::Bool(is_link_local_multicast(ip(&v[0])?)))),
    ("ip@isLinkLocalUnicast(): bool", |v| Ok(Val::Bool(is_link_local(ip(&v[0])?)))),
    ("ip@isGlobalUnicast(): bool", |v| Ok(Val::Bool(is_global_unicast(ip(&v[0])?)))),
    ("cidr(string): cidr", |v| or_fault(parse_cidr(text(&v[0])?)).map(|(address, length)| Val::Cidr(address, length))),
    ("isCIDR(string): bool", |v| Ok(Val::Bool(parse_cidr(text(&v[0])?).is_ok()))),
    ("cidr@containsIP(string): bool", |v| Ok(Val::Bool(contains(cidr(&v[0])?, or_fault(parse_ip(text(&v[1])?))?)))),
    ("cidr@containsIP(ip): bool", |v| Ok(Val::Bool(contains(cidr(&v[0])?, ip(&v[1])?)))),
    ("cidr@containsCIDR(string): bool", |v| {
        let (outer, inner) = (cidr(&v[0])?, or_fault(parse_cidr(text(&v[1])?))?);
        Ok(Val::Bool(outer.1 <= inner.1 && contains(outer, inner.0)))
    }),
    ("cidr@containsCIDR(cidr): bool", |v| {
        let (outer, inner) = (cidr(&v[0])?, cidr(&v[1])?);
        Ok(Val::Bool(outer.1 <= inner.1 && contains(outer, inner.0)))
    }),
    ("cidr@ip(): ip", |v| Ok(Val::Ip(cidr(&v[0])?.0))),
    ("cidr@prefixLength(): int", |v| Ok(Val::Int(i64::from(cidr(&v[0])?.1)))),
    ("cidr@masked(): cidr", |v| {
        let (address, length) = cidr(&v[0])?;
        Ok(Val::Cidr(masked(address, length), length))
    }),
];
