//! A tree's value. Every step is paid for, so that no expression runs for
//! long. Looks up no types: those were checked, or are looked at as they come.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::functions;
use super::parser::{Fold, Kind, Node, Over};
use super::value::{Key, Val};

/// Cost of making a list, a map (`common.ListCreateBaseCost`, … of cel-go).
const LIST: u64 = 10;
const MAP: u64 = 30;

/// Why there is no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// No function takes these values.
    #[error("no such overload")]
    Overload,
    /// The budget of the expression is spent.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    /// A key that a map or structure does not have.
    #[error("no such key: {0}")]
    Key(String),
    /// What a function says.
    #[error("{0}")]
    Function(String),
}

/// Counts work; the units are upstream's.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: u64,
    spent: u64,
}

impl Meter {
    /// A meter for so much work.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }

    /// What was spent.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Pays, or ends the evaluation.
    pub(super) fn pay(&mut self, cost: u64) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(Fault::Cost) } else { Ok(()) }
    }
}

/// The value of a tree over these variables.
pub(super) fn evaluate(root: &Node, variables: &[(&str, Val)], meter: &mut Meter) -> Result<Val, Fault> {
    let scope = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Evaluator { scope, meter }.node(root)
}

struct Evaluator<'a> {
    scope: Vec<(String, Val)>,
    meter: &'a mut Meter,
}

