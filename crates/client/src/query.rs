//! Query strings: percent-encoding of names and values, nothing about what
//! the parameters mean.

use std::fmt::Write;

/// Appends `value` with everything but unreserved characters percent-encoded.
pub(crate) fn encode(into: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => into.push(byte as char),
            _ => write!(into, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
}

/// A path with a query that grows.
pub(crate) struct Url {
    text: String,
    has_query: bool,
}

impl Url {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self { text: path.into(), has_query: false }
    }

    /// Appends a path segment, encoded.
    pub(crate) fn segment(mut self, segment: &str) -> Self {
        self.text.push('/');
        encode(&mut self.text, segment);
        self
    }

    /// Appends a parameter unless the value is absent.
    pub(crate) fn param(mut self, name: &str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.text.push(if self.has_query { '&' } else { '?' });
            self.has_query = true;
            self.text.push_str(name);
            self.text.push('=');
            encode(&mut self.text, value);
        }
        self
    }

    /// Appends `name=true` if set.
    pub(crate) fn flag(self, name: &str, set: bool) -> Self {
        self.param(name, set.then_some("true"))
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_encoded() {
        let url =
            Url::new("/api/v1").segment("a b").param("labelSelector", Some("app=x,tier in (a)")).param("limit", None);
        assert_eq!(url.finish(), "/api/v1/a%20b?labelSelector=app%3Dx%2Ctier%20in%20%28a%29");
    }
}
