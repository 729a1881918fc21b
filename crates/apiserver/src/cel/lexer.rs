//! Text to tokens. Knows no grammar.

use super::Issue;

/// What a token is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Ident(String),
    /// An operator, a bracket or a word that the language keeps for itself.
    Sign(&'static str),
    End,
}

/// A token, where it stands, and how it was written.
#[derive(Clone, Debug)]
pub(super) struct Lexeme {
    pub at: usize,
    pub token: Token,
    pub text: String,
}

/// Longer signs first.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "[?", "{?", "?", ":", "(", ")", "[", "]", "{", "}", ".", ",", "<", ">", "+",
    "-", "*", "/",
];

/// All tokens; those that cannot be read are left out and reported.
pub(super) fn lex(source: &str) -> (Vec<Lexeme>, Vec<Issue>) {
    let chars: Vec<char> = source.chars().collect();
    let (mut tokens, mut issues, mut at) = (Vec::new(), Vec::new(), 0);
    while at < chars.len() {
        let c = chars[at];
        let start = at;
        if c.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if c == '/' && chars.get(at + 1) == Some(&'/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
            continue;
        }
        let token = if let Some(prefix) = quoted(&chars, at) {
            match text(&chars, at, prefix) {
                Ok((token, end)) => {
                    at = end;
                    token
                }
                Err(end) => {
                    let wrong: String = chars[start..end].iter().collect();
                    issues.push(Issue::new(start, format!("Syntax error: token recognition error at: '{wrong}'")));
                    at = end;
                    continue;
                }
            }
        } else if c.is_ascii_digit() || (c == '.' && chars.get(at + 1).is_some_and(char::is_ascii_digit)) {
            let (token, end) = number(&chars, at);
            at = end;
            match token {
                Ok(token) => token,
                Err(message) => {
                    issues.push(Issue::new(start, message));
                    Token::Int(0)
                }
            }
        } else if c.is_ascii_alphabetic() || c == '_' {
            while at < chars.len() && (chars[at].is_ascii_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            word(chars[start..at].iter().collect())
        } else if let Some(sign) = sign(&chars, at) {
            at += sign.len();
            Token::Sign(sign)
        } else {
            issues.push(Issue::new(at, format!("Syntax error: token recognition error at: '{c}'")));
            at += 1;
            continue;
        };
        tokens.push(Lexeme { at: start, token, text: chars[start..at].iter().collect() });
    }
    tokens.push(Lexeme { at: chars.len(), token: Token::End, text: "<EOF>".to_owned() });
    (tokens, issues)
}

fn word(text: String) -> Token {
    match text.as_str() {
        "true" => Token::Sign("true"),
        "false" => Token::Sign("false"),
        "null" => Token::Sign("null"),
        "in" => Token::Sign("in"),
        _ => Token::Ident(text),
    }
}

fn sign(chars: &[char], at: usize) -> Option<&'static str> {
    let more = ["%", "!"];
    SIGNS.iter().chain(&more).copied().find(|sign| sign.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c)))
}

/// Length of the prefix of a text or bytes that begin here: `r`, `b`, `br`, none.
fn quoted(chars: &[char], at: usize) -> Option<usize> {
    let length = chars[at..].iter().take(2).take_while(|c| matches!(c, 'r' | 'R' | 'b' | 'B')).count();
    (0..=length).rev().find(|skip| matches!(chars.get(at + skip), Some('\'' | '"')))
}

