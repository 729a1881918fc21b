//! Random text: uids and name suffixes, from the system's generator.

use ring::rand::{SecureRandom, SystemRandom};

/// Letters and digits of generated names (upstream's `util/rand`): no vowels,
/// nothing that looks alike.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's random generator answers once the machine is up");
    bytes
}

/// A version 4 UUID.
pub(crate) fn uuid() -> String {
    let mut b: [u8; 16] = bytes();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in b.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

/// Random letters of generated names; at most 32.
pub(crate) fn suffix(length: usize) -> String {
    let random: [u8; 32] = bytes();
    random.iter().take(length).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// A number below `bound`, which is not 0; the bias is irrelevant here.
pub(crate) fn below(bound: u64) -> u64 {
    u64::from_le_bytes(bytes()) % bound.max(1)
}
