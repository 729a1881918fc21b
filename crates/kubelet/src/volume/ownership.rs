//! `fsGroup`: everything in a volume belongs to the pod's group and is open to
//! it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use super::SetUpError;

/// Deepest directory nesting that is followed.
const MAX_DEPTH: u32 = 256;
const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const EXECUTE: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// Gives `path` and everything below to the group. Links are changed
/// themselves, never followed.
pub(super) fn apply(path: &Path, group: Option<i64>, readonly: bool) -> Result<(), SetUpError> {
    let Some(group) = group.and_then(|g| u32::try_from(g).ok()) else { return Ok(()) };
    walk(path, group, readonly, MAX_DEPTH)
        .map_err(SetUpError::io(format!("giving {} to group {group}", path.display())))
}

fn walk(path: &Path, group: u32, readonly: bool, depth: u32) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mask = if readonly { READ_ONLY } else { READ_WRITE };
    if meta.is_dir() {
        mask |= SET_GID | EXECUTE;
    }
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | mask))?;
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, readonly, depth - 1)?;
        }
    }
    Ok(())
}
