//! The grammar of image names (distribution's `reference`): only to refuse
//! what is none, in the words that clients know, and to add the default tag.

/// Why a text is no image name.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub(super) enum NameError {
    /// Does not match the grammar.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Case(String),
}

/// Longest repository name, bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag, bytes.
const MAX_TAG_BYTES: usize = 128;
/// Fewest digits of a digest.
const MIN_DIGEST_DIGITS: usize = 32;

/// The name with `:latest` where it has neither tag nor digest.
pub(super) fn with_default_tag(image: &str) -> Result<String, NameError> {
    let (domain, rest) = split_domain(image);
    let repository = rest.split(':').next().unwrap_or(rest);
    if repository.chars().any(char::is_uppercase) {
        return Err(NameError::Case(repository.into()));
    }
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let ok = domain.is_none_or(is_domain)
        && path.len() <= MAX_NAME_BYTES
        && path.split('/').all(is_path_part)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    if !ok {
        return Err(NameError::Format);
    }
    if tag.is_none() && digest.is_none() { Ok(format!("{image}:latest")) } else { Ok(image.into()) }
}

/// The registry host of an image.
pub(super) fn registry(image: &str) -> &str {
    split_domain(image).0.unwrap_or("docker.io")
}

fn split_domain(image: &str) -> (Option<&str>, &str) {
    match image.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (Some(first), rest)
        }
        _ => (None, image),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
        Some((v6, port)) => {
            let ok = v6.chars().all(|c| c.is_ascii_hexdigit() || c == ':');
            return ok && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number));
        }
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    let part = |p: &str| {
        !p.is_empty()
            && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !p.starts_with('-')
            && !p.ends_with('-')
    };
    host.split('.').all(part) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// Lower-case words joined by `.`, `_`, `__` or dashes.
fn is_path_part(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut separator = String::new();
    let mut last_word = false;
    for c in part.chars() {
        if word(c) {
            let fine = separator.is_empty()
                || matches!(separator.as_str(), "." | "_" | "__")
                || separator.chars().all(|c| c == '-');
            if !fine || (!separator.is_empty() && !last_word) {
                return false;
            }
            separator.clear();
            last_word = true;
        } else if matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    last_word && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= MAX_TAG_BYTES
        && tag.chars().next().is_some_and(word)
        && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, digits)| {
        algorithm.chars().next().is_some_and(|c| c.is_ascii_alphabetic())
            && algorithm.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '.'))
            && digits.len() >= MIN_DIGEST_DIGITS
            && digits.chars().all(|c| c.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_accepted_refused_and_completed() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for (image, expected) in [
            ("busybox", Ok("busybox:latest")),
            ("busybox:1", Ok("busybox:1")),
            ("127.0.0.1:1/missing/image:1", Ok("127.0.0.1:1/missing/image:1")),
            ("localhost/a__b/c-d.e", Ok("localhost/a__b/c-d.e:latest")),
            (digest.as_str(), Ok(digest.as_str())),
            ("podtrace.test/busybox@sha256:abc", Err("invalid reference format")),
            ("Not/A/Valid_NAME::x", Err("invalid reference format: repository name (A/Valid_NAME) must be lowercase")),
            ("Busybox", Err("invalid reference format: repository name (Busybox) must be lowercase")),
            ("a..b", Err("invalid reference format")),
            ("a:", Err("invalid reference format")),
            ("", Err("invalid reference format")),
            ("-a", Err("invalid reference format")),
        ] {
            let result = with_default_tag(image).map_err(|e| e.to_string());
            assert_eq!(result, expected.map(str::to_owned).map_err(str::to_owned), "{image}");
        }
    }
}
