//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 section 2): their layout
//! and the compressed header blocks. What frames mean for streams is decided by
//! the connection.

use super::Headers;
use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The dictionary that both sides' header compression begins with (section
/// 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Status of a reset: the stream is not wanted (section 2.6.3).
const CANCEL: u32 = 5;
/// Bytes of the head of every frame.
const HEAD: usize = 8;
/// Longest data frame taken: the format allows 16 MiB, the peers send 32 KiB.
const DATA_LIMIT: usize = 1 << 20;
/// Longest control frame taken, compressed.
const CONTROL_LIMIT: usize = 64 << 10;
/// Longest header block, plain.
const HEADERS_LIMIT: usize = 64 << 10;
/// Headers of a stream at most.
const HEADER_COUNT: u32 = 64;

/// A frame, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Frame {
    /// Bytes of a stream.
    Data {
        /// Which.
        stream: u32,
        /// The sender closes its side.
        finish: bool,
        /// The bytes.
        data: Bytes,
    },
    /// Everything else.
    Control(Control),
}

/// A control frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Control {
    /// A new stream.
    Open {
        /// Its number.
        stream: u32,
        /// The sender will send nothing.
        finish: bool,
        /// Its headers.
        headers: Headers,
    },
    /// A stream is accepted.
    Reply {
        /// Which.
        stream: u32,
    },
    /// A stream is aborted.
    Reset {
        /// Which.
        stream: u32,
    },
    /// To be sent back.
    Ping {
        /// What to send back.
        id: u32,
    },
    /// No new streams will come.
    GoAway,
    /// Settings, windows and the like.
    Other,
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads frames.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { inflate: Decompress::new(true) }
    }

    /// The next frame; `None` if the peer ended between two frames.
    pub(super) async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
        let mut head = [0; HEAD];
        if reader.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        reader.read_exact(&mut head[1..]).await?;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        let is_control = first & 0x8000_0000 != 0;
        if length > if is_control { CONTROL_LIMIT } else { DATA_LIMIT } {
            return Err(invalid("a SPDY frame is too long"));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        if !is_control {
            return Ok(Some(Frame::Data { stream: first, finish: flags & FLAG_FIN != 0, data: body.into() }));
        }
        if u16::from_be_bytes([head[0] & 0x7f, head[1]]) != VERSION {
            return Err(invalid("not SPDY version 3"));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        self.control(kind, flags, &body).map(|control| Some(Frame::Control(control)))
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> io::Result<Control> {
        let short = || invalid("a SPDY control frame is too short");
        let number = || u32_at(body, 0).map(|number| number & 0x7fff_ffff).ok_or_else(short);
        Ok(match kind {
            SYN_STREAM => Control::Open {
                stream: number()?,
                finish: flags & FLAG_FIN != 0,
                headers: self.headers(body.get(10..).ok_or_else(short)?)?,
            },
            SYN_REPLY => {
                // The block must pass the decompressor, which has a memory.
                self.headers(body.get(4..).ok_or_else(short)?)?;
                Control::Reply { stream: number()? }
            }
            8 => {
                self.headers(body.get(4..).ok_or_else(short)?)?;
                Control::Other
            }
            RST_STREAM => Control::Reset { stream: number()? },
            PING => Control::Ping { id: u32_at(body, 0).ok_or_else(short)? },
            GOAWAY => Control::GoAway,
            _ => Control::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let plain = self.decompress(block)?;
        let broken = || invalid("a SPDY header block is malformed");
        let count = u32_at(&plain, 0).filter(|count| *count <= HEADER_COUNT).ok_or_else(broken)?;
        let mut at = 4;
        let mut text = || -> Option<String> {
            let length = usize::try_from(u32_at(&plain, at)?).ok()?;
            let bytes = plain.get(at + 4..at.checked_add(4)?.checked_add(length)?)?;
            at += 4 + length;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let mut headers = Headers::new();
        for _header in 0..count {
            let name = text().ok_or_else(broken)?.to_ascii_lowercase();
            headers.insert(name, text().ok_or_else(broken)?);
        }
        Ok(headers)
    }

    fn decompress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let mut rest = block;
        loop {
            plain.reserve(4096);
            let before = self.inflate.total_in();
            let produced = plain.len();
            let result = self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let consumed = usize::try_from(self.inflate.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(consumed..).unwrap_or_default();
            if plain.len() > HEADERS_LIMIT {
                return Err(invalid("a SPDY header block is too long"));
            }
            match result {
                Ok(Status::StreamEnd) => return Ok(plain),
                Ok(_) if rest.is_empty() && plain.len() < plain.capacity() => return Ok(plain),
                Ok(_) if consumed == 0 && plain.len() == produced => {
                    return Err(invalid("a SPDY header block is malformed"));
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(DICTIONARY)
                        .map_err(|_| invalid("a SPDY header block has a foreign dictionary"))?;
                }
                Err(_) => return Err(invalid("a SPDY header block is malformed")),
            }
        }
    }
}

/// Writes frames.
pub(super) struct Encoder {
    deflate: Compress,
}

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(DICTIONARY).map_err(io::Error::other)?;
        Ok(Self { deflate })
    }

    /// The frame's bytes in two parts, so that data is not copied.
    pub(super) fn encode(&mut self, frame: &Frame) -> io::Result<(Vec<u8>, Bytes)> {
        match frame {
            Frame::Data { stream, finish, data } => {
                Ok((head(*stream, if *finish { FLAG_FIN } else { 0 }, data.len())?, data.clone()))
            }
            Frame::Control(control) => Ok((self.control(control)?, Bytes::new())),
        }
    }

    fn control(&mut self, control: &Control) -> io::Result<Vec<u8>> {
        let (kind, flags, body) = match control {
            Control::Open { stream, finish, headers } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend_from_slice(&[0; 6]);
                body.extend(self.headers(headers)?);
                (SYN_STREAM, if *finish { FLAG_FIN } else { 0 }, body)
            }
            Control::Reply { stream } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend(self.headers(&Headers::new())?);
                (SYN_REPLY, 0, body)
            }
            Control::Reset { stream } => (RST_STREAM, 0, [stream.to_be_bytes(), CANCEL.to_be_bytes()].concat()),
            Control::Ping { id } => (PING, 0, id.to_be_bytes().to_vec()),
            Control::GoAway => (GOAWAY, 0, vec![0; 8]),
            Control::Other => return Err(invalid("only frames with a meaning are written")),
        };
        let first = 0x8000_0000 | u32::from(VERSION) << 16 | u32::from(kind);
        let mut bytes = head(first, flags, body.len())?;
        bytes.extend(body);
        Ok(bytes)
    }

    fn headers(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in headers {
            plain.extend(length(name));
            plain.extend(name.as_bytes());
            plain.extend(length(value));
            plain.extend(value.as_bytes());
        }
        let mut block = Vec::new();
        let mut rest = plain.as_slice();
        loop {
            block.reserve(plain.len() + 64);
            let before = self.deflate.total_in();
            self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
            let consumed = usize::try_from(self.deflate.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(consumed..).unwrap_or_default();
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn head(first: u32, flags: u8, length: usize) -> io::Result<Vec<u8>> {
    let length = u32::try_from(length).ok().filter(|length| *length < 1 << 24);
    let length = length.ok_or_else(|| invalid("a SPDY frame is too long"))?.to_be_bytes();
    let first = first.to_be_bytes();
    Ok(vec![first[0], first[1], first[2], first[3], flags, length[1], length[2], length[3]])
}

/// A client's side, for tests of this server.
#[cfg(test)]
pub(super) fn open_frame(stream: u32, headers: Headers) -> Frame {
    Frame::Control(Control::Open { stream, finish: false, headers })
}
