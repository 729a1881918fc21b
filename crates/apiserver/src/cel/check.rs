//! Types of a tree: every name is declared, every call has an overload.
//! Evaluates nothing.

use std::collections::BTreeMap;

use super::Issue;
use super::functions::{self, Overload};
use super::parser::{Fold, Kind, Node, Over};
use super::types::{Type, assign};
use super::value::Val;

/// What checking found out.
pub(super) struct Checked {
    pub(super) result: Type,
    /// Variables of the environment that the expression names.
    pub(super) used: Vec<String>,
}

/// Checks a tree over these variables.
pub(super) fn check(root: &Node, variables: &[(&str, Type)]) -> Result<Checked, Vec<Issue>> {
    let scope = variables.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect();
    let mut checker = Checker {
        outer: variables.len(),
        scope,
        known: BTreeMap::new(),
        next: 3,
        issues: Vec::new(),
        used: Vec::new(),
        mixed: 0,
    };
    let result = checker.node(root).resolved(&checker.known, true);
    if checker.issues.is_empty() { Ok(Checked { result, used: checker.used }) } else { Err(checker.issues) }
}

struct Checker {
    /// How many names of the scope are the environment's.
    outer: usize,
    /// The innermost last.
    scope: Vec<(String, Type)>,
    known: BTreeMap<usize, Type>,
    next: usize,
    issues: Vec<Issue>,
    used: Vec<String>,
    /// Calls around that take lists of mixed items.
    mixed: usize,
}

impl Checker {
    fn wrong(&mut self, at: usize, message: String) -> Type {
        self.issues.push(Issue::new(at, message));
        Type::Error
    }

    fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Any(self.next - 1)
    }

    fn shown(&self, kind: &Type) -> Type {
        kind.resolved(&self.known, true)
    }

    fn expect(&mut self, node: &Node, wanted: &Type) -> Type {
        let found = self.node(node);
        self.fits(node.at, wanted, &found);
        found
    }

    fn fits(&mut self, at: usize, wanted: &Type, found: &Type) {
        if !assign(&mut self.known, wanted, found) {
            let (wanted, found) = (self.shown(wanted), self.shown(found));
            self.wrong(at, format!("expected type '{wanted}' but found '{found}'"));
        }
    }

    fn node(&mut self, node: &Node) -> Type {
        match &node.kind {
            Kind::Constant(value) => constant(value),
            Kind::Variable(name) => self.variable(node.at, name),
            Kind::Select { of, field, optional } => {
                let of = self.node(of);
                self.field(node.at, &of, field, *optional)
            }
            Kind::Has { of, field } => {
                let of = self.node(of);
                self.field(node.at, &of, field, false);
                Type::Bool
            }
            Kind::Struct(name) => self.wrong(node.at, format!("undeclared reference to '{name}' (in container '')")),
            Kind::List(items) => {
                let mut item: Option<Type> = None;
                for (one, optional) in items {
                    let found = self.node(one);
                    let found = if *optional { self.unwrapped(one.at, &found) } else { found };
                    match &item {
                        None => item = Some(if self.mixed > 0 { Type::Dyn } else { found }),
                        Some(item) => self.fits(one.at, &item.clone(), &found),
                    }
                }
                let item = item.unwrap_or_else(|| self.fresh());
                Type::list(item)
            }
            Kind::Map(entries) => self.map(entries),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind { name, value, body } => {
                let value = self.node(value);
                self.within(&[(name.clone(), value)], |checker| checker.node(body))
            }
            Kind::OptionalMap { of, name, body, flat } => {
                let optional = self.node(of);
                let value = self.unwrapped(of.at, &optional);
                let result = self.within(&[(name.clone(), value)], |checker| checker.node(body));
                if *flat {
                    let inner = self.fresh();
                    self.fits(body.at, &Type::optional(inner), &result);
                    result
                } else {
                    Type::optional(result)
                }
            }
            Kind::Call { function, target, arguments } => self.call(node.at, function, target.as_deref(), arguments),
        }
    }

    fn variable(&mut self, at: usize, name: &str) -> Type {
        let found = self.scope.iter().enumerate().rev().find(|(_, one)| one.0 == name);
        if let Some((index, (_, kind))) = found {
            if index < self.outer && !self.used.iter().any(|used| used == name) {
                self.used.push(name.to_owned());
            }
            return kind.clone();
        }
        if functions::type_value(name).is_some() {
            return Type::Meta;
        }
        self.wrong(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    /// The value of an optional, or the value itself.
    fn unwrapped(&mut self, at: usize, kind: &Type) -> Type {
        match self.shown_open(kind) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                let inner = self.fresh();
                self.fits(at, &Type::optional(inner.clone()), &other);
                inner
            }
        }
    }

    fn shown_open(&self, kind: &Type) -> Type {
        kind.resolved(&self.known, false)
    }

    fn field(&mut self, at: usize, of: &Type, field: &str, optional: bool) -> Type {
        let (inner, optional) = match self.shown_open(of) {
            Type::Optional(inner) => ((*inner).clone(), true),
            other => (other, optional),
        };
        let found = match &inner {
            Type::Object(object) => match object.fields.get(field) {
                Some(kind) => kind.clone(),
                None => return self.wrong(at, format!("undefined field '{field}'")),
            },
            Type::Map(_, value) => (**value).clone(),
            Type::Dyn | Type::Any(_) => Type::Dyn,
            Type::Error => return Type::Error,
            other => return self.wrong(at, format!("type '{other}' does not support field selection")),
        };
        if optional { Type::optional(found) } else { found }
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Type {
        let mut kinds: Option<(Type, Type)> = None;
        for (key, value, optional) in entries {
            let (k, v) = (self.node(key), self.node(value));
            let v = if *optional { self.unwrapped(value.at, &v) } else { v };
            match &kinds {
                None => kinds = Some((k, v)),
                Some((wanted, of)) => {
                    let (wanted, of) = (wanted.clone(), of.clone());
                    self.fits(key.at, &wanted, &k);
                    self.fits(value.at, &of, &v);
                }
            }
        }
        let (key, value) = kinds.unwrap_or_else(|| (self.fresh(), self.fresh()));
        Type::map(key, value)
    }

    fn within<T>(&mut self, names: &[(String, Type)], inner: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.scope.len();
        self.scope.extend_from_slice(names);
        let result = inner(self);
        self.scope.truncate(length);
        result
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.node(&fold.range);
        let (first, second) = match self.shown_open(&range) {
            Type::List(item) if fold.names.len() == 1 => ((*item).clone(), Type::Dyn),
            Type::List(item) => (Type::Int, (*item).clone()),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn | Type::Error | Type::Any(_) => (Type::Dyn, Type::Dyn),
            other => {
                let message = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.wrong(fold.range.at, format!("expression of type '{other}' {message}"));
                (Type::Error, Type::Error)
            }
        };
        let kinds = [first.clone(), second];
        let names: Vec<(String, Type)> = fold.names.iter().cloned().zip(kinds).collect();
        self.within(&names, |checker| {
            if let Some(filter) = &fold.filter {
                checker.expect(filter, &Type::Bool);
            }
            match fold.over {
                Over::All | Over::Exists | Over::ExistsOne => {
                    checker.expect(&fold.body, &Type::Bool);
                    Type::Bool
                }
                Over::Filter => {
                    checker.expect(&fold.body, &Type::Bool);
                    Type::list(first)
                }
                Over::Map => {
                    let item = checker.node(&fold.body);
                    Type::list(item)
                }
                Over::TransformMap => {
                    let key = if let Type::List(_) = checker.shown_open(&range) { Type::Int } else { first };
                    let value = checker.node(&fold.body);
                    Type::map(key, value)
                }
            }
        })
    }

    fn call(&mut self, at: usize, function: &str, target: Option<&Node>, arguments: &[Node]) -> Type {
        if matches!(function, "_&&_" | "_||_") {
            for argument in arguments {
                self.expect(argument, &Type::Bool);
            }
            return Type::Bool;
        }
        let mut kinds: Vec<Type> = target.iter().map(|target| self.node(target)).collect();
        let mixes = usize::from(function == "format");
        self.mixed += mixes;
        kinds.extend(arguments.iter().map(|argument| self.node(argument)));
        self.mixed -= mixes;
        if !functions::is_known(function) {
            return self.wrong(at, format!("undeclared reference to '{function}' (in container '')"));
        }
        let candidates = functions::overloads(function, target.is_some(), kinds.len());
        let mut results: Vec<Type> = Vec::new();
        let mut learnt: Option<BTreeMap<usize, Type>> = None;
        for overload in candidates {
            if let Some((result, known)) = self.attempt(overload, &kinds) {
                // Bindings are kept of the first that fits, as upstream does.
                learnt.get_or_insert(known);
                if !results.contains(&result) {
                    results.push(result);
                }
            }
        }
        if function == "matches"
            && let Some(Node { at, kind: Kind::Constant(Val::Text(pattern)), .. }) = arguments.last()
            && super::library::regex(pattern).is_err()
        {
            return self.wrong(*at, "invalid matches argument".to_owned());
        }
        match (results.len(), learnt) {
            (1, Some(known)) => {
                self.known = known;
                results.remove(0)
            }
            (0, _) | (_, None) => {
                let shown: Vec<String> = kinds.iter().map(|kind| self.shown(kind).to_string()).collect();
                let signature = match (target.is_some(), shown.split_first()) {
                    (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                    _ => format!("({})", shown.join(", ")),
                };
                self.wrong(at, format!("found no matching overload for '{function}' applied to '{signature}'"))
            }
            _ => Type::Dyn,
        }
    }

    /// The result of an overload for these arguments, and what variables then are.
    fn attempt(&mut self, overload: &Overload, kinds: &[Type]) -> Option<(Type, BTreeMap<usize, Type>)> {
        let by = self.next;
        self.next += 3;
        let mut known = self.known.clone();
        let fits = overload.parameters.iter().zip(kinds).all(|(wanted, found)| {
            let wanted = wanted.fresh(by);
            assign(&mut known, &wanted, found)
        });
        fits.then(|| (overload.result.fresh(by).resolved(&known, false), known))
    }
}

fn constant(value: &Val) -> Type {
    match value {
        Val::Bool(_) => Type::Bool,
        Val::Int(_) => Type::Int,
        Val::Uint(_) => Type::Uint,
        Val::Double(_) => Type::Double,
        Val::Text(_) => Type::String,
        Val::Bytes(_) => Type::Bytes,
        _ => Type::Null,
    }
}