impl Evaluator<'_> {
    fn node(&mut self, node: &Node) -> Result<Val, Fault> {
        match &node.kind {
            Kind::Constant(value) => Ok(value.clone()),
            Kind::Variable(name) => {
                self.meter.pay(1)?;
                let found = self.scope.iter().rev().find(|one| one.0 == *name).map(|one| one.1.clone());
                let found = found.or_else(|| functions::type_value(name).map(|name| Val::Type(name.into())));
                found.ok_or_else(|| Fault::Function(format!("no such attribute(s): {name}")))
            }
            Kind::Select { of, field, optional } => {
                let of = self.node(of)?;
                self.meter.pay(1)?;
                select(of, field, *optional)
            }
            Kind::Has { of, field } => {
                let of = self.node(of)?;
                self.meter.pay(1)?;
                Ok(Val::Bool(has(&of, field)?))
            }
            Kind::List(items) => {
                self.meter.pay(LIST)?;
                let mut values = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    match (self.node(item)?, optional) {
                        (Val::Optional(value), true) => values.extend(value.map(Arc::unwrap_or_clone)),
                        (_, true) => return Err(Fault::Overload),
                        (value, false) => values.push(value),
                    }
                }
                Ok(Val::list(values))
            }
            Kind::Map(entries) => {
                self.meter.pay(MAP)?;
                let mut map = BTreeMap::new();
                for (key, value, optional) in entries {
                    let key = self.node(key)?;
                    let key = Key::of(&key).ok_or_else(|| Fault::Function("unsupported key type".to_owned()))?;
                    match (self.node(value)?, optional) {
                        (Val::Optional(Some(value)), true) => drop(map.insert(key, Arc::unwrap_or_clone(value))),
                        (Val::Optional(None), true) => {}
                        (_, true) => return Err(Fault::Overload),
                        (value, false) => drop(map.insert(key, value)),
                    }
                }
                Ok(Val::Map(Arc::new(map)))
            }
            Kind::Struct(name) => Err(Fault::Function(format!("unknown type '{name}'"))),
            Kind::Bind { name, value, body } => {
                let value = self.node(value)?;
                self.within(&[(name, value)], body)
            }
            Kind::OptionalMap { of, name, body, flat } => match self.node(of)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(value)) => {
                    let result = self.within(&[(name, Arc::unwrap_or_clone(value))], body)?;
                    Ok(if *flat { result } else { Val::Optional(Some(Arc::new(result))) })
                }
                _ => Err(Fault::Overload),
            },
            Kind::Fold(fold) => self.fold(fold),
            Kind::Call { function, target, arguments } => self.call(function, target.as_deref(), arguments),
        }
    }

    fn within(&mut self, names: &[(&String, Val)], body: &Node) -> Result<Val, Fault> {
        let length = self.scope.len();
        self.scope.extend(names.iter().map(|(name, value)| ((*name).clone(), value.clone())));
        let result = self.node(body);
        self.scope.truncate(length);
        result
    }

    fn call(&mut self, function: &str, target: Option<&Node>, arguments: &[Node]) -> Result<Val, Fault> {
        if let Some(value) = self.lazy(function, arguments)? {
            return Ok(value);
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for node in target.into_iter().chain(arguments) {
            values.push(self.node(node)?);
        }
        self.meter.pay(1)?;
        for value in &values {
            self.meter.pay(value.traversal())?;
        }
        functions::call(function, target.is_some(), &values)
    }

    /// Operators that do not look at all of their arguments.
    fn lazy(&mut self, function: &str, arguments: &[Node]) -> Result<Option<Val>, Fault> {
        let decisive = match function {
            "_&&_" => false,
            "_||_" => true,
            "_?_:_" => {
                self.meter.pay(1)?;
                let Val::Bool(first) = self.node(&arguments[0])? else { return Err(Fault::Overload) };
                return self.node(&arguments[if first { 1 } else { 2 }]).map(Some);
            }
            _ => return Ok(None),
        };
        self.meter.pay(1)?;
        // One side that decides is enough, whatever became of the other.
        let mut fault = None;
        for argument in arguments {
            match self.node(argument) {
                Ok(Val::Bool(found)) if found == decisive => return Ok(Some(Val::Bool(decisive))),
                Ok(Val::Bool(_)) => {}
                Ok(_) => fault = fault.or(Some(Fault::Overload)),
                Err(Fault::Cost) => return Err(Fault::Cost),
                Err(other) => fault = fault.or(Some(other)),
            }
        }
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Some(Val::Bool(!decisive))),
        }
    }

    fn fold(&mut self, fold: &Fold) -> Result<Val, Fault> {
        let range = self.node(&fold.range)?;
        let single = fold.names.len() == 1;
        let pairs: Vec<(Val, Val)> = match &range {
            Val::List(items) if single => items.values.iter().map(|item| (item.clone(), Val::Null)).collect(),
            Val::List(items) => (0_i64..).map(Val::Int).zip(items.values.iter().cloned()).collect(),
            Val::Map(map) => map.iter().map(|(key, value)| (key.value(), value.clone())).collect(),
            Val::Object(map) => map.iter().map(|(key, value)| (Val::text(key), value.clone())).collect(),
            _ => return Err(Fault::Overload),
        };
        let mut found: Vec<Val> = Vec::new();
        let mut map = BTreeMap::new();
        let (mut count, mut fault) = (0, None);
        for (first, second) in pairs {
            self.meter.pay(2)?;
            let names: Vec<(&String, Val)> = fold.names.iter().zip([first.clone(), second]).collect();
            if let Some(filter) = &fold.filter {
                match self.within(&names, filter)? {
                    Val::Bool(true) => {}
                    Val::Bool(false) => continue,
                    _ => return Err(Fault::Overload),
                }
            }
            let value = self.within(&names, &fold.body);
            match (fold.over, value) {
                (_, Err(Fault::Cost)) => return Err(Fault::Cost),
                (Over::All, Ok(Val::Bool(false))) => return Ok(Val::Bool(false)),
                (Over::Exists, Ok(Val::Bool(true))) => return Ok(Val::Bool(true)),
                (Over::All | Over::Exists, Ok(Val::Bool(_))) => {}
                (Over::All | Over::Exists, Err(other)) => fault = fault.or(Some(other)),
                (_, Err(other)) => return Err(other),
                (Over::ExistsOne, Ok(Val::Bool(yes))) => count += u32::from(yes),
                (Over::Filter, Ok(Val::Bool(yes))) => found.extend(yes.then_some(first)),
                (Over::Map, Ok(value)) => found.push(value),
                (Over::TransformMap, Ok(value)) => {
                    map.insert(Key::of(&first).ok_or(Fault::Overload)?, value);
                }
                _ => return Err(Fault::Overload),
            }
        }
        match (fold.over, fault) {
            (_, Some(fault)) => Err(fault),
            (Over::All, None) => Ok(Val::Bool(true)),
            (Over::Exists, None) => Ok(Val::Bool(false)),
            (Over::ExistsOne, None) => Ok(Val::Bool(count == 1)),
            (Over::Map | Over::Filter, None) => Ok(Val::list(found)),
            (Over::TransformMap, None) => Ok(Val::Map(Arc::new(map))),
        }
    }
}

fn member(of: &Val, field: &str) -> Result<Option<Val>, Fault> {
    match of {
        Val::Object(fields) => Ok(fields.get(field).cloned()),
        Val::Map(map) => Ok(map.get(&Key::Text(field.into())).cloned()),
        _ => Err(Fault::Overload),
    }
}

fn select(of: Val, field: &str, optional: bool) -> Result<Val, Fault> {
    let wrapped = |found: Option<Val>| Ok(Val::Optional(found.map(Arc::new)));
    match of {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => wrapped(member(&inner, field)?),
        of if optional => wrapped(member(&of, field)?),
        of => member(&of, field)?.ok_or_else(|| Fault::Key(field.to_owned())),
    }
}

fn has(of: &Val, field: &str) -> Result<bool, Fault> {
    match of {
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(inner)) => has(inner, field),
        of => Ok(member(of, field)?.is_some()),
    }
}
