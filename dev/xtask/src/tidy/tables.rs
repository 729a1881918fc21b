//! The tables of `dev/xtask/tidy.txt`. Parsing only; the rules are beside it.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{Failure, read, root};

/// What is allowed, by crate.
pub(super) struct Tables {
    crates: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
    public_uses: BTreeSet<String>,
    long_files: BTreeSet<String>,
    unsafe_paths: Vec<String>,
}

impl Tables {
    /// Reads the file; a line that is not understood is a failure.
    pub(super) fn load() -> Result<Self, Failure> {
        let path = root().join("dev/xtask/tidy.txt");
        let mut tables = Self {
            crates: BTreeSet::new(),
            edges: BTreeMap::new(),
            dependencies: BTreeMap::new(),
            public_uses: BTreeSet::new(),
            long_files: BTreeSet::new(),
            unsafe_paths: Vec::new(),
        };
        for (number, line) in read(&path)?.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if tables.line(line).is_none() {
                return Err(Failure::Missing {
                    what: format!("dev/xtask/tidy.txt:{}: not understood: {line}", number + 1),
                });
            }
        }
        Ok(tables)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "edges" => {
                let (from, to) = rest.split_once("->")?;
                self.crates.insert(from.trim().to_owned());
                self.edges.insert(from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect());
            }
            "uses" => {
                let (from, to) = rest.split_once("->")?;
                self.dependencies
                    .entry(from.trim().to_owned())
                    .or_default()
                    .extend(to.split_whitespace().map(str::to_owned));
            }
            "pub-use" => {
                self.public_uses.insert(rest.split_whitespace().next()?.to_owned());
            }
            "long" => {
                self.long_files.insert(rest.split_once(' ')?.0.to_owned());
            }
            "unsafe" => self.unsafe_paths.push(rest.to_owned()),
            _ => return None,
        }
        Some(())
    }

    pub(super) fn is_crate(&self, name: &str) -> bool {
        self.crates.contains(name)
    }

    pub(super) fn edge(&self, from: &str, to: &str) -> bool {
        self.edges.get(from).is_some_and(|edges| edges.contains(to))
    }

    pub(super) fn dependency(&self, from: &str, to: &str) -> bool {
        self.dependencies.get(from).is_some_and(|names| names.contains(to))
    }

    pub(super) fn public_use(&self, file: &str) -> bool {
        self.public_uses.contains(file)
    }

    pub(super) fn long_file(&self, file: &str) -> bool {
        self.long_files.contains(file)
    }

    pub(super) fn unsafe_allowed(&self, file: &str) -> bool {
        self.unsafe_paths.iter().any(|path| file.starts_with(path))
    }
}
