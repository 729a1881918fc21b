//! A JSON reader that keeps order, duplicates and number spellings, and whose
//! errors are those of Go's `encoding/json`, which clients see.

use std::borrow::Cow;

use super::{DecodeError, Node};

/// Levels of nesting that a body may have; deeper ones would exhaust a stack.
const DEPTH_LIMIT: usize = 1000;

/// Parses a whole body.
pub(super) fn parse(body: &[u8]) -> Result<Node<'_>, DecodeError> {
    let mut reader = Reader { body, at: 0 };
    let node = reader.value(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(node),
        Some(byte) => reader.unexpected(byte, "after top-level value"),
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn end<T>(&self) -> Result<T, DecodeError> {
        Err(DecodeError::Syntax("unexpected end of JSON input".to_owned()))
    }

    fn unexpected<T>(&self, byte: u8, place: &str) -> Result<T, DecodeError> {
        let shown = match byte {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            b'\n' => r"'\n'".to_owned(),
            b'\r' => r"'\r'".to_owned(),
            b'\t' => r"'\t'".to_owned(),
            0x07 => r"'\a'".to_owned(),
            0x08 => r"'\b'".to_owned(),
            0x0b => r"'\v'".to_owned(),
            0x0c => r"'\f'".to_owned(),
            b'\\' => r"'\\'".to_owned(),
            0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
            0x80..0xa0 | 0xad => format!("'\\u{byte:04x}'"),
            _ => format!("'{}'", char::from(byte)),
        };
        Err(DecodeError::Syntax(format!("invalid character {shown} {place}")))
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        if depth > DEPTH_LIMIT {
            return Err(DecodeError::Syntax("exceeded max depth".to_owned()));
        }
        self.space();
        match self.peek() {
            None => self.end(),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Node::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true", Node::Bool(true)),
            Some(b'f') => self.literal("false", Node::Bool(false)),
            Some(b'n') => self.literal("null", Node::Null),
            Some(byte) => self.unexpected(byte, "looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, DecodeError> {
        for expected in word.bytes() {
            match self.peek() {
                None => return self.end(),
                Some(byte) if byte == expected => self.at += 1,
                Some(byte) => {
                    let place = format!("in literal {word} (expecting '{}')", char::from(expected));
                    return self.unexpected(byte, &place);
                }
            }
        }
        Ok(node)
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(members));
        }
        loop {
            self.space();
            match self.peek() {
                None => return self.end(),
                Some(b'"') => {}
                Some(byte) => return self.unexpected(byte, "looking for beginning of object key string"),
            }
            let key = self.string()?;
            self.space();
            match self.peek() {
                None => return self.end(),
                Some(b':') => self.at += 1,
                Some(byte) => return self.unexpected(byte, "after object key"),
            }
            members.push((key, self.value(depth + 1)?));
            self.space();
            match self.peek() {
                None => return self.end(),
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Node::Object(members));
                }
                Some(byte) => return self.unexpected(byte, "after object key:value pair"),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, DecodeError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                None => return self.end(),
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                Some(byte) => return self.unexpected(byte, "after array element"),
            }
        }
    }

    fn digits(&mut self, place: &str) -> Result<(), DecodeError> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(byte) => return self.unexpected(byte, place),
            None => return self.end(),
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node<'a>, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(Node::Number(String::from_utf8_lossy(&self.body[start..self.at])))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, DecodeError> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                None => return self.end(),
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.body[start..self.at]);
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => return self.escaped_string(start),
                Some(byte @ 0..0x20) => return self.unexpected(byte, "in string literal"),
                Some(_) => self.at += 1,
            }
        }
    }

    /// The rest of a string from its first escape on.
    fn escaped_string(&mut self, start: usize) -> Result<Cow<'a, str>, DecodeError> {
        let mut out = self.body[start..self.at].to_vec();
        loop {
            match self.peek() {
                None => return self.end(),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(String::from_utf8_lossy(&out).into_owned()));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(byte @ 0..0x20) => return self.unexpected(byte, "in string literal"),
                Some(byte) => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let Some(byte) = self.peek() else { return self.end() };
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                self.surrogate(first)?
            }
            _ => return self.unexpected(byte, "in string escape code"),
        })
    }

    fn hex(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for _ in 0..4 {
            let Some(byte) = self.peek() else { return self.end() };
            let Some(digit) = char::from(byte).to_digit(16) else {
                return self.unexpected(byte, "in \\u hexadecimal character escape");
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    /// A code unit, joined with the escape that follows if both are a pair;
    /// half a pair becomes the replacement character.
    fn surrogate(&mut self, first: u32) -> Result<char, DecodeError> {
        if !(0xd800..0xe000).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        if first < 0xdc00 && self.body[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }
}
