//! A container's file tree: overlay root, `/proc`, `/dev`, `/sys`, cgroups,
//! bind mounts, hidden and read-only paths. Runs in the container's new mount
//! namespace; where layers come from is not its matter.
//!
//! Paths inside the container are the container's: every one is resolved by
//! openat2 with the root as its bound and no magic links.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
    move_mount, open_tree, unmount,
};

use super::child::{Failed, Inherited, Step, describe};
use crate::runtime::Propagation;
use crate::spec::{BindMount, ContainerSpec, DeviceNode};
use crate::sys;

/// Links followed while a mount target is made, as the kernel's own bound.
const MAX_LINKS: usize = 40;

const SAFE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Standard devices: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The group of terminals, `tty`.
const TERMINAL_GROUP: u32 = 5;

/// Links in `/dev`.
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the tree and moves the process into it.
pub(super) fn build(spec: &ContainerSpec, inherited: &Inherited<'_>) -> Result<(), Failed> {
    // Everything of the machine is picked up first, as detached trees, while
    // its paths still exist.
    let mut binds = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let tree = if mount.layers.is_empty() {
            pick_up(mount, inherited.users)?
        } else {
            pick_up_image(spec, mount, inherited.users)?
        };
        binds.push((mount, tree));
    }
    let mut cgroups = Vec::with_capacity(spec.cgroups_v1.len());
    for (name, path) in &spec.cgroups_v1 {
        cgroups.push((name.as_str(), tree(path).step(|| format!("pick up cgroup {}", path.display()))?));
    }
    if let (Some(unified), false) = (&spec.unified, spec.cgroup_v2_only) {
        cgroups.push(("unified", tree(unified).step(|| format!("pick up cgroup {}", unified.display()))?));
    }
    let host_shm = if spec.own_ipc { None } else { tree(Path::new("/dev/shm")).ok() };
    let shm = match (inherited.shm, host_shm) {
        (_, Some(host)) => Some(host),
        (Some(shared), None) => clone_detached(shared),
        (None, None) => None,
    };
    let root = overlay(spec, inherited.users)?;
    become_root(root.as_fd(), &spec.writable).step(|| "enter the root file system".to_owned())?;
    let root = root_handle(spec)?;
    mount_at(&root, "/proc", new_mount("proc", &[], SAFE))?;
    devices(&root, spec)?;
    mount_at(&root, "/dev/shm", shm.map_or_else(private_shm, Ok))?;
    let sys_flags = if spec.privileged { SAFE } else { SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY };
    mount_at(&root, "/sys", new_mount("sysfs", &[], sys_flags))?;
    cgroup_mounts(&root, spec, cgroups)?;
    for (mount, tree) in binds {
        place(&root, mount, &tree)?;
    }
    // A working directory that the image lacks is made, by root.
    if !spec.process.cwd.is_empty() {
        target(&root, &spec.process.cwd, true).step(|| format!("make working directory {:?}", spec.process.cwd))?;
    }
    Ok(())
}

/// What must come last: hides paths and closes the root for writing.
pub(super) fn finish(spec: &ContainerSpec) -> Result<(), Failed> {
    let root = root_handle(spec)?;
    for path in &spec.readonly_paths {
        read_only(&root, path).step(|| format!("make {path} read-only"))?;
    }
    mask(&root, &spec.masked_paths)?;
    if spec.readonly_rootfs {
        let made = sys::mount_setattr(root.dir.as_fd(), false, sys::ATTR_RDONLY, 0);
        made.step(|| "make the root read-only".to_owned())?;
    }
    Ok(())
}

/// Puts the container's terminal at `/dev/console`.
pub(super) fn mount_console(spec: &ContainerSpec, terminal: &OwnedFd) -> Result<(), Failed> {
    let step = || "mount /dev/console".to_owned();
    let name = rustix::termios::ttyname(terminal, Vec::new()).step(step)?;
    let tree = open_tree(CWD, name, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).step(step)?;
    let root = root_handle(spec)?;
    let place = target(&root, "/dev/console", false).step(step)?;
    attach(&tree, &place).step(step)
}

