//! Texts: the standard functions, cel-go's `ext.Strings` and Kubernetes'
//! `regex`. Places are counted in characters.

use std::sync::Arc;

use base64::Engine as _;

use super::super::eval::Fault;
use super::super::functions::{Row, fault};
use super::super::value::Val;
use super::{int, items, regex, text, written};

/// Longest text that a function makes, bytes: a request's largest body.
const LONGEST: usize = 3 << 20;

pub(super) static FUNCTIONS: &[Row] = &[
    ("string@contains(string): bool", |v| Ok(Val::Bool(text(&v[0])?.contains(&**text(&v[1])?)))),
    ("string@startsWith(string): bool", |v| Ok(Val::Bool(text(&v[0])?.starts_with(&**text(&v[1])?)))),
    ("string@endsWith(string): bool", |v| Ok(Val::Bool(text(&v[0])?.ends_with(&**text(&v[1])?)))),
    ("string@matches(string): bool", matches),
    ("matches(string, string): bool", matches),
    ("string@find(string): string", find),
    ("string@findAll(string): list(string)", find_all),
    ("string@findAll(string, int): list(string)", find_all),
    ("string@charAt(int): string", char_at),
    ("string@indexOf(string): int", index_of),
    ("string@indexOf(string, int): int", index_of),
    ("string@lastIndexOf(string): int", last_index_of),
    ("string@lastIndexOf(string, int): int", last_index_of),
    ("string@lowerAscii(): string", |v| Ok(Val::text(&text(&v[0])?.to_ascii_lowercase()))),
    ("string@upperAscii(): string", |v| Ok(Val::text(&text(&v[0])?.to_ascii_uppercase()))),
    ("string@replace(string, string): string", replace),
    ("string@replace(string, string, int): string", replace),
    ("string@split(string): list(string)", split),
    ("string@split(string, int): list(string)", split),
    ("string@substring(int): string", substring),
    ("string@substring(int, int): string", substring),
    ("string@trim(): string", |v| Ok(Val::text(text(&v[0])?.trim()))),
    ("string@reverse(): string", |v| Ok(Val::text(&text(&v[0])?.chars().rev().collect::<String>()))),
    ("list(string)@join(): string", join),
    ("list(string)@join(string): string", join),
    ("strings.quote(string): string", |v| Ok(Val::text(&crate::field::Quoted(text(&v[0])?).to_string()))),
    ("string@format(list(dyn)): string", format),
    ("base64.encode(bytes): string", |v| match &v[0] {
        Val::Bytes(bytes) => Ok(Val::text(&base64::engine::general_purpose::STANDARD.encode(bytes))),
        _ => Err(Fault::Overload),
    }),
    ("base64.decode(string): bytes", |v| {
        let given = text(&v[0])?;
        let engine = &base64::engine::general_purpose::STANDARD;
        let decoded =
            engine.decode(&**given).or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(&**given));
        match decoded {
            Ok(bytes) => Ok(Val::Bytes(bytes.into())),
            Err(_) => fault("illegal base64 data"),
        }
    }),
];

fn texts<'a>(all: impl Iterator<Item = &'a str>) -> Val {
    Val::list(all.map(Val::text).collect())
}

fn compiled(pattern: &Val) -> Result<regex::Regex, Fault> {
    let pattern = text(pattern)?;
    regex(pattern).map_err(|_| Fault::Function(format!("error parsing regexp: `{pattern}`")))
}

fn matches(v: &[Val]) -> Result<Val, Fault> {
    Ok(Val::Bool(compiled(&v[1])?.is_match(text(&v[0])?)))
}

fn find(v: &[Val]) -> Result<Val, Fault> {
    Ok(Val::text(compiled(&v[1])?.find(text(&v[0])?).map_or("", |found| found.as_str())))
}

fn find_all(v: &[Val]) -> Result<Val, Fault> {
    let most = v.get(2).map(int).transpose()?.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    Ok(texts(compiled(&v[1])?.find_iter(text(&v[0])?).take(most).map(|found| found.as_str())))
}

fn chars(value: &Val) -> Result<Vec<char>, Fault> {
    Ok(text(value)?.chars().collect())
}

fn place(value: i64, length: usize) -> Result<usize, Fault> {
    match usize::try_from(value) {
        Ok(place) if place <= length => Ok(place),
        _ => fault(format!("index out of range: {value}")),
    }
}

fn char_at(v: &[Val]) -> Result<Val, Fault> {
    let all = chars(&v[0])?;
    let at = place(int(&v[1])?, all.len())?;
    Ok(Val::text(&all.get(at).map(char::to_string).unwrap_or_default()))
}

fn index_of(v: &[Val]) -> Result<Val, Fault> {
    let (all, part) = (chars(&v[0])?, chars(&v[1])?);
    let from = match v.get(2) {
        Some(from) => place(int(from)?, all.len())?,
        None => 0,
    };
    let found = (from..=all.len()).find(|at| all[*at..].starts_with(&part));
    Ok(Val::Int(found.map_or(-1, |at| at as i64)))
}

fn last_index_of(v: &[Val]) -> Result<Val, Fault> {
    let (all, part) = (chars(&v[0])?, chars(&v[1])?);
    let from = match v.get(2) {
        Some(from) => place(int(from)?, all.len())?,
        None => all.len(),
    };
    let found = (0..=from).rev().find(|at| all[*at..].starts_with(&part));
    Ok(Val::Int(found.map_or(-1, |at| at as i64)))
}

