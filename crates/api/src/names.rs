//! Rules for names, label keys and label values, in upstream's words
//! (`apimachinery/pkg/util/validation`). Every function returns what is wrong
//! with the text; nothing means valid. Not validation of objects.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Longest label of a domain name, in bytes.
pub const LABEL_LENGTH: usize = 63;
/// Longest domain name, in bytes.
pub const SUBDOMAIN_LENGTH: usize = 253;

/// `must be no more than 63 characters`.
pub fn too_long(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be between 1 and 65535, inclusive`.
pub fn not_between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A message with its examples and the expression behind it.
pub fn no_match(message: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{expression}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

fn is_label(text: &str) -> bool {
    let middle = |byte: u8| byte == b'-' || is_lower(byte);
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if is_lower(*first) && is_lower(*last))
        && bytes.iter().all(|byte| middle(*byte))
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A label of a domain name (RFC 1123), 63 bytes at most.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_LENGTH {
        wrong.push(too_long(LABEL_LENGTH));
    }
    if !is_label(text) {
        if is_subdomain(text) {
            wrong.push("must not contain dots".to_owned());
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                 must start and end with an alphanumeric character";
            wrong.push(no_match(message, LABEL, &["my-name", "123-abc"]));
        }
    }
    wrong
}

/// A domain name (RFC 1123), 253 bytes at most.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        wrong.push(too_long(SUBDOMAIN_LENGTH));
    }
    if !is_subdomain(text) {
        wrong.push(no_match(SUBDOMAIN_MESSAGE, SUBDOMAIN, &["example.com"]));
    }
    wrong
}

/// A domain name whose first label is `*`.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        wrong.push(too_long(SUBDOMAIN_LENGTH));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
             must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        wrong.push(no_match(message, &format!("\\*\\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    wrong
}

/// A label that starts with a letter (RFC 1035), 63 bytes at most: names of services.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_LENGTH {
        wrong.push(too_long(LABEL_LENGTH));
    }
    if !(is_label(text) && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
             alphabetic character, and end with an alphanumeric character";
        wrong.push(no_match(message, LABEL_1035, &["my-name", "abc-123"]));
    }
    wrong
}

/// A label key: `name` or `example.com/name`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            }
            let found = if prefix.is_empty() { Vec::new() } else { dns1123_subdomain(prefix) };
            wrong.extend(found.into_iter().map(|message| format!("prefix part {message}")));
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                no_match(QUALIFIED_MESSAGE, QUALIFIED, &examples)
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LENGTH {
        wrong.push(format!("name part {}", too_long(LABEL_LENGTH)));
    }
    if !is_qualified(name) {
        wrong.push(format!("name part {}", no_match(QUALIFIED_MESSAGE, QUALIFIED, &examples)));
    }
    wrong
}

/// A label key; the same rule under the name that label code uses.
pub fn label_key(text: &str) -> Vec<String> {
    qualified_name(text)
}

/// A label value, 63 bytes at most, may be empty.
pub fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_LENGTH {
        wrong.push(too_long(LABEL_LENGTH));
    }
    if !text.is_empty() && !is_qualified(text) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character";
        wrong.push(no_match(message, &format!("({QUALIFIED})?"), &["MyValue", "my_value", "12345"]));
    }
    wrong
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_LENGTH {
        wrong.push(too_long(SUBDOMAIN_LENGTH));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        wrong.push(no_match(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    wrong.extend(leaves_directory(text));
    wrong
}

/// A name of an environment variable, as strict as it was before 1.34.
pub fn env_var_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    if !text.bytes().next().is_some_and(|byte| valid(&byte) && !byte.is_ascii_digit())
        || !text.as_bytes().iter().all(valid)
    {
        let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or \
             '.', and must not start with a digit";
        wrong.push(no_match(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", &["my.env-name", "MY_ENV.NAME", "MyEnvName1"]));
    }
    wrong.extend(leaves_directory(text));
    wrong
}

/// A name of an environment variable: printable ASCII but `=`.
pub fn relaxed_env_var_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.is_empty() {
        wrong.push("environment variable name must be non-empty".to_owned());
    }
    if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') {
        let message =
            "a valid environment variable name must consist only of printable ASCII characters other than '='";
        wrong.push(message.to_owned());
    }
    wrong
}

/// A C identifier.
pub fn c_identifier(text: &str) -> Vec<String> {
    let letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    if text.as_bytes().first().is_some_and(letter) && text.bytes().all(|byte| letter(&byte) || byte.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
         characters or '_'";
    vec![no_match(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A name of a port (IANA_SVC_NAME), 15 bytes at most.
pub fn port_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 15 {
        wrong.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|byte| byte == b'-' || is_lower(byte)) {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![not_between(1, 65535)] }
}

/// A percentage: `50%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![no_match(message, "[0-9]+%", &["1%", "93%"])]
}

/// A name of an HTTP header.
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![no_match(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A name that is one part of a path, as RBAC's are (`path.IsValidPathSegmentName`).
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|part| text.contains(**part)).map(|part| format!("may not contain '{part}'")).collect()
}

/// The text to check when a random suffix will follow it (`maskTrailingDash`).
pub fn mask_trailing_dash(text: &str) -> std::borrow::Cow<'_, str> {
    match text.strip_suffix('-') {
        Some(rest) if rest.is_char_boundary(rest.len().saturating_sub(1)) && !rest.is_empty() => {
            format!("{}a", &rest[..rest.len() - 1]).into()
        }
        _ => text.into(),
    }
}

fn leaves_directory(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_in_upstreams_words() {
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert_eq!(
            dns1123_label("A"),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert!(!dns1035_label("1a").is_empty() && dns1035_label("a1").is_empty());
        assert!(dns1123_subdomain("a..b").len() == 1 && dns1123_subdomain(&"a".repeat(254)).len() == 1);
    }

    #[test]
    fn label_keys_may_have_a_domain() {
        assert!(qualified_name("example.com/Name_1").is_empty());
        assert_eq!(qualified_name("/name"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(qualified_name("a/")[0].starts_with("name part must be non-empty"));
        assert!(label_value("").is_empty() && label_value("a_b.c").is_empty() && !label_value("-a").is_empty());
    }

    #[test]
    fn a_generated_name_may_end_in_a_dash() {
        assert_eq!(mask_trailing_dash("ab-"), "aa");
        assert_eq!(mask_trailing_dash("-"), "-");
        assert_eq!(mask_trailing_dash("ab"), "ab");
    }
}