/// Makes `root`, a detached mount, the root of this process's mount namespace
/// and lets the old one go. `at` is any existing directory.
pub(crate) fn become_root(root: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    move_mount(root, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// The container's root, and to whom belongs what is made in it.
struct Root {
    dir: OwnedFd,
    /// The machine's user and group that stand for root inside.
    owner: u32,
}

impl Root {
    fn is_mapped(&self) -> bool {
        self.owner != 0
    }

    /// Gives what was made to root inside.
    fn own(&self, parent: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        if !self.is_mapped() {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.owner), rustix::fs::Gid::from_raw(self.owner));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn root_handle(spec: &ContainerSpec) -> Result<Root, Failed> {
    let dir = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open /".to_owned())?;
    Ok(Root { dir, owner: spec.users.map_or(0, |range| range.first) })
}

fn tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

fn clone_detached(mount: &OwnedFd) -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    // TODO-correctness: containers of one sandbox see separate /dev/shm on
    // kernels before 6.15, which can't copy a detached mount, until the shim
    // keeps the tmpfs attached in a mount namespace of its own there.
    open_tree(mount, "", flags).ok()
}

fn private_shm() -> io::Result<OwnedFd> {
    new_mount("tmpfs", &[("mode", "1777"), ("size", "65536k")], SAFE)
}

fn new_mount(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(fs.as_fd(), *key)?;
        } else {
            fsconfig_set_string(fs.as_fd(), *key, *value)?;
        }
    }
    fsconfig_create(fs.as_fd())?;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// The overlay of the layers with the container's writable directory on top.
fn overlay(spec: &ContainerSpec, users: Option<&OwnedFd>) -> Result<OwnedFd, Failed> {
    let step = || format!("mount the root file system of {} layers", spec.layers.len());
    if let Some(range) = spec.users {
        let (uid, gid) = (rustix::fs::Uid::from_raw(range.first), rustix::fs::Gid::from_raw(range.first));
        rustix::fs::chown(spec.writable.join("upper"), Some(uid), Some(gid)).step(step)?;
        // Layers can only be shown under other owners as descriptors (Linux 6.13).
        return new_overlay(spec, true, users).or_else(|_| new_overlay(spec, false, users)).step(step);
    }
    // Volatile: what a container writes does not outlive the machine's
    // uptime, and without it every unmount syncs the whole disk below.
    new_overlay(spec, true, None)
        .or_else(|_| new_overlay(spec, false, None))
        .or_else(|error| legacy_overlay(spec).map_err(|_| error))
        .step(step)
}

/// A copy of `path` as a detached tree, whose owners are shown as the user
/// namespace maps them.
fn mapped_tree(path: &Path, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let tree = tree(path)?;
    if let Some(users) = users {
        sys::map_owners(tree.as_fd(), users.as_fd())?;
    }
    Ok(tree)
}

/// Adds layers below, the topmost first. What is returned must be kept until
/// the file system is made: detached trees end with their descriptors.
fn add_layers(
    fs: &OwnedFd,
    spec: &ContainerSpec,
    layers: &[String],
    users: Option<&OwnedFd>,
) -> io::Result<Vec<OwnedFd>> {
    let mut trees = Vec::new();
    for layer in layers {
        let path = spec.layers_dir.join(layer);
        // One call a layer: no page-size bound on the list (Linux 6.5).
        if users.is_some() {
            let tree = mapped_tree(&path, users)?;
            fsconfig_set_fd(fs.as_fd(), "lowerdir+", tree.as_fd())?;
            trees.push(tree);
        } else {
            fsconfig_set_string(fs.as_fd(), "lowerdir+", path)?;
        }
    }
    Ok(trees)
}

fn new_overlay(spec: &ContainerSpec, volatile: bool, users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
    let layers = add_layers(&fs, spec, &spec.layers, users)?;
    fsconfig_set_string(fs.as_fd(), "upperdir", spec.writable.join("upper"))?;
    fsconfig_set_string(fs.as_fd(), "workdir", spec.writable.join("work"))?;
    if volatile {
        fsconfig_set_flag(fs.as_fd(), "volatile")?;
    }
    fsconfig_create(fs.as_fd())?;
    drop(layers);
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// mount(2) for older kernels: one page of options, kept short by names
/// relative to the layers' directory.
fn legacy_overlay(spec: &ContainerSpec) -> io::Result<OwnedFd> {
    rustix::process::chdir(&spec.layers_dir)?;
    let writable = spec.writable.display();
    let options = format!("lowerdir={},upperdir={writable}/upper,workdir={writable}/work", spec.layers.join(":"));
    // Attached in this namespace only, then picked up again as a detached tree.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(
        "overlay",
        &spec.writable,
        "overlay",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, &spec.writable, flags)?)
}

/// Copies the source of a bind mount as a detached tree with its attributes.
fn pick_up(mount: &BindMount, users: Option<&OwnedFd>) -> Result<OwnedFd, Failed> {
    let step = || format!("mount {} at {}", mount.source.display(), mount.target);
    let tree = mapped_tree(&mount.source, users).step(step)?;
    let propagation = match mount.propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        Propagation::Bidirectional => MountPropagationFlags::SHARED,
    };
    sys::mount_setattr(tree.as_fd(), true, 0, u64::from(propagation.bits())).step(step)?;
    if mount.readonly {
        sys::mount_setattr(tree.as_fd(), mount.recursive_readonly, sys::ATTR_RDONLY, 0).step(step)?;
    }
    Ok(tree)
}