fn replace(v: &[Val]) -> Result<Val, Fault> {
    let (all, old, new) = (text(&v[0])?, text(&v[1])?, text(&v[2])?);
    let most = v.get(3).map(int).transpose()?.unwrap_or(-1);
    let count = usize::try_from(most).unwrap_or(usize::MAX);
    let found = all.matches(&**old).take(count).count();
    if found.saturating_mul(new.len()).saturating_add(all.len()) > LONGEST {
        return fault("the text is too long");
    }
    Ok(Val::text(&all.replacen(&**old, new, count)))
}

fn split(v: &[Val]) -> Result<Val, Fault> {
    let (all, by) = (text(&v[0])?, text(&v[1])?);
    let most = v.get(2).map(int).transpose()?.unwrap_or(-1);
    if most == 0 {
        return Ok(Val::list(Vec::new()));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if by.is_empty() {
        let count = all.chars().count();
        let mut parts: Vec<String> = all.chars().take(most.min(count)).map(String::from).collect();
        if most < count
            && let Some(last) = parts.last_mut()
        {
            *last = all.chars().skip(most - 1).collect();
        }
        return Ok(texts(parts.iter().map(String::as_str)));
    }
    Ok(texts(all.splitn(most, &**by)))
}

fn substring(v: &[Val]) -> Result<Val, Fault> {
    let all = chars(&v[0])?;
    let from = int(&v[1])?;
    let to = match v.get(2) {
        Some(to) => int(to)?,
        None => all.len() as i64,
    };
    if from > to {
        return fault(format!("invalid substring range. start: {from}, end: {to}"));
    }
    let (from, to) = (place(from, all.len())?, place(to, all.len())?);
    Ok(Val::text(&all[from..to].iter().collect::<String>()))
}

fn join(v: &[Val]) -> Result<Val, Fault> {
    let between = v.get(1).map(text).transpose()?.map_or("", |text| text);
    let parts: Vec<&str> = items(&v[0])?.iter().map(|item| text(item).map(|text| &**text)).collect::<Result<_, _>>()?;
    Ok(Val::text(&parts.join(between)))
}

/// `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o` and `%%`.
fn format(v: &[Val]) -> Result<Val, Fault> {
    let (pattern, values) = (text(&v[0])?, items(&v[1])?);
    let (mut out, mut next) = (String::new(), 0);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut clause = chars.next();
        let mut precision = 6;
        if clause == Some('.') {
            let digits: String = chars.clone().take_while(char::is_ascii_digit).collect();
            precision = digits.parse::<usize>().unwrap_or(0).min(100);
            clause = chars.nth(digits.len());
        }
        if clause == Some('%') {
            out.push('%');
            continue;
        }
        let Some(value) = values.get(next) else { return fault(format!("index {next} out of range")) };
        next += 1;
        let Some(clause) = clause else { return fault("could not parse formatting clause: unexpected end of string") };
        out.push_str(&formatted(clause, precision, value)?);
        if out.len() > LONGEST {
            return fault("the text is too long");
        }
    }
    Ok(Val::Text(Arc::from(out)))
}

fn formatted(clause: char, precision: usize, value: &Val) -> Result<String, Fault> {
    let real = || match value {
        Val::Double(number) => Some(*number),
        Val::Int(number) => Some(*number as f64),
        Val::Uint(number) => Some(*number as f64),
        _ => None,
    };
    let done = match (clause, value) {
        ('s', value) => Some(written(value)),
        ('d', Val::Int(_) | Val::Uint(_)) => Some(written(value)),
        ('d', Val::Double(number)) if number.fract() == 0.0 => Some(format!("{number:.0}")),
        ('f', _) => real().map(|number| format!("{number:.precision$}")),
        ('e', _) => real().map(|number| {
            let text = format!("{number:.precision$e}");
            let (base, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{base}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }),
        ('b', Val::Bool(on)) => Some(u8::from(*on).to_string()),
        ('b', Val::Int(number)) => Some(signed(*number, format!("{:b}", number.unsigned_abs()))),
        ('b', Val::Uint(number)) => Some(format!("{number:b}")),
        ('o', Val::Int(number)) => Some(signed(*number, format!("{:o}", number.unsigned_abs()))),
        ('o', Val::Uint(number)) => Some(format!("{number:o}")),
        ('x', Val::Int(number)) => Some(signed(*number, format!("{:x}", number.unsigned_abs()))),
        ('X', Val::Int(number)) => Some(signed(*number, format!("{:X}", number.unsigned_abs()))),
        ('x', Val::Uint(number)) => Some(format!("{number:x}")),
        ('X', Val::Uint(number)) => Some(format!("{number:X}")),
        ('x', Val::Text(text)) => Some(text.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ('X', Val::Text(text)) => Some(text.bytes().map(|byte| format!("{byte:02X}")).collect()),
        ('x', Val::Bytes(bytes)) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        ('X', Val::Bytes(bytes)) => Some(bytes.iter().map(|byte| format!("{byte:02X}")).collect()),
        _ => None,
    };
    match done {
        Some(text) => Ok(text),
        None if "sdfeboxX".contains(clause) => {
            fault(format!("error during formatting: %{clause} cannot be used on {}", value.type_name()))
        }
        None => fault(format!("could not parse formatting clause: unrecognized formatting clause \"{clause}\"")),
    }
}

fn signed(number: i64, digits: String) -> String {
    if number < 0 { format!("-{digits}") } else { digits }
}
