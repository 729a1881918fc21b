//! Kubernetes' named formats: `format.dns1123Label().validate(text)`.

use std::sync::Arc;

use base64::Engine as _;

use super::super::eval::Fault;
use super::super::functions::Row;
use super::super::net;
use super::super::value::Val;
use super::text;

pub(super) static FUNCTIONS: &[Row] = &[
    ("format.dns1123Label(): format", |_| Ok(Val::Format("dns1123Label"))),
    ("format.dns1123Subdomain(): format", |_| Ok(Val::Format("dns1123Subdomain"))),
    ("format.dns1035Label(): format", |_| Ok(Val::Format("dns1035Label"))),
    ("format.qualifiedName(): format", |_| Ok(Val::Format("qualifiedName"))),
    ("format.dns1123LabelPrefix(): format", |_| Ok(Val::Format("dns1123LabelPrefix"))),
    ("format.dns1123SubdomainPrefix(): format", |_| Ok(Val::Format("dns1123SubdomainPrefix"))),
    ("format.dns1035LabelPrefix(): format", |_| Ok(Val::Format("dns1035LabelPrefix"))),
    ("format.labelValue(): format", |_| Ok(Val::Format("labelValue"))),
    ("format.uri(): format", |_| Ok(Val::Format("uri"))),
    ("format.uuid(): format", |_| Ok(Val::Format("uuid"))),
    ("format.byte(): format", |_| Ok(Val::Format("byte"))),
    ("format.date(): format", |_| Ok(Val::Format("date"))),
    ("format.datetime(): format", |_| Ok(Val::Format("datetime"))),
    ("format.named(string): optional(format)", |v| {
        let wanted = text(&v[0])?;
        let found = NAMES.iter().find(|name| ***name == **wanted);
        Ok(Val::Optional(found.map(|name| Arc::new(Val::Format(name)))))
    }),
    ("format@validate(string): optional(list(string))", |v| {
        let Val::Format(name) = &v[0] else { return Err(Fault::Overload) };
        let wrong = findings(name, text(&v[1])?);
        let list = || Arc::new(Val::list(wrong.iter().map(|one| Val::text(one)).collect()));
        Ok(Val::Optional((!wrong.is_empty()).then(list)))
    }),
];

const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// What is wrong with a text of a format.
fn findings(name: &str, given: &str) -> Vec<String> {
    // A prefix may end in a dash, because something follows.
    let filled = || match given.strip_suffix('-') {
        Some(rest) => format!("{rest}a"),
        None => given.to_owned(),
    };
    let unless = |right: bool, message: &str| if right { Vec::new() } else { vec![message.to_owned()] };
    match name {
        "dns1123Label" => api::names::dns1123_label(given),
        "dns1123Subdomain" => api::names::dns1123_subdomain(given),
        "dns1035Label" => api::names::dns1035_label(given),
        "dns1123LabelPrefix" => api::names::dns1123_label(&filled()),
        "dns1123SubdomainPrefix" => api::names::dns1123_subdomain(&filled()),
        "dns1035LabelPrefix" => api::names::dns1035_label(&filled()),
        "qualifiedName" => api::names::qualified_name(given),
        "labelValue" => api::names::label_value(given),
        "uri" => match net::Url::parse(given) {
            Ok(_) => Vec::new(),
            Err(message) => vec![message],
        },
        "uuid" => unless(is_uuid(given), "does not match the UUID format"),
        "byte" => unless(base64::engine::general_purpose::STANDARD.decode(given).is_ok(), "invalid base64"),
        "date" => unless(given.len() == 10 && given.parse::<jiff::civil::Date>().is_ok(), "invalid date"),
        _ => unless(given.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    }
}

fn is_uuid(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.len() - digits.len();
    digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit()) && matches!(dashes, 0 | 4)
}
