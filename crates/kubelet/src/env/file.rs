//! Variables from a file in a volume (`fileKeyRef`). Only `NAME='value'` is
//! understood: quotes are required, nothing inside them is special.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::types::api::core::v1 as core;

/// Why a file gives no value.
#[derive(thiserror::Error, Debug)]
pub(crate) enum FileError {
    /// Volume not mounted.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    Volume(String),
    /// Missing, unreadable, or not in the format.
    #[error("couldn't parse env file")]
    Parse,
    /// No such key.
    #[error("environment variable key {key:?} not found in file {file:?}")]
    Key {
        /// The key.
        key: String,
        /// The file on the machine.
        file: PathBuf,
    },
}

/// The value; `None` if it is optional and absent or empty.
pub(super) fn value(
    key: &core::FileKeySelector,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<Option<String>, FileError> {
    let volume = volumes.get(&key.volume_name).ok_or_else(|| FileError::Volume(key.volume_name.clone()))?;
    let file = inside(volume, &key.path).ok_or(FileError::Parse)?;
    let text = std::fs::read_to_string(&file).map_err(|_| FileError::Parse)?;
    let found = parse(&text, &key.key).ok_or(FileError::Parse)?;
    if found.is_empty() {
        if key.optional == Some(true) {
            return Ok(None);
        }
        return Err(FileError::Key { key: key.key.clone(), file });
    }
    Ok(Some(found))
}

/// The path below `root` with links resolved, if it stays below.
fn inside(root: &Path, path: &str) -> Option<PathBuf> {
    let joined = root.join(path.trim_start_matches('/'));
    let real = joined.canonicalize().ok()?;
    if real.starts_with(root.canonicalize().ok()?) { Some(joined) } else { None }
}

/// The value of `key`, empty if absent; `None` if the text is malformed before
/// the key is met.
fn parse(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=')?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return None;
        }
        if value.starts_with([' ', '\t']) {
            // As a shell has it: the variable is empty.
            if name == key {
                return Some(String::new());
            }
            continue;
        }
        let mut rest = value.strip_prefix('\'')?;
        let mut content = String::new();
        loop {
            if let Some(end) = rest.find('\'') {
                content.push_str(&rest[..end]);
                let after = rest[end + 1..].trim_start_matches([' ', '\t']);
                if !after.is_empty() && !after.starts_with('#') {
                    return None;
                }
                break;
            }
            content.push_str(rest);
            content.push('\n');
            rest = lines.next()?;
        }
        if name == key {
            return Some(content);
        }
    }
    Some(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_are_found_and_anything_else_spoils_the_file() {
        let text = "# note\nA='one'\n B='two words' # why\nC='x\ny'\nD= 'e'\n";
        for (key, value) in [("A", "one"), ("B", "two words"), ("C", "x\ny"), ("D", ""), ("NONE", "")] {
            assert_eq!(parse(text, key).as_deref(), Some(value), "{key}");
        }
        for bad in ["C=\"bad", "A=plain", "A ='x'", "='x'", "A='x' y", "A='x", "word"] {
            assert_eq!(parse(bad, "Z"), None, "{bad}");
        }
    }
}
