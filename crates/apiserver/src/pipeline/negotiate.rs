//! Which form of an answer the client asked for (`Accept`), as upstream reads
//! it. Produces no bytes.

use api::status::Status;
use http::HeaderMap;

/// Encoding of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// The value of `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// What objects are turned into before they are encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `meta.k8s.io` PartialObjectMetadata(List) of this version.
    Partial(&'static str),
}

/// Form and encoding of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Accept {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
    pub(crate) pretty: bool,
    /// Protobuf watch frames were asked for by `stream=watch`.
    pub(crate) stream: bool,
}

impl Accept {
    /// JSON, as it is: what errors fall back to.
    pub(crate) const JSON: Accept =
        Accept { encoding: Encoding::Json, form: Form::Object, pretty: false, stream: false };
}

/// Media types that are named in refusals, in upstream's order.
pub(crate) const SUPPORTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads `Accept`. `transforms`: whether Table and PartialObjectMetadata can be
/// asked for; `protobuf`: whether the kind can be encoded so.
pub(crate) fn accept(headers: &HeaderMap, transforms: bool, protobuf: bool, pretty: bool) -> Result<Accept, Status> {
    let mut ranges: Vec<(&str, f32)> = Vec::new();
    for header in headers.get_all(http::header::ACCEPT) {
        for range in header.to_str().unwrap_or_default().split(',') {
            let range = range.trim();
            if !range.is_empty() {
                ranges.push((range, quality(range)));
            }
        }
    }
    if ranges.is_empty() {
        return Ok(Accept { pretty, ..Accept::JSON });
    }
    ranges.sort_by(|left, right| right.1.total_cmp(&left.1));
    for (range, _) in &ranges {
        if let Some(mut accept) = read(range, transforms, protobuf) {
            accept.pretty = pretty && accept.encoding == Encoding::Json;
            return Ok(accept);
        }
    }
    Err(Status::not_acceptable(if protobuf { SUPPORTED } else { "application/json, application/yaml" }))
}

fn quality(range: &str) -> f32 {
    range
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.trim().strip_prefix("q="))
        .find_map(|value| value.parse().ok())
        .unwrap_or(1.0)
}

fn read(range: &str, transforms: bool, protobuf: bool) -> Option<Accept> {
    let mut parts = range.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" if protobuf => Encoding::Protobuf,
        _ => return None,
    };
    let (mut as_kind, mut group, mut version, mut stream) = ("", "", "", false);
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => as_kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            Some(("stream", value)) => stream = value == "watch",
            _ => {}
        }
    }
    let form = if as_kind.is_empty() {
        Form::Object
    } else {
        let version = match (group, version) {
            ("meta.k8s.io", "v1") => "v1",
            ("meta.k8s.io", "v1beta1") => "v1beta1",
            _ => return None,
        };
        match as_kind {
            "Table" if transforms && encoding != Encoding::Protobuf => Form::Table(version),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if transforms => Form::Partial(version),
            _ => return None,
        }
    };
    Some(Accept { encoding, form, pretty: false, stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Option<(Encoding, Form)>) {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ACCEPT, header.parse().expect("a header value"));
        let got = accept(&headers, true, true, false).ok().map(|accept| (accept.encoding, accept.form));
        assert_eq!(got, expected, "{header}");
    }

    #[test]
    fn the_first_acceptable_media_type_wins() {
        check("application/json", Some((Encoding::Json, Form::Object)));
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Encoding::Json, Form::Table("v1"))),
        );
        check("application/vnd.kubernetes.protobuf, application/json", Some((Encoding::Protobuf, Form::Object)));
        check("text/html, application/yaml;q=0.5", Some((Encoding::Yaml, Form::Object)));
        check("application/json;as=Table;v=v9;g=meta.k8s.io, */*", Some((Encoding::Json, Form::Object)));
        check("text/html", None);
    }
}
