//! Time zones as this machine knows them, for the parts that read schedules out
//! of objects. What a schedule means is not known here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::tz::TimeZone;

/// Where time zones are read from.
const DIRECTORIES: [&str; 2] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo"];
/// Longest name of a zone, and largest file of one, bytes.
const NAME_LIMIT: usize = 64;
const FILE_LIMIT: u64 = 1 << 20;
/// Zones kept; there are about 600.
const KEPT: usize = 1000;

/// Zones by name, each read once.
#[derive(Default)]
pub struct Zones {
    read: Mutex<HashMap<String, Option<TimeZone>>>,
}

impl Zones {
    /// The zone of this name; UTC for none, and, with a warning, for one that
    /// the machine does not know.
    pub fn get(&self, name: Option<&str>) -> TimeZone {
        let Some(name) = name else { return TimeZone::UTC };
        // Nothing panics while it is held.
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(name) {
            return zone.clone().unwrap_or(TimeZone::UTC);
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let zone = read(name);
        if zone.is_none() {
            tracing::warn!(time_zone = name, "time zone is not known on this machine, UTC is used");
        }
        known.insert(name.to_owned(), zone.clone());
        zone.unwrap_or(TimeZone::UTC)
    }
}

fn read(name: &str) -> Option<TimeZone> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b));
    // A name is never a way out of the directory.
    if name.len() > NAME_LIMIT || !name.split('/').all(plain) {
        return None;
    }
    DIRECTORIES.iter().find_map(|dir| {
        let path = std::path::Path::new(dir).join(name);
        let mut data = Vec::new();
        let file = std::fs::File::open(path).ok()?;
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_LIMIT), &mut data).ok()?;
        TimeZone::tzif(name, &data).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_and_not_a_path() {
        for name in ["../../etc/passwd", "/etc/passwd", "", "a//b", "Europe/../Europe/Berlin"] {
            assert!(read(name).is_none(), "{name}");
        }
    }
}
