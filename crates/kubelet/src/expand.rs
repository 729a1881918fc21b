//! `$(NAME)` references in values, commands and paths. An unknown name stays
//! as it is written, `$$` is one dollar sign. No other shell syntax exists.

use std::collections::BTreeMap;

/// Replaces each reference by what `lookup` gives; `None` leaves it.
pub(crate) fn expand(input: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let mut next = after.chars();
        match next.next() {
            None => {
                output.push('$');
                return output;
            }
            Some('$') => {
                output.push('$');
                rest = &after[1..];
            }
            Some('(') => match after.find(')') {
                Some(end) => {
                    let name = &after[1..end];
                    match lookup(name) {
                        Some(value) => output.push_str(&value),
                        None => {
                            output.push_str("$(");
                            output.push_str(name);
                            output.push(')');
                        }
                    }
                    rest = &after[end + 1..];
                }
                None => {
                    output.push_str("$(");
                    rest = &after[1..];
                }
            },
            Some(other) => {
                output.push('$');
                output.push(other);
                rest = &after[other.len_utf8()..];
            }
        }
    }
    output.push_str(rest);
    output
}

/// [`expand`] with the values of an environment.
pub(crate) fn with_env(input: &str, env: &BTreeMap<String, String>) -> String {
    expand(input, |name| env.get(name).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_everything_else_stays() {
        let env = BTreeMap::from([("A".to_owned(), "one".to_owned()), ("E".to_owned(), String::new())]);
        for (input, expected) in [
            ("$(A)", "one"),
            ("x$(A)y$(A)", "xoneyone"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$", "$"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$HOME $$ $", "$HOME $ $"),
            ("$(E)", ""),
            ("$ü", "$ü"),
            ("", ""),
        ] {
            assert_eq!(with_env(input, &env), expected, "{input}");
        }
    }
}
