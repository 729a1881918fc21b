//! Users and groups of an image: `/etc/passwd` and `/etc/group` of its layers,
//! read without following links out of them. It changes nobody's identity.

use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::runtime::Security;

/// Longest user or group file read, bytes; what is beyond counts as absent.
const MAX_FILE: u64 = 4 << 20;

/// Most supplementary groups: the kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Supplementary groups in ascending order, after the primary one if it is
    /// not one of them.
    pub(crate) groups: Vec<u32>,
    /// Home directory.
    pub(crate) home: String,
}

/// Reads `path` from the topmost layer that has it. `layers` are the lowest
/// first.
fn read(layers_dir: &Path, layers: &[String], path: &str) -> io::Result<String> {
    for layer in layers.iter().rev() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, layers_dir.join(layer), flags, Mode::empty())?;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let handle = match openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(handle) => handle,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&handle)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            // A whiteout, or something that is no list of users.
            return Ok(String::new());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = std::fs::File::from(openat2(&root, path, flags, Mode::empty(), resolve)?);
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(String::new())
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(User { name, uid, gid, home })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or_default() })
    })
}

/// An id by number. Digits that are no id (too large) are an error and never
/// looked up as a name: they would end up as root.
fn number(text: &str) -> Option<Result<u32, String>> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(|| format!("id {text} is out of range")))
}

/// Who a container runs as: what `security` asks for, else the image's `user`.
/// Errors are for the user.
pub(crate) fn resolve(
    layers_dir: &Path,
    layers: &[String],
    security: &Security,
    image_user: &str,
) -> Result<Identity, String> {
    let file =
        |path: &str| read(layers_dir, layers, path).map_err(|error| format!("read {path} of the image: {error}"));
    resolve_in(&file("etc/passwd")?, || file("etc/group"), security, image_user)
}

fn resolve_in(
    passwd: &str,
    group: impl Fn() -> Result<String, String>,
    security: &Security,
    image_user: &str,
) -> Result<Identity, String> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let by_uid = |uid: u32| users(passwd).find(|user| user.uid == uid);
    let by_name = |name: &str| {
        let user = users(passwd).find(|user| user.name == name);
        user.ok_or_else(|| format!("unable to find user {name}: no matching entries in passwd file"))
    };
    let (uid, user, asked_group) = match (security.uid, security.username.as_deref().filter(|name| !name.is_empty())) {
        (Some(uid), _) => (uid, by_uid(uid), ""),
        (None, Some(name)) => {
            let user = by_name(name)?;
            (user.uid, Some(user), "")
        }
        (None, None) if image_name.is_empty() => (0, by_uid(0), image_group),
        (None, None) => match number(image_name) {
            Some(uid) => {
                let uid = uid?;
                (uid, by_uid(uid), image_group)
            }
            None => {
                let user = by_name(image_name)?;
                (user.uid, Some(user), image_group)
            }
        },
    };
    let gid = match (security.gid, asked_group) {
        (Some(gid), _) => gid,
        (None, "") => user.as_ref().map_or(0, |user| user.gid),
        (None, name) => match number(name) {
            Some(gid) => gid?,
            None => {
                let text = group()?;
                let found = groups(&text).find(|group| group.name == name).map(|group| group.gid);
                found.ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))?
            }
        },
    };
    let mut all = std::collections::BTreeSet::new();
    if let (Some(user), false) = (&user, security.strict_supplemental_groups) {
        let text = group()?;
        let of_user = groups(&text).filter(|group| group.members.split(',').any(|member| member == user.name));
        all.extend(of_user.map(|group| group.gid));
    }
    all.extend(&security.supplemental_groups);
    let primary = (!all.contains(&gid)).then_some(gid);
    let groups: Vec<u32> = primary.into_iter().chain(all).collect();
    if groups.len() > MAX_GROUPS {
        return Err(format!("more than {MAX_GROUPS} groups"));
    }
    let home = user.map(|user| user.home).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(Identity { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n12:x:0:0::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nmore:x:5000:app\nothers:x:5001:x,app,y\n";

    fn check(security: Security, image_user: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let identity = resolve_in(PASSWD, || Ok(GROUP.to_owned()), &security, image_user)?;
        Ok((identity.uid, identity.gid, identity.groups))
    }

    #[test]
    fn users_and_groups_come_from_the_request_then_the_image() {
        let uid = |uid| Security { uid: Some(uid), ..Security::default() };
        assert_eq!(check(Security::default(), ""), Ok((0, 0, vec![0])));
        assert_eq!(check(Security::default(), "app"), Ok((1000, 1001, vec![1001, 5000, 5001])));
        assert_eq!(check(Security::default(), "1000:5000"), Ok((1000, 5000, vec![5000, 5001])));
        assert_eq!(check(Security::default(), "app:more"), Ok((1000, 5000, vec![5000, 5001])));
        assert_eq!(check(uid(1000), "root"), Ok((1000, 1001, vec![1001, 5000, 5001])));
        assert_eq!(check(uid(77), "app"), Ok((77, 0, vec![0])));
        let strict = Security { strict_supplemental_groups: true, supplemental_groups: vec![9], ..uid(1000) };
        assert_eq!(check(strict, ""), Ok((1000, 1001, vec![1001, 9])));
        let asked = |groups: &[u32]| Security { supplemental_groups: groups.to_vec(), ..uid(1000) };
        assert_eq!(check(asked(&[6000, 4000]), ""), Ok((1000, 1001, vec![1001, 4000, 5000, 5001, 6000])));
        assert_eq!(check(asked(&[1001, 4000, 7]), ""), Ok((1000, 1001, vec![7, 1001, 4000, 5000, 5001])));
    }

    #[test]
    fn a_user_that_is_no_id_is_refused_and_never_becomes_root() {
        for user in ["4294967296", "4294967295", "nobody", "app:4294967296", "app:none"] {
            assert!(check(Security::default(), user).is_err(), "{user}");
        }
        assert_eq!(check(Security::default(), "12"), Ok((12, 0, vec![0])));
    }
}
