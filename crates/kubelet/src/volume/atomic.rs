//! Files that all change at once: a directory of this version's files, and a
//! link `..data` that is moved to it by one rename. Readers see the old set or
//! the new one, never a mixture (upstream's `AtomicWriter`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::SetUpError;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
/// Longest path of one file, bytes.
const MAX_PATH_BYTES: usize = 4096;

/// One file to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct File {
    /// Content.
    pub(crate) data: Vec<u8>,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner; root if not set.
    pub(crate) owner: Option<u32>,
}

/// Files by relative path.
pub(crate) type Payload = BTreeMap<String, File>;

/// Makes `target` show exactly these files. `own` is applied to the directory
/// of the new version before it is shown. Writes nothing if nothing differs.
pub(super) fn write(
    target: &Path,
    payload: &Payload,
    own: impl Fn(&Path) -> Result<(), SetUpError>,
) -> Result<(), SetUpError> {
    for path in payload.keys() {
        check(path)?;
    }
    let step = |what: &str| SetUpError::io(format!("{what} in {}", target.display()));
    let old = match fs::read_link(target.join(DATA)) {
        Ok(link) => Some(link),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => return Err(step("reading the data link")(err)),
    };
    let old_files = match &old {
        Some(dir) => list(&target.join(dir)).map_err(step("listing files"))?,
        None => BTreeSet::new(),
    };
    let same = old.as_ref().is_some_and(|dir| {
        old_files.iter().eq(payload.keys())
            && payload
                .iter()
                .all(|(path, file)| fs::read(target.join(dir).join(path)).is_ok_and(|data| data == file.data))
    });
    if !same {
        let name = version_name();
        let dir = target.join(&name);
        write_version(&dir, payload).map_err(step("writing files"))?;
        own(&dir)?;
        let link = target.join(NEW_DATA);
        remove_if_there(&link).map_err(step("removing a stale link"))?;
        symlink(&name, &link).map_err(step("making the data link"))?;
        fs::rename(&link, target.join(DATA)).map_err(step("moving the data link"))?;
    }
    show(target, payload, &old_files).map_err(step("linking files"))?;
    if let (false, Some(dir)) = (same, old) {
        fs::remove_dir_all(target.join(dir)).map_err(step("removing the version before"))?;
    }
    Ok(())
}

fn check(path: &str) -> Result<(), SetUpError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.len() > MAX_PATH_BYTES
        || path.split('/').any(|part| part == ".." || part.len() > 255)
        || path.split('/').next().is_some_and(|first| first.starts_with(".."));
    if bad { Err(SetUpError::Path(path.into())) } else { Ok(()) }
}

/// `..2006_01_02_15_04_05.` and digits that make it unique.
fn version_name() -> String {
    let now = jiff::Timestamp::now();
    format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond().unsigned_abs())
}

fn write_version(dir: &Path, payload: &Payload) -> io::Result<()> {
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        // After the write: the mode may forbid it, and `umask` must not matter.
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode))?;
        if file.owner.is_some() {
            chown(&full, file.owner, None)?;
        }
    }
    Ok(())
}

fn list(dir: &Path) -> io::Result<BTreeSet<String>> {
    fn walk(dir: &Path, prefix: &str, all: &mut BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &format!("{name}/"), all)?;
            } else {
                all.insert(name);
            }
        }
        Ok(())
    }
    let mut all = BTreeSet::new();
    match walk(dir, "", &mut all) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        other => other.map(|()| all),
    }
}

fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// Links for what is there, none for what is not.
fn show(target: &Path, payload: &Payload, old: &BTreeSet<String>) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|p| first_part(p)).collect();
    for name in &wanted {
        let link = target.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for name in old.iter().map(|p| first_part(p)).filter(|n| !wanted.contains(n)) {
        remove_if_there(&target.join(name))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644, owner: None }))
            .collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .expect("listed")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|n| !n.starts_with("..2"));
        names.sort();
        names
    }

    #[test]
    fn a_new_version_replaces_the_old_one_as_a_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let target = dir.path();
        write(target, &payload(&[("a", "1"), ("d/b", "2")]), |_| Ok(())).expect("written");
        assert_eq!(visible(target), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(target.join("d/b")).expect("read"), "2");
        let before = fs::read_link(target.join(DATA)).expect("a link");
        write(target, &payload(&[("a", "1"), ("d/b", "2")]), |_| Ok(())).expect("written");
        assert_eq!(fs::read_link(target.join(DATA)).expect("a link"), before, "nothing changed, nothing written");
        write(target, &payload(&[("a", "3"), ("c", "4")]), |_| Ok(())).expect("written");
        assert_eq!(visible(target), ["..data", "a", "c"]);
        assert_eq!(fs::read_to_string(target.join("a")).expect("read"), "3");
        assert!(!target.join(before).exists(), "the old version is removed");
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["", "/a", "../a", "a/../b", "..hidden"] {
            assert!(write(dir.path(), &payload(&[(bad, "")]), |_| Ok(())).is_err(), "{bad}");
        }
    }
}
