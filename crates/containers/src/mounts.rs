//! Mounts of the machine that the node agent needs around containers: file
//! systems in memory, and parts of a volume bound to a place of their own. What
//! happens inside a container's namespace is not done here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

/// Deepest sub-path that is made.
const MAX_DEPTH: usize = 256;

/// Mounts a tmpfs on an existing directory, open to all (mode 0777), with at
/// most this many bytes. Needs `CAP_SYS_ADMIN`.
pub fn tmpfs(path: &Path, limit_bytes: Option<u64>) -> io::Result<()> {
    let mut options = String::from("mode=0777");
    if let Some(bytes) = limit_bytes {
        options.push_str(&format!(",size={bytes}"));
    }
    let options = CString::new(options)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
    Ok(())
}

/// Whether something is mounted exactly there.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    Ok(mount_points()?.contains(&path))
}

/// Mount points of this process' namespace, in the order of their making.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field))).collect())
}

/// The kernel writes blanks and backslashes as octal numbers.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                text.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

/// Lets mounts that appear below this existing directory travel to those that
/// bind it: it becomes a shared mount, unless it lies on one. Needs
/// `CAP_SYS_ADMIN`; [`unmount_below`] takes a mount made here down.
pub fn share(path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    match mount_of(&table, &path) {
        Some((_, true)) => return Ok(()),
        Some((point, false)) if point == path => {}
        _ => rustix::mount::mount_bind(&path, &path)?,
    }
    rustix::mount::mount_change(&path, MountPropagationFlags::SHARED)?;
    Ok(())
}

/// The mount that a path lies on, and whether it is a shared one.
fn mount_of(table: &str, path: &Path) -> Option<(PathBuf, bool)> {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = PathBuf::from(unescape(fields.nth(4)?));
        let shared = fields.take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
        path.starts_with(&point).then_some((point, shared))
    });
    // Of equal points, the one mounted last is on top.
    mounts.max_by_key(|(point, _)| point.components().count())
}

/// Takes down every mount at or below this path, the latest first. Busy ones
/// are detached. Idempotent.
pub fn unmount_below(path: &Path) -> io::Result<()> {
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    for point in mount_points()?.iter().rev().filter(|point| point.starts_with(&path)) {
        match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

fn open_beneath(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(&root, sub, flags, Mode::empty(), resolve)?)
}

/// Makes the directories of `sub` below `root` that are missing. Links are
/// followed only where they stay below `root`.
pub fn make_dir_beneath(root: &Path, sub: &Path, mode: u32) -> io::Result<()> {
    let mut done = PathBuf::from(".");
    for part in sub.components().take(MAX_DEPTH) {
        let Component::Normal(name) = part else { continue };
        let parent = open_beneath(root, &done)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                // Set again: `umask` took bits away.
                let made = rustix::fs::openat(
                    &parent,
                    name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(err) => return Err(err.into()),
        }
        done.push(name);
    }
    Ok(())
}

/// Binds what is at `sub` below `root` to `place`, which is made as a file or
/// directory. Fails if a link leads out of `root`. A bind that is there already
/// is replaced. Needs `CAP_SYS_ADMIN`.
pub fn bind_beneath(root: &Path, sub: &Path, place: &Path) -> io::Result<()> {
    let found = open_beneath(root, sub)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_dir();
    if place.exists() {
        unmount_below(place)?;
    }
    if is_dir {
        std::fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(CWD, place, flags, Mode::from_raw_mode(0o640))?;
    }
    // By its descriptor: the path may lead elsewhere by now.
    let source = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    rustix::mount::mount_bind_recursive(source.as_str(), place)?;
    rustix::mount::mount_change(place, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Space of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size, bytes.
    pub total_bytes: u64,
    /// Free for other users than root, bytes.
    pub available_bytes: u64,
    /// Files it can hold.
    pub total_inodes: u64,
    /// Files it can still take.
    pub free_inodes: u64,
}

/// Space of the file system that this path is on.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let found = rustix::fs::statvfs(path)?;
    Ok(DiskSpace {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_inodes: found.f_files,
        free_inodes: found.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_fields_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/plain"), "/plain");
    }

    #[test]
    fn a_path_lies_on_the_deepest_and_latest_mount() {
        let table = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n\
                     23 22 8:1 / /a rw,relatime - ext4 /dev/a rw\n\
                     24 23 8:1 / /a rw shared:7 master:1 - ext4 /dev/a rw\n\
                     25 22 8:1 / /ab rw - ext4 /dev/a rw\n";
        let on = |path: &str| mount_of(table, Path::new(path)).expect("a mount");
        assert_eq!(on("/x/y"), (PathBuf::from("/"), true));
        assert_eq!(on("/a/b"), (PathBuf::from("/a"), true));
        assert_eq!(on("/ab"), (PathBuf::from("/ab"), false));
    }

    #[test]
    fn directories_are_made_below_the_root_and_never_outside() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("made");
        make_dir_beneath(&root, Path::new("a/b"), 0o777).expect("made");
        assert!(root.join("a/b").is_dir());
        std::os::unix::fs::symlink("/tmp", root.join("out")).expect("linked");
        assert!(make_dir_beneath(&root, Path::new("out/x"), 0o777).is_err());
    }
}