/// Makes what an image holds, or a part of it, a detached tree that can be
/// neither written nor executed.
fn pick_up_image(spec: &ContainerSpec, mount: &BindMount, users: Option<&OwnedFd>) -> Result<OwnedFd, Failed> {
    let step = || format!("mount an image at {}", mount.target);
    let all = image_tree(spec, &mount.layers, users).step(step)?;
    let sub = mount.sub_path.trim_matches('/');
    let tree = if sub.is_empty() { all } else { part_of(&all, sub, &spec.writable).step(step)? };
    let flags = sys::ATTR_RDONLY | sys::ATTR_NOEXEC;
    sys::mount_setattr(tree.as_fd(), true, flags, u64::from(MountPropagationFlags::PRIVATE.bits())).step(step)?;
    Ok(tree)
}

fn image_tree(spec: &ContainerSpec, layers: &[String], users: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    // The kernel makes no overlay of one layer without a writable one.
    if let [only] = layers {
        return mapped_tree(&spec.layers_dir.join(only), users);
    }
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "overlay")?;
    let layers = add_layers(&fs, spec, layers, users)?;
    fsconfig_create(fs.as_fd())?;
    drop(layers);
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// A part of a detached tree as one of its own. Links are followed within the
/// tree. `at` is any existing directory.
fn part_of(all: &OwnedFd, sub: &str, at: &Path) -> io::Result<OwnedFd> {
    // Attached for a moment, in this namespace only: older kernels copy no
    // detached tree.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    move_mount(all, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let part = open_in(all, sub, OFlags::empty()).map_err(io::Error::from).and_then(|found| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(open_tree(&found, "", flags)?)
    });
    unmount(at, UnmountFlags::DETACH)?;
    part
}

fn place(root: &Root, mount: &BindMount, tree: &OwnedFd) -> Result<(), Failed> {
    let step = || format!("mount {} at {}", mount.source.display(), mount.target);
    let stat = rustix::fs::fstat(tree).step(step)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let place = target(root, &mount.target, directory).step(step)?;
    attach(tree, &place).step(step)
}

fn attach(tree: impl AsFd, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", place, "", flags)?)
}

fn mount_at(root: &Root, path: &str, mount: io::Result<OwnedFd>) -> Result<(), Failed> {
    let step = || format!("mount {path}");
    let mount = mount.step(step)?;
    let place = target(root, path, true).step(step)?;
    attach(&mount, &place).step(step)
}

fn open_inside(root: &Root, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open_in(&root.dir, path, flags)
}

fn open_in(root: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Opens `path` inside the root, making it (and its parents) if missing.
/// Links, dangling ones too, are followed within the root.
fn target(root: &Root, path: &str, directory: bool) -> io::Result<OwnedFd> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open_inside(root, &path, OFlags::empty()) {
            Ok(found) => return Ok(found),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match make_missing(root, &path, directory)? {
            None => return Ok(open_inside(root, &path, OFlags::empty())?),
            Some(instead) => path = instead,
        }
    }
    Err(Errno::LOOP.into())
}