fn text(chars: &[char], start: usize, prefix: usize) -> Result<(Token, usize), usize> {
    let has = |c: char| chars[start..start + prefix].iter().any(|one| one.eq_ignore_ascii_case(&c));
    let (raw, binary) = (has('r'), has('b'));
    let quote = chars[start + prefix];
    let mut at = start + prefix;
    let triple = chars[at..].iter().take(3).filter(|c| **c == quote).count() == 3;
    at += if triple { 3 } else { 1 };
    let mut out: Vec<u8> = Vec::new();
    let mut push = |c: char| out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
    loop {
        let Some(&c) = chars.get(at) else { return Err(at) };
        let ends = c == quote && (!triple || (chars.get(at + 1) == Some(&quote) && chars.get(at + 2) == Some(&quote)));
        if ends {
            at += if triple { 3 } else { 1 };
            break;
        }
        if !triple && matches!(c, '\n' | '\r') {
            return Err(at);
        }
        if c != '\\' || raw {
            push(c);
            at += 1;
            continue;
        }
        let Some(&escaped) = chars.get(at + 1) else { return Err(chars.len()) };
        at += 2;
        let digits = |count: usize, radix: u32, from: usize| {
            let text: String = chars.get(from..from + count)?.iter().collect();
            u32::from_str_radix(&text, radix).ok()
        };
        match escaped {
            'a' => push('\u{7}'),
            'b' => push('\u{8}'),
            'f' => push('\u{c}'),
            'n' => push('\n'),
            'r' => push('\r'),
            't' => push('\t'),
            'v' => push('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => push(escaped),
            'x' | 'X' | 'u' | 'U' | '0'..='3' => {
                let (count, radix, from) = match escaped {
                    'x' | 'X' => (2, 16, at),
                    'u' => (4, 16, at),
                    'U' => (8, 16, at),
                    _ => (3, 8, at - 1),
                };
                let Some(code) = digits(count, radix, from) else { return Err(at) };
                at = from + count;
                match u8::try_from(code) {
                    Ok(byte) if binary && matches!(escaped, 'x' | 'X' | '0'..='3') => out_byte(&mut push, byte),
                    _ => push(char::from_u32(code).ok_or(at)?),
                }
            }
            _ => return Err(at),
        }
    }
    let token = if binary { Token::Bytes(out) } else { Token::Text(String::from_utf8(out).map_err(|_| at)?) };
    Ok((token, at))
}

/// A byte of its own; those above 127 are written as their code point.
fn out_byte(push: &mut impl FnMut(char), byte: u8) {
    push(char::from(byte));
}

fn number(chars: &[char], start: usize) -> (Result<Token, String>, usize) {
    let mut at = start;
    let take = |at: &mut usize, radix: u32| {
        while chars.get(*at).is_some_and(|c| c.is_digit(radix)) {
            *at += 1;
        }
    };
    let hex = chars[start] == '0' && matches!(chars.get(start + 1), Some('x' | 'X'));
    let mut double = false;
    if hex {
        at += 2;
        take(&mut at, 16);
    } else {
        take(&mut at, 10);
        if chars.get(at) == Some(&'.') && chars.get(at + 1).is_some_and(char::is_ascii_digit) {
            double = true;
            at += 1;
            take(&mut at, 10);
        }
        if matches!(chars.get(at), Some('e' | 'E')) {
            let sign = usize::from(matches!(chars.get(at + 1), Some('+' | '-')));
            if chars.get(at + 1 + sign).is_some_and(char::is_ascii_digit) {
                double = true;
                at += 1 + sign;
                take(&mut at, 10);
            }
        }
    }
    let text: String = chars[start..at].iter().collect();
    let (digits, radix) = if hex { (&text[2..], 16) } else { (text.as_str(), 10) };
    if double {
        return (text.parse().map(Token::Double).map_err(|_| "invalid double literal".to_owned()), at);
    }
    if matches!(chars.get(at), Some('u' | 'U')) {
        let value = u64::from_str_radix(digits, radix).map(Token::Uint);
        return (value.map_err(|_| "invalid uint literal".to_owned()), at + 1);
    }
    // The least integer is written with its sign; the parser puts them together.
    let value = match u64::from_str_radix(digits, radix) {
        Ok(value) => i64::try_from(value).or(if value == 1 << 63 { Ok(i64::MIN) } else { Err(()) }),
        Err(_) => Err(()),
    };
    (value.map(Token::Int).map_err(|()| "invalid int literal".to_owned()), at)
}
