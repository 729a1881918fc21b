//! The Common Expression Language as Kubernetes uses it: parsed, checked
//! against declared types, evaluated within a cost budget, with upstream's
//! extension libraries and error texts (cel-go and `apiserver/pkg/cel`, 1.36).
//! Knows nothing of definitions or policies: those bring variables and types.

mod check;
mod declared;
mod eval;
mod functions;
mod lexer;
mod library;
mod net;
mod parser;
mod types;
mod value;

pub(crate) use declared::{declare, value_of};
pub(crate) use eval::{Fault, Meter};
pub(crate) use library::{duration, regex};
pub(crate) use types::Type;
pub(crate) use value::Val;

/// An expression that was checked and can be evaluated.
#[derive(Debug)]
pub(crate) struct Program {
    root: parser::Node,
    result: Type,
    variables: Vec<String>,
}

impl Program {
    /// Parses and checks an expression over these variables. The error is the
    /// whole text that a user sees, one finding after the other.
    pub(crate) fn compile(source: &str, variables: &[(&str, Type)]) -> Result<Self, String> {
        let show = |issues: Vec<Issue>| display(source, issues);
        let root = parser::parse(source).map_err(show)?;
        let checked = check::check(&root, variables).map_err(show)?;
        Ok(Self { root, result: checked.result, variables: checked.used })
    }

    /// The type of its value.
    pub(crate) fn result(&self) -> &Type {
        &self.result
    }

    /// True if it names this variable.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|one| one == variable)
    }

    /// Its value; the meter says how much work that may be.
    pub(crate) fn evaluate(&self, variables: &[(&str, Val)], meter: &mut Meter) -> Result<Val, Fault> {
        eval::evaluate(&self.root, variables, meter)
    }
}

/// What is wrong, and where: characters from the start.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Issue {
    at: usize,
    message: String,
}

impl Issue {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// Longest line that is shown with a finding, characters.
const SNIPPET: usize = 16_384;

fn display(source: &str, mut issues: Vec<Issue>) -> String {
    issues.sort_by_key(|issue| issue.at);
    issues.dedup();
    let one = |issue: &Issue| {
        let (mut line, mut start) = (1, 0);
        for (index, c) in source.chars().enumerate().take(issue.at) {
            if c == '\n' {
                (line, start) = (line + 1, index + 1);
            }
        }
        let column = issue.at - start;
        let mut out = format!("ERROR: <input>:{line}:{}: {}", column + 1, issue.message);
        let snippet: Vec<char> = source.chars().skip(start).take_while(|c| *c != '\n').collect();
        if snippet.len() <= SNIPPET {
            let wide = |at: usize| snippet.get(at).is_some_and(|c| c.len_utf8() > 1);
            let text: String = snippet.iter().map(|c| if *c == '\t' { ' ' } else { *c }).collect();
            let dots: String =
                (0..column.min(snippet.len())).map(|at| if wide(at) { '\u{ff0e}' } else { '.' }).collect();
            let mark = if wide(column) { '\u{ff3e}' } else { '^' };
            out.push_str(&format!("\n | {text}\n | {dots}{mark}"));
        }
        out
    };
    issues.iter().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
