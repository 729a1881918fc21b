//! CRC-32C (Castagnoli), eight bytes a step. Detects damage, not forgery.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A static and not a constant: unoptimised code copies a constant's 8 KiB at
/// each use, that is, for each byte.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// A checksum being computed over several pieces.
#[derive(Clone, Copy)]
pub(super) struct Checksum(u32);

impl Checksum {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            let word = u64::from_le_bytes(*chunk) ^ u64::from(self.0);
            let bytes = word.to_le_bytes();
            self.0 = (0..8).fold(0, |crc, at| crc ^ TABLES[7 - at][bytes[at] as usize]);
        }
        for byte in rest {
            self.0 = self.0 >> 8 ^ TABLES[0][((self.0 ^ u32::from(*byte)) & 0xff) as usize];
        }
        self
    }

    pub(super) fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_matches_the_published_vectors() {
        // RFC 3720, appendix B.4.
        assert_eq!(Checksum::new().add(&[0; 32]).finish(), 0x8a91_36aa);
        assert_eq!(Checksum::new().add(&[0xff; 32]).finish(), 0x62a8_ab43);
        assert_eq!(Checksum::new().add(b"123456789").finish(), 0xe306_9283);
        assert_eq!(Checksum::new().add(b"1234").add(b"56789").finish(), 0xe306_9283);
    }
}
