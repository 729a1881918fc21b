//! Writing and reading netlink messages and their attributes. Layout only
//! (`netlink(7)`): what an attribute means is the business of the callers.

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// The message asks for something.
pub(crate) const REQUEST: u16 = 0x1;
/// An answer is wanted even when all went well.
pub(crate) const ACK: u16 = 0x4;
/// List everything.
pub(crate) const DUMP: u16 = 0x300;
/// Replace what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// Fail if it is there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Make it if it is not there.
pub(crate) const CREATE: u16 = 0x400;
/// Put it at the end.
pub(crate) const APPEND: u16 = 0x800;

/// Rounds up to the alignment of messages and attributes.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Requests in the order in which the kernel shall carry them out.
#[derive(Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    start: usize,
    step: &'static str,
}

impl Messages {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a request. `step` completes "the kernel refused to …"; `header` is
    /// the fixed struct after `nlmsghdr`.
    pub(crate) fn push(
        &mut self,
        step: &'static str,
        kind: u16,
        flags: u16,
        header: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.entries.push(Entry { start, step });
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        attributes(&mut Attributes { bytes: &mut self.bytes });
        pad(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).expect("a batch is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// How many requests there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the request at `index` was to do.
    pub(crate) fn step(&self, index: usize) -> &'static str {
        self.entries.get(index).map_or("carry out a request", |entry| entry.step)
    }

    /// Numbers the requests from `first`, sets `flags` on the one at `index`
    /// (on all if none is given) and gives the bytes to send.
    pub(crate) fn seal(&mut self, first: u32, flags: u16, index: Option<usize>) -> &[u8] {
        for (position, entry) in self.entries.iter().enumerate() {
            let sequence = first.wrapping_add(u32::try_from(position).unwrap_or(u32::MAX));
            let at = entry.start;
            self.bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
            if index.is_none_or(|index| index == position) {
                let old = u16::from_ne_bytes([self.bytes[at + 6], self.bytes[at + 7]]);
                self.bytes[at + 6..at + 8].copy_from_slice(&(old | flags).to_ne_bytes());
            }
        }
        &self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(align(bytes.len()), 0);
}

/// The attributes of one message, or of one attribute that holds others.
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute of raw bytes; at most 65,531 of them.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.open(kind, |bytes| bytes.extend_from_slice(value));
    }

    /// Text with a terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.open(kind, |bytes| {
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        });
    }

    /// A byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    /// 16 bits in network order.
    pub(crate) fn u16_be(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 32 bits in network order, as netfilter has them.
    pub(crate) fn u32_be(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 64 bits in network order.
    pub(crate) fn u64_be(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// 32 bits in host order, as rtnetlink has them.
    pub(crate) fn u32_ne(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) {
        self.open(kind | NESTED, |bytes| inner(&mut Attributes { bytes }));
    }

    /// An attribute that holds a fixed struct and then attributes.
    pub(crate) fn nest_after(&mut self, kind: u16, header: &[u8], inner: impl FnOnce(&mut Attributes<'_>)) {
        self.open(kind, |bytes| {
            bytes.extend_from_slice(header);
            inner(&mut Attributes { bytes });
        });
    }

    fn open(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self.bytes);
        let length = u16::try_from(self.bytes.len() - start).expect("callers split what exceeds 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.bytes);
    }
}

/// One received message.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    /// Message type.
    pub(crate) kind: u16,
    /// `NLM_F_*`.
    pub(crate) flags: u16,
    /// The request it answers.
    pub(crate) sequence: u32,
    /// What follows `nlmsghdr`.
    pub(crate) payload: &'a [u8],
}

/// Splits a datagram into messages; stops at the first malformed one.
pub(crate) fn received(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = datagram.get(..HEADER)?;
        let length = usize::try_from(u32::from_ne_bytes(header[0..4].try_into().ok()?)).ok()?;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER)?;
        let received = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload: &message[HEADER..],
        };
        datagram = datagram.get(align(length)..).unwrap_or_default();
        Some(received)
    })
}

/// Splits bytes into attributes (type without flags, value); stops at the
/// first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE_HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// The value at the end of a path of nested attributes.
pub(crate) fn attribute_at<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, kind| attribute(bytes, *kind))
}

/// Text without its terminating zero; `None` if it is not UTF-8.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// 32 bits in host order.
pub(crate) fn u32_ne(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

/// 64 bits in network order.
pub(crate) fn u64_be(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut messages = Messages::new();
        messages.push("say hello", 16, CREATE, &[1, 2, 3, 4], |a| {
            a.text(1, "eth0");
            a.nest(2, |a| {
                a.u32_be(1, 7);
                a.u8(2, 9);
            });
        });
        messages.push("say goodbye", 17, 0, &[], |_| {});
        let bytes = messages.seal(40, ACK, Some(1)).to_vec();
        let all: Vec<_> = received(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kind, all[0].sequence, all[0].flags), (16, 40, CREATE | REQUEST));
        assert_eq!((all[1].kind, all[1].sequence, all[1].flags), (17, 41, ACK | REQUEST));
        let rest = &all[0].payload[4..];
        assert_eq!(attribute(rest, 1).and_then(text), Some("eth0"));
        assert_eq!(attribute_at(rest, &[2, 1]), Some(&[0, 0, 0, 7][..]));
        assert_eq!(attribute_at(rest, &[2, 2]), Some(&[9][..]));
    }

    #[test]
    fn cut_off_input_ends_the_iteration_and_never_panics() {
        let mut messages = Messages::new();
        messages.push("say hello", 16, 0, &[], |a| a.text(1, "a longer text"));
        let bytes = messages.seal(1, 0, None).to_vec();
        for end in 0..bytes.len() {
            assert_eq!(received(&bytes[..end]).count(), 0);
            let _count = attributes(&bytes[..end]).count();
        }
    }
}
