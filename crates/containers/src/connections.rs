//! How many TCP connections with others a network namespace has open, read from
//! the kernel's own tables. What that means is not decided here.

use std::io;
use std::path::Path;

/// `TCP_ESTABLISHED` in the tables' state column.
const ESTABLISHED: &str = "01";
/// Bytes of a table that are read; a pod with a longer one has thousands of
/// connections, and those in the part that was read are counted.
const TABLE_LIMIT: u64 = 1 << 20;

/// Established connections in the namespace of this process whose other end is
/// not the namespace itself by a loopback address.
pub(crate) fn open_connections(pid: u32) -> io::Result<usize> {
    let mut count = 0;
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        match read(Path::new(&path)) {
            Ok(text) => count += established(&text),
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(path)?, TABLE_LIMIT), &mut text)?;
    Ok(text)
}

fn established(table: &str) -> usize {
    let rows = table.lines().skip(1);
    let open = rows.filter(|row| {
        let mut columns = row.split_ascii_whitespace().skip(2);
        let (Some(remote), Some(state)) = (columns.next(), columns.next()) else { return false };
        state == ESTABLISHED && !is_loopback(remote)
    });
    open.count()
}

/// An address is written as hexadecimal words in the machine's byte order.
fn is_loopback(remote: &str) -> bool {
    let address = remote.split(':').next().unwrap_or_default().as_bytes();
    let words: Vec<u32> = address
        .chunks(8)
        .filter_map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok())
        .map(u32::from_be)
        .collect();
    let is_127 = |word: u32| word >> 24 == 127;
    match words[..] {
        [word] => is_127(word),
        [0, 0, 0, 1] => true,
        [0, 0, 0xffff, word] => is_127(word),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn established_connections_with_others_are_counted() {
        let rows = [
            // Listens.
            "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000",
            // With 10.42.0.7.
            "   1: 0900010A:1F90 07002A0A:C350 01 00000000:00000000",
            // With itself, by 127.0.0.1.
            "   2: 0100007F:1F90 0100007F:C350 01 00000000:00000000",
            // Closed by the other end.
            "   3: 0900010A:1F90 08002A0A:C350 08 00000000:00000000",
        ];
        assert_eq!(established(&format!("{HEADER}{}\n", rows.join("\n"))), 1);
        let six = [
            "   0: 0000000000000000FFFF00000900010A:1F90 0000000000000000FFFF000007002A0A:C350 01 0:0",
            "   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C350 01 0:0",
            "   2: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:C350 01 0:0",
            "   3: 000080FE00000000000000000100FF01:1F90 000080FE00000000000000000200FF02:C350 01 0:0",
        ];
        assert_eq!(established(&format!("{HEADER}{}\n", six.join("\n"))), 2);
    }

    #[test]
    fn a_connection_of_this_process_with_itself_is_not_counted() {
        let before = open_connections(std::process::id()).expect("the kernel's tables");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let _stream = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        // Others of this namespace come and go; ours would add two.
        assert!(open_connections(std::process::id()).expect("the kernel's tables") < before + 2);
    }
}
