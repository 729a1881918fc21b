//! The first page of a swap device, as `union swap_header` of the kernel's
//! `include/linux/swap.h` lays it out. Nothing else of the device is read or
//! written here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Where the fields begin; a page of "boot bits" comes first.
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
const UUID: usize = 1036;
const LABEL: usize = 1052;
/// Counted from the end of the page.
const MAGIC: &[u8] = b"SWAPSPACE2";
/// For people who look at the device.
const LABEL_TEXT: &[u8] = b"darter";

/// Makes `device` a swap of `size` bytes that carries `uuid` (32 hex digits).
pub(super) fn write(device: &Path, size: u64, uuid: &str) -> io::Result<()> {
    let page = crate::paging::page_size();
    let mut header = vec![0_u8; page];
    let pages = u32::try_from(size / page as u64).unwrap_or(u32::MAX);
    header[VERSION..][..4].copy_from_slice(&1_u32.to_ne_bytes());
    header[LAST_PAGE..][..4].copy_from_slice(&(pages - 1).to_ne_bytes());
    for (index, byte) in header[UUID..LABEL].iter_mut().enumerate() {
        let digits = uuid.get(index * 2..index * 2 + 2);
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "an id of 32 hex digits is needed");
        *byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or_else(invalid)?;
    }
    header[LABEL..][..LABEL_TEXT.len()].copy_from_slice(LABEL_TEXT);
    header[page - MAGIC.len()..].copy_from_slice(MAGIC);
    let file = File::options().write(true).open(device)?;
    file.write_all_at(&header, 0)?;
    file.sync_all()
}

/// The id in the header of `device`; `None` when it is no swap of ours.
pub(super) fn read_uuid(device: &Path) -> io::Result<Option<String>> {
    let page = crate::paging::page_size();
    let mut header = vec![0_u8; page];
    match File::open(device)?.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let ours = header.ends_with(MAGIC) && header[LABEL..].starts_with(LABEL_TEXT);
    Ok(ours.then(|| crate::image::hex(&header[UUID..LABEL])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_was_written_is_found_again() {
        let file = tempfile::NamedTempFile::new().expect("file");
        assert_eq!(read_uuid(file.path()).expect("read"), None);
        let uuid = "00112233445566778899aabbccddeeff";
        write(file.path(), 64 << 20, uuid).expect("write");
        assert_eq!(read_uuid(file.path()).expect("read").as_deref(), Some(uuid));
        let bytes = std::fs::read(file.path()).expect("read");
        let page = crate::paging::page_size();
        assert_eq!(bytes[1028..1032], ((64 << 20) / page as u32 - 1).to_ne_bytes());
        assert_eq!(&bytes[page - 10..], b"SWAPSPACE2");
        assert!(write(file.path(), 64 << 20, "short").is_err());
        std::fs::write(file.path(), vec![0; page]).expect("write");
        assert_eq!(read_uuid(file.path()).expect("read"), None);
    }
}