/// Makes the missing components of `path`. When one is a dangling link,
/// returns the path that it stands for.
fn make_missing(root: &Root, path: &str, directory: bool) -> io::Result<Option<String>> {
    let components: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let mut parent_path = String::from("/");
    let mut parent = open_inside(root, "/", OFlags::DIRECTORY)?;
    for (index, component) in components.iter().enumerate() {
        let last = index + 1 == components.len();
        let here = format!("{}/{component}", parent_path.trim_end_matches('/'));
        match open_inside(root, &here, OFlags::empty()) {
            Ok(next) => parent = next,
            Err(Errno::NOENT) if *component != ".." => {
                let made = if last && !directory {
                    mknodat(&parent, *component, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
                } else {
                    mkdirat(&parent, *component, Mode::from_raw_mode(0o755))
                };
                match made {
                    Ok(()) => {
                        root.own(&parent, component)?;
                        parent = open_inside(root, &here, OFlags::empty())?;
                    }
                    Err(Errno::EXIST) => {
                        let link = rustix::fs::readlinkat(&parent, *component, Vec::new())?;
                        let link = link.to_str().map_err(|_| Errno::ILSEQ)?.to_owned();
                        let rest = components[index + 1..].join("/");
                        let base = if link.starts_with('/') { String::new() } else { format!("{parent_path}/") };
                        return Ok(Some(format!("{base}{link}/{rest}").trim_end_matches('/').to_owned()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        parent_path = here;
    }
    Ok(None)
}

fn devices(root: &Root, spec: &ContainerSpec) -> Result<(), Failed> {
    let owner = root.owner.to_string();
    let options = [("mode", "755"), ("size", "65536k"), ("uid", owner.as_str()), ("gid", owner.as_str())];
    mount_at(root, "/dev", new_mount("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID))?;
    let dev = open_inside(root, "/dev", OFlags::DIRECTORY).step(|| "open /dev".to_owned())?;
    for (name, link) in DEVICE_LINKS {
        let made = rustix::fs::symlinkat(link, &dev, name).and_then(|()| root.own(&dev, name));
        made.step(|| format!("link /dev/{name}"))?;
    }
    for (name, major, minor) in DEVICES {
        let device =
            DeviceNode { path: format!("/dev/{name}"), block: false, major, minor, mode: 0o666, uid: 0, gid: 0 };
        make_device(root, &device)?;
    }
    for device in &spec.devices {
        make_device(root, device)?;
    }
    let terminals = root.owner.saturating_add(TERMINAL_GROUP).to_string();
    let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount_at(root, "/dev/pts", new_mount("devpts", &options, flags))?;
    if spec.own_ipc {
        mount_at(root, "/dev/mqueue", new_mount("mqueue", &[], SAFE))?;
    }
    Ok(())
}

fn make_device(root: &Root, device: &DeviceNode) -> Result<(), Failed> {
    let step = || format!("make device {}", device.path);
    let (dir, name) = device.path.rsplit_once('/').ok_or_else(|| Failed(format!("device path {:?}", device.path)))?;
    let parent = target(root, if dir.is_empty() { "/" } else { dir }, true).step(step)?;
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(&parent, name, kind, mode, rustix::fs::makedev(device.major, device.minor)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error).step(step),
    }
    // The umask took bits away.
    rustix::fs::chmodat(&parent, name, mode, rustix::fs::AtFlags::empty()).step(step)?;
    let inside = |id: u32| root.owner.saturating_add(id);
    if (inside(device.uid), inside(device.gid)) != (0, 0) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(inside(device.uid)), rustix::fs::Gid::from_raw(inside(device.gid)));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).step(step)?;
    }
    Ok(())
}

fn cgroup_mounts(root: &Root, spec: &ContainerSpec, trees: Vec<(&str, OwnedFd)>) -> Result<(), Failed> {
    let read_only = if spec.privileged { 0 } else { sys::ATTR_RDONLY };
    let attributes = sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC | read_only;
    if spec.cgroup_v2_only {
        let mut flags = SAFE;
        if !spec.privileged {
            flags |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        return mount_at(root, "/sys/fs/cgroup", new_mount("cgroup2", &[], flags));
    }
    mount_at(root, "/sys/fs/cgroup", new_mount("tmpfs", &[("mode", "755")], SAFE))?;
    for (name, tree) in trees {
        let step = || format!("mount cgroup {name}");
        sys::mount_setattr(tree.as_fd(), false, attributes, 0).step(step)?;
        let place = target(root, &format!("/sys/fs/cgroup/{name}"), true).step(step)?;
        attach(&tree, &place).step(step)?;
    }
    let top = open_inside(root, "/sys/fs/cgroup", OFlags::DIRECTORY).step(|| "open /sys/fs/cgroup".to_owned())?;
    sys::mount_setattr(top.as_fd(), false, attributes, 0).step(|| "close /sys/fs/cgroup".to_owned())
}

/// Mounts a path over itself, read-only. Absent paths need nothing.
fn read_only(root: &Root, path: &str) -> io::Result<()> {
    let place = match open_inside(root, path, OFlags::empty()) {
        Ok(place) => place,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(&place, "", flags)?;
    sys::mount_setattr(tree.as_fd(), true, sys::ATTR_RDONLY, 0)?;
    attach(&tree, &place)
}

/// Hides files behind `/dev/null` and directories behind one empty tmpfs.
fn mask(root: &Root, paths: &[String]) -> Result<(), Failed> {
    let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let step = || format!("hide {path}");
        let place = match open_inside(root, path, OFlags::empty()) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(error) => return Err(Failed(format!("{}: {}", step(), describe(&error.into())))),
        };
        let stat = rustix::fs::fstat(&place).step(step)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let tree = match &empty {
                // A copy of the first one: it is attached, so it can be copied.
                Some(first) => open_tree(first, "", copy).step(step)?,
                None => {
                    let flags = SAFE | MountAttrFlags::MOUNT_ATTR_RDONLY;
                    new_mount("tmpfs", &[("size", "0"), ("nr_inodes", "1")], flags).step(step)?
                }
            };
            attach(&tree, &place).step(step)?;
            empty.get_or_insert(tree);
        } else {
            let null = open_inside(root, "/dev/null", OFlags::empty()).step(step)?;
            let tree = open_tree(&null, "", copy).step(step)?;
            attach(&tree, &place).step(step)?;
        }
    }
    Ok(())
}
