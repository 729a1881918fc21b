//! Tokens to a tree, macros included. Knows no types.

use super::Issue;
use super::lexer::{Lexeme, Token, lex};
use super::value::Val;

/// Brackets within brackets that are parsed: each takes a dozen calls.
const DEPTH: usize = 96;
/// Height of a tree: checking and evaluating it takes two calls a level.
const HEIGHT: usize = 250;
/// Longest expression, characters (`ExpressionSizeCodePointLimit` of cel-go).
const LONGEST: usize = 100_000;

/// An expression, and where its operator or name stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub at: usize,
    pub kind: Kind,
    height: usize,
}

impl Node {
    fn new(at: usize, kind: Kind) -> Self {
        let mut height = 0;
        kind.each_child(&mut |child| height = height.max(child.height));
        Self { at, kind, height: height + 1 }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kind {
    Constant(Val),
    Variable(String),
    /// `optional` for `.?`
    Select {
        of: Box<Node>,
        field: String,
        optional: bool,
    },
    /// `has(a.b)`
    Has {
        of: Box<Node>,
        field: String,
    },
    Call {
        function: String,
        target: Option<Box<Node>>,
        arguments: Vec<Node>,
    },
    /// `optional` items are left out where they have no value.
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// `T{...}`: Kubernetes declares no type that could be made so.
    Struct(String),
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`
    Bind {
        name: String,
        value: Box<Node>,
        body: Box<Node>,
    },
    /// `a.optMap(name, body)`; `flat` for `optFlatMap`.
    OptionalMap {
        of: Box<Node>,
        name: String,
        body: Box<Node>,
        flat: bool,
    },
}

impl Kind {
    fn each_child(&self, each: &mut dyn FnMut(&Node)) {
        match self {
            Self::Constant(_) | Self::Variable(_) | Self::Struct(_) => {}
            Self::Select { of, .. } | Self::Has { of, .. } => each(of),
            Self::Call { target, arguments, .. } => target.as_deref().into_iter().chain(arguments).for_each(each),
            Self::List(items) => items.iter().for_each(|(item, _)| each(item)),
            Self::Map(entries) => entries.iter().for_each(|(key, value, _)| {
                each(key);
                each(value);
            }),
            Self::Fold(fold) => [&fold.range, &fold.body].into_iter().chain(&fold.filter).for_each(each),
            Self::Bind { value: of, body, .. } | Self::OptionalMap { of, body, .. } => {
                each(of);
                each(body);
            }
        }
    }
}

/// A loop over the items of a list or the keys of a map.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fold {
    pub over: Over,
    pub range: Node,
    /// One name: the item or key. Two: index and item, or key and value.
    pub names: Vec<String>,
    pub filter: Option<Node>,
    pub body: Node,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformMap,
}

/// Parses an expression.
pub(super) fn parse(source: &str) -> Result<Node, Vec<Issue>> {
    let length = source.chars().count();
    if length > LONGEST {
        return Err(vec![Issue::new(
            0,
            format!("expression code point size exceeds limit: size: {length}, limit {LONGEST}"),
        )]);
    }
    let (tokens, issues) = lex(source);
    let mut parser = Parser { tokens, next: 0, depth: 0, issues };
    let node = parser.expression().and_then(|node| parser.low(node)).and_then(|node| match parser.peek() {
        Token::End => Some(node),
        _ => parser.unexpected("extraneous input", "expecting <EOF>"),
    });
    match node {
        Some(node) if parser.issues.is_empty() => Ok(node),
        _ => Err(parser.issues),
    }
}

struct Parser {
    tokens: Vec<Lexeme>,
    next: usize,
    depth: usize,
    issues: Vec<Issue>,
}

const OPERAND: &str = "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Binary operators below `&&`, the loosest first.
const LEVELS: [&[(&str, &str)]; 3] = [
    &[("<", "_<_"), ("<=", "_<=_"), (">", "_>_"), (">=", "_>=_"), ("==", "_==_"), ("!=", "_!=_"), ("in", "@in")],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

fn call(at: usize, function: &str, arguments: Vec<Node>) -> Node {
    Node::new(at, Kind::Call { function: function.to_owned(), target: None, arguments })
}

/// A chain of one operator is one call: its order does not matter.
fn chained(at: usize, function: &str, mut left: Node, right: Node) -> Node {
    if let Kind::Call { function: name, arguments, .. } = &mut left.kind
        && name == function
    {
        left.height = left.height.max(right.height + 1);
        arguments.push(right);
        return left;
    }
    call(at, function, vec![left, right])
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next.min(self.tokens.len() - 1)].token
    }

    fn at(&self) -> usize {
        self.tokens[self.next.min(self.tokens.len() - 1)].at
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(one) if *one == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Option<()> {
        if self.take(sign) { Some(()) } else { self.unexpected("mismatched input", &format!("expecting '{sign}'")) }
    }

    fn unexpected<T>(&mut self, what: &str, expecting: &str) -> Option<T> {
        let lexeme = &self.tokens[self.next.min(self.tokens.len() - 1)];
        self.issues.push(Issue::new(lexeme.at, format!("Syntax error: {what} '{}' {expecting}", lexeme.text)));
        None
    }

    fn wrong<T>(&mut self, at: usize, message: &str) -> Option<T> {
        self.issues.push(Issue::new(at, message));
        None
    }

    /// The node, unless it is so high that walking it could fail.
    fn low(&mut self, node: Node) -> Option<Node> {
        if node.height <= HEIGHT {
            return Some(node);
        }
        self.wrong(node.at, &format!("expression recursion limit exceeded: {HEIGHT}"))
    }

    fn expression(&mut self) -> Option<Node> {
        self.depth += 1;
        if self.depth > DEPTH {
            let at = self.at();
            return self.wrong(at, &format!("expression recursion limit exceeded: {DEPTH}"));
        }
        let condition = self.either()?;
        let at = self.at();
        let node = if self.take("?") {
            let then = self.either()?;
            self.expect(":")?;
            let other = self.expression()?;
            call(at, "_?_:_", vec![condition, then, other])
        } else {
            condition
        };
        self.depth -= 1;
        Some(node)
    }

    fn either(&mut self) -> Option<Node> {
        let mut left = self.both()?;
        loop {
            let at = self.at();
            if !self.take("||") {
                return Some(left);
            }
            let right = self.both()?;
            left = chained(at, "_||_", left, right);
        }
    }

    fn both(&mut self) -> Option<Node> {
        let mut left = self.binary(0)?;
        loop {
            let at = self.at();
            if !self.take("&&") {
                return Some(left);
            }
            let right = self.binary(0)?;
            left = chained(at, "_&&_", left, right);
        }
    }

    fn binary(&mut self, level: usize) -> Option<Node> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let at = self.at();
            let Some((_, function)) = operators.iter().find(|(sign, _)| self.take(sign)) else { return Some(left) };
            let right = self.binary(level + 1)?;
            left = self.low(call(at, function, vec![left, right]))?;
        }
    }

    fn unary(&mut self) -> Option<Node> {
        let at = self.at();
        let sign = if self.take("!") {
            "!"
        } else if self.take("-") {
            "-"
        } else {
            return self.member();
        };
        let mut count = 1;
        while self.take(sign) {
            count += 1;
        }
        if sign == "-"
            && count == 1
            && let Token::Int(_) | Token::Double(_) = self.peek()
        {
            let mut negative = match self.peek() {
                Token::Int(value) => Token::Int(value.wrapping_neg()),
                Token::Double(value) => Token::Double(-value),
                other => other.clone(),
            };
            std::mem::swap(&mut self.tokens[self.next].token, &mut negative);
            self.tokens[self.next].at = at;
            return self.member();
        }
        let operand = self.member()?;
        Some(match (sign, count % 2) {
            (_, 0) => operand,
            ("!", _) => call(at, "!_", vec![operand]),
            _ => call(at, "-_", vec![operand]),
        })
    }

    fn member(&mut self) -> Option<Node> {
        let mut node = self.primary()?;
        loop {
            node = self.low(node)?;
            let at = self.at();
            if self.take(".") {
                let optional = self.take("?");
                let Token::Ident(field) = self.peek().clone() else {
                    let next = &self.tokens[self.next];
                    if let Token::End = next.token {
                        return self.unexpected("no viable alternative at input", "");
                    }
                    let gap = " ".repeat(next.at - at - 1);
                    let message = format!("Syntax error: no viable alternative at input '.{gap}{}'", next.text);
                    self.issues.push(Issue::new(next.at, message));
                    // What follows is read as if the dot were not there.
                    continue;
                };
                self.next += 1;
                let open = self.at();
                node = if !optional && self.take("(") {
                    let arguments = self.arguments(")")?;
                    self.method(open, node, field, arguments)?
                } else {
                    Node::new(at, Kind::Select { of: Box::new(node), field, optional })
                };
            } else if self.take("[") || self.take("[?") {
                let optional = self.tokens[self.next - 1].token == Token::Sign("[?");
                let index = self.expression()?;
                self.expect("]")?;
                node = call(at, if optional { "_[?_]" } else { "_[_]" }, vec![node, index]);
            } else if self.take("{") {
                let Some(name) = dotted(&node) else { return self.wrong(at, "unsupported message type") };
                while !self.take("}") {
                    if matches!(self.peek(), Token::End) {
                        return self.unexpected("mismatched input", "expecting '}'");
                    }
                    self.next += 1;
                }
                node = Node::new(at, Kind::Struct(name));
            } else {
                return Some(node);
            }
        }
    }

    fn arguments(&mut self, end: &'static str) -> Option<Vec<Node>> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(self.expression()?);
            if !self.take(",") {
                self.expect(end)?;
                break;
            }
        }
        Some(all)
    }

    fn primary(&mut self) -> Option<Node> {
        let at = self.at();
        self.take(".");
        let token = self.peek().clone();
        self.next += 1;
        let constant = |value| Some(Node::new(at, Kind::Constant(value)));
        match token {
            Token::Int(value) => constant(Val::Int(value)),
            Token::Uint(value) => constant(Val::Uint(value)),
            Token::Double(value) => constant(Val::Double(value)),
            Token::Text(text) => constant(Val::text(&text)),
            Token::Bytes(bytes) => constant(Val::Bytes(bytes.into())),
            Token::Sign("true") => constant(Val::Bool(true)),
            Token::Sign("false") => constant(Val::Bool(false)),
            Token::Sign("null") => constant(Val::Null),
            Token::Ident(name) => {
                let open = self.at();
                if self.take("(") {
                    let arguments = self.arguments(")")?;
                    return self.function(open, name, arguments);
                }
                Some(Node::new(at, Kind::Variable(name)))
            }
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Some(inner)
            }
            Token::Sign(sign @ ("[" | "[?")) => self.list(at, sign == "[?"),
            Token::Sign(sign @ ("{" | "{?")) => self.map(at, sign == "{?"),
            _ => {
                self.next -= 1;
                let what = if matches!(token, Token::End) { "mismatched input" } else { "extraneous input" };
                self.unexpected(what, OPERAND)
            }
        }
    }

    fn list(&mut self, at: usize, mut optional: bool) -> Option<Node> {
        let mut items = Vec::new();
        while !self.take("]") {
            optional |= self.take("?");
            items.push((self.expression()?, optional));
            optional = false;
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        Some(Node::new(at, Kind::List(items)))
    }

    fn map(&mut self, at: usize, mut optional: bool) -> Option<Node> {
        let mut entries = Vec::new();
        while !self.take("}") {
            optional |= self.take("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?, optional));
            optional = false;
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Some(Node::new(at, Kind::Map(entries)))
    }

    fn function(&mut self, at: usize, name: String, mut arguments: Vec<Node>) -> Option<Node> {
        if name == "has" && arguments.len() == 1 {
            let argument = arguments.remove(0);
            let place = argument.at;
            return match argument.kind {
                Kind::Select { of, field, optional: false } => Some(Node::new(at, Kind::Has { of, field })),
                _ => self.wrong(place, "invalid argument to has() macro"),
            };
        }
        Some(call(at, &name, arguments))
    }

    /// A call of a member: a macro, a function with a dotted name, or neither.
    fn method(&mut self, at: usize, of: Node, name: String, mut arguments: Vec<Node>) -> Option<Node> {
        let count = arguments.len();
        let over = match (name.as_str(), count) {
            ("all", 2 | 3) => Some(Over::All),
            ("exists", 2 | 3) => Some(Over::Exists),
            ("exists_one" | "existsOne", 2 | 3) => Some(Over::ExistsOne),
            ("filter", 2) => Some(Over::Filter),
            ("map", 2 | 3) | ("transformList", 3 | 4) => Some(Over::Map),
            ("transformMap", 3 | 4) => Some(Over::TransformMap),
            _ => None,
        };
        if let Some(over) = over {
            return self.fold(at, over, of, &name, arguments);
        }
        let simple = |node: &Node| match &node.kind {
            Kind::Variable(name) => Some(name.clone()),
            _ => None,
        };
        match (name.as_str(), count) {
            ("optMap" | "optFlatMap", 2) => {
                let Some(variable) = simple(&arguments[0]) else {
                    let place = arguments[0].at;
                    return self.wrong(place, &format!("{name}() variable name must be a simple identifier"));
                };
                let body = Box::new(arguments.remove(1));
                let flat = name == "optFlatMap";
                Some(Node::new(at, Kind::OptionalMap { of: Box::new(of), name: variable, body, flat }))
            }
            ("bind", 3) if simple(&of).as_deref() == Some("cel") => {
                let Some(variable) = simple(&arguments[0]) else {
                    let place = arguments[0].at;
                    return self.wrong(place, "cel.bind() variable names must be simple identifiers");
                };
                let body = Box::new(arguments.remove(2));
                let value = Box::new(arguments.remove(1));
                Some(Node::new(at, Kind::Bind { name: variable, value, body }))
            }
            _ => match dotted(&of).map(|prefix| format!("{prefix}.{name}")) {
                Some(full) if super::functions::is_known(&full) => Some(call(at, &full, arguments)),
                _ => {
                    let kind = Kind::Call { function: name, target: Some(Box::new(of)), arguments };
                    Some(Node::new(at, kind))
                }
            },
        }
    }

    fn fold(&mut self, at: usize, over: Over, range: Node, name: &str, arguments: Vec<Node>) -> Option<Node> {
        // `map` has its filter in the middle; two names make it another macro.
        let two = match name {
            "map" | "filter" => false,
            "transformList" | "transformMap" => true,
            _ => arguments.len() == 3,
        };
        let count = 1 + usize::from(two);
        let mut names = Vec::new();
        for argument in &arguments[..count] {
            match &argument.kind {
                Kind::Variable(name) => names.push(name.clone()),
                _ => return self.wrong(argument.at, "argument must be a simple name"),
            }
        }
        let mut rest: Vec<Node> = arguments.into_iter().skip(count).collect();
        let body = rest.pop()?;
        let filter = rest.pop();
        Some(Node::new(at, Kind::Fold(Box::new(Fold { over, range, names, filter, body }))))
    }
}

/// `a.b.c`, if the node is nothing else.
fn dotted(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Variable(name) => Some(name.clone()),
        Kind::Select { of, field, optional: false } => Some(format!("{}.{field}", dotted(of)?)),
        _ => None,
    }
}
