//! `tidy`: the rules of the tree that no compiler checks. Each finding names
//! the file, the rule and what to do. Rules of taste are not here.

mod tables;

use std::path::Path;

use crate::check::{Failure, read, root, tracked};

/// Longest file without its tests before it must be split or listed.
const MAX_LINES: usize = 800;

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helpers", "misc", "manager", "base"];

/// What a note of open work must start with.
const NOTE_KINDS: &[&str] = &["correctness", "security", "performance", "coverage", "cleanup"];

/// Checks every rule and prints every finding.
pub(crate) fn run() -> Result<(), Failure> {
    let tables = tables::Tables::load()?;
    let mut findings = Vec::new();
    for path in tracked("*Cargo.toml")? {
        manifest(&path, &read(&path)?, &tables, &mut findings);
    }
    for path in tracked("*.rs")? {
        let name = relative(&path);
        if name.contains("/generated/") {
            continue;
        }
        source(&name, &read(&path)?, &tables, &mut findings);
    }
    decisions(&mut findings)?;
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if findings.is_empty() {
        Ok(())
    } else {
        Err(Failure::Findings { count: findings.len(), what: "findings of tidy" })
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Edges between crates and external dependencies are those of the tables.
fn manifest(path: &Path, text: &str, tables: &tables::Tables, findings: &mut Vec<String>) {
    let file = relative(path);
    let Some(package) = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()) else { return };
    // A workspace of its own is a client under test; it is not built with us.
    if file == "Cargo.toml" || text.lines().any(|line| line == "[workspace]") {
        return;
    }
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim();
            continue;
        }
        let Some((name, rest)) = line.split_once(['.', ' ', '=']) else { continue };
        let (name, rest) = (name.trim(), rest.trim());
        if name.is_empty() || name.starts_with('#') || !section.ends_with("dependencies]") {
            continue;
        }
        if !rest.contains("workspace = true") {
            findings.push(format!(
                "{file}: {name} is declared here; declare it in the root Cargo.toml and use `{name}.workspace = true`"
            ));
        }
        if section == "[dev-dependencies]" {
            continue;
        }
        if tables.is_crate(name) {
            if !tables.edge(package, name) {
                findings.push(format!("{file}: edge {package} -> {name} is not listed in dev/xtask/tidy.txt"));
            }
        } else if !tables.dependency(package, name) {
            findings.push(format!("{file}: dependency {package} -> {name} is not listed in dev/xtask/tidy.txt"));
        }
    }
}

fn source(file: &str, text: &str, tables: &tables::Tables, findings: &mut Vec<String>) {
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if stem == "mod" {
        findings.push(format!("{file}: no mod.rs; use foo.rs beside the folder foo/"));
    }
    if EMPTY_NAMES.contains(&stem) {
        findings.push(format!("{file}: the name says nothing; put its parts with their owners"));
    }
    if !text.starts_with("//!") {
        findings.push(format!("{file}: must open with //! saying what it is for"));
    }
    let test_file = is_test_file(file);
    let body = text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at]);
    let lines = body.lines().count();
    if !test_file && lines > MAX_LINES && !tables.long_file(file) {
        findings.push(format!("{file}: {lines} lines; split it by concept or list it with a reason"));
    }
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if line.contains(concat!("allow(", "unsafe_code)")) && !tables.unsafe_allowed(file) {
            findings.push(format!("{file}:{number}: unsafe is not allowed in this crate"));
        }
        if line.trim_start().starts_with("pub use ") && !tables.public_use(file) {
            findings.push(format!("{file}:{number}: this file is not listed for `pub use` in dev/xtask/tidy.txt"));
        }
        if line.contains("#[ignore") && !file.starts_with("dev/xtask/") {
            findings.push(format!("{file}:{number}: no ignored tests"));
        }
        if let Some(at) = line.find(concat!("TO", "DO")) {
            open_work(file, number, &line[at..], findings);
        }
    }
}

fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/") || file.starts_with("dev/")
}

/// A note of open work names its kind and the condition that removes it; the
/// condition may follow on the next line, so only the kind is checked here.
fn open_work(file: &str, number: usize, note: &str, findings: &mut Vec<String>) {
    let rest = &note[4..];
    let good = rest
        .strip_prefix('-')
        .and_then(|rest| rest.split_once(':'))
        .is_some_and(|(kind, text)| NOTE_KINDS.contains(&kind) && !text.trim().is_empty());
    if !good {
        findings.push(format!(
            "{file}:{number}: write the note as KIND: what, until CONDITION, with KIND one of {NOTE_KINDS:?}"
        ));
    }
}

/// Decision records are numbered without doubles.
fn decisions(findings: &mut Vec<String>) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeMap::new();
    for path in tracked("docs/decisions/*.md")? {
        let file = relative(&path);
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.get(..4))
            .unwrap_or_default()
            .to_owned();
        if number.parse::<u16>().is_err() {
            findings.push(format!("{file}: decision records are named NNNN-words.md"));
        } else if let Some(other) = seen.insert(number, file.clone()) {
            findings.push(format!("{file}: has the number of {other}"));
        }
    }
    Ok(())
}
