//! From what was asked for to what is run: command, environment, identity,
//! rights, mounts. A function of the request, the image and the machine;
//! nothing is changed here.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::Inner;
use super::record::SandboxRecord;
use crate::capability;
use crate::cgroup::DeviceRule;
use crate::identity;
use crate::image::ImageConfig;
use crate::image::store::ImageRecord;
use crate::runtime::{ContainerConfig, Device, NamespaceMode, Propagation, RuntimeError, Seccomp};
use crate::seccomp::{self, SeccompError};
use crate::spec::{BindMount, ContainerSpec, DeviceNode, ProcessSpec};

/// `PATH` of an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from containers unless they say otherwise.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only in containers unless they say otherwise.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Files of the sandbox that containers see, by name in its directory.
const SANDBOX_FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

/// Most device nodes taken over from the machine's `/dev`.
const MAX_DEVICES: usize = 4096;

const CAP_SYS_RESOURCE: u32 = 24;

/// What a container comes out as.
pub(super) struct Resolved {
    pub(super) spec: ContainerSpec,
    pub(super) devices: Vec<DeviceRule>,
    pub(super) stop_signal: i32,
    pub(super) stop_signal_name: String,
}

/// Where a container's things are.
pub(super) struct Places<'a> {
    /// The sandbox's state directory.
    pub(super) sandbox_dir: &'a Path,
    /// Relative to the hierarchies' roots.
    pub(super) cgroup: &'a str,
    /// The container's writable layer.
    pub(super) writable: &'a Path,
}

fn invalid(field: &str, reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Invalid { field: field.to_owned(), reason: reason.into() }
}

/// Without CAP_SYS_RESOURCE, nothing below our own value can be set.
pub(super) fn oom_score_floor(capabilities: u64) -> Option<i64> {
    if capabilities & (1 << CAP_SYS_RESOURCE) != 0 {
        return None;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    tracing::warn!(floor = own, "no CAP_SYS_RESOURCE: lower oom_score_adj values are raised to our own");
    Some(own)
}

impl Inner {
    pub(super) fn resolve(
        &self,
        sandbox: &SandboxRecord,
        image: &ImageRecord,
        config: &ContainerConfig,
        places: &Places<'_>,
    ) -> Result<Resolved, RuntimeError> {
        let Places { sandbox_dir, cgroup, writable } = *places;
        let security = &config.security;
        let layers_dir = self.images.layers_dir();
        let user = identity::resolve(&layers_dir, &image.layers, security, &image.config.user);
        let user = user.map_err(|reason| invalid("user", reason))?;
        let capabilities = capability::sets(
            security.privileged,
            &security.add_capabilities,
            &security.drop_capabilities,
            self.capabilities,
        )
        .map_err(|name| invalid("capabilities", format!("unknown capability {name:?}")))?;
        let (signal_name, stop_signal) = stop_signal(config, &image.config)?;
        let adjustment = config.resources.oom_score_adj;
        let process = ProcessSpec {
            args: command(config, &image.config)?,
            env: environment(config, &image.config, &sandbox.config.hostname, &user.home)?,
            cwd: working_directory(config, &image.config),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            capabilities,
            no_new_privileges: security.no_new_privileges,
            seccomp: self.seccomp_program(config, capabilities.bounding)?,
            oom_score_adj: adjustment.map(|value| self.oom_score_floor.map_or(value, |floor| value.max(floor))),
            tty: config.tty,
        };
        let (devices, rules) = devices(config)?;
        let paths = |asked: &Option<Vec<String>>, default: &[&str]| match asked {
            _ if security.privileged => Vec::new(),
            Some(paths) => paths.clone(),
            None => default.iter().map(|path| (*path).to_owned()).collect(),
        };
        let spec = ContainerSpec {
            layers_dir,
            layers: image.layers.iter().rev().cloned().collect(),
            writable: writable.to_owned(),
            mounts: mounts(config, sandbox_dir, |image| self.layers(image))?,
            devices,
            masked_paths: paths(&security.masked_paths, &MASKED_PATHS),
            readonly_paths: paths(&security.readonly_paths, &READONLY_PATHS),
            readonly_rootfs: security.readonly_rootfs,
            privileged: security.privileged,
            own_network: sandbox.config.network != NamespaceMode::Node,
            own_pid: sandbox.config.pid != NamespaceMode::Node,
            own_ipc: sandbox.config.ipc != NamespaceMode::Node,
            cgroups_v1: self.cgroups.v1(cgroup),
            unified: self.cgroups.unified(cgroup),
            cgroup_v2_only: self.cgroups.v2_only(),
            users: sandbox.config.users,
            process,
        };
        Ok(Resolved { spec, devices: rules, stop_signal, stop_signal_name: signal_name })
    }
}

impl Inner {
    /// Layers of an image, the topmost first.
    fn layers(&self, image: &str) -> Result<Vec<String>, RuntimeError> {
        let missing = || RuntimeError::NotFound { what: "image", id: image.to_owned() };
        let record = self.images.find(image)?.ok_or_else(missing)?;
        Ok(record.layers.iter().rev().cloned().collect())
    }

    /// The file with the program of the asked filter; written if it is new.
    fn seccomp_program(&self, config: &ContainerConfig, capabilities: u64) -> Result<Option<PathBuf>, RuntimeError> {
        let unusable = |error: SeccompError| match error {
            SeccompError::Read { path, source } => {
                RuntimeError::Io { step: format!("read seccomp profile {path}"), source }
            }
            error @ SeccompError::Invalid(_) => invalid("seccomp", error.to_string()),
        };
        let (name, profile) = match &config.security.seccomp {
            _ if config.security.privileged => return Ok(None),
            Seccomp::Unconfined => return Ok(None),
            // The list depends on the capabilities alone: one file for each set.
            Seccomp::RuntimeDefault => (format!("default-{capabilities:x}.bpf"), None),
            Seccomp::Localhost(path) => {
                let profile = seccomp::Profile::read(path).map_err(unusable)?;
                let program = profile.compile().map_err(unusable)?;
                (format!("{}.bpf", crate::image::hex(&Sha256::digest(&program))), Some(program))
            }
        };
        let dir = self.state.join("seccomp");
        let path = dir.join(name);
        if !path.exists() {
            let program = match profile {
                Some(program) => program,
                None => seccomp::default_profile(capabilities).compile().map_err(unusable)?,
            };
            let write = || {
                std::fs::create_dir_all(&dir)?;
                let temporary = dir.join(crate::random_hex(8)?);
                std::fs::write(&temporary, &program)?;
                std::fs::rename(&temporary, &path)
            };
            write().map_err(|source| RuntimeError::Io { step: format!("write {}", path.display()), source })?;
        }
        Ok(Some(path))
    }
}

fn command(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, RuntimeError> {
    let mut args = config.command.clone();
    if args.is_empty() {
        args.extend_from_slice(&image.entrypoint);
        args.extend_from_slice(if config.args.is_empty() { &image.cmd } else { &config.args });
    } else {
        args.extend_from_slice(&config.args);
    }
    if args.is_empty() {
        return Err(invalid("command", "no command specified"));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid("command", "contains a zero byte"));
    }
    Ok(args)
}

fn environment(
    config: &ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
    home: &str,
) -> Result<Vec<String>, RuntimeError> {
    let mut all: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str| match all.iter_mut().find(|(have, _)| have == name) {
        Some(entry) => value.clone_into(&mut entry.1),
        None => all.push((name.to_owned(), value.to_owned())),
    };
    if !hostname.is_empty() {
        set("HOSTNAME", hostname);
    }
    if config.tty {
        set("TERM", "xterm");
    }
    for variable in &image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for (name, value) in &config.env {
        set(name, value);
    }
    if !all.iter().any(|(name, _)| name == "HOME") {
        all.push(("HOME".to_owned(), home.to_owned()));
    }
    if all.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(invalid("env", "contains a zero byte"));
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn working_directory(config: &ContainerConfig, image: &ImageConfig) -> String {
    let asked = [&config.working_dir, &image.working_dir].into_iter().find(|dir| !dir.is_empty());
    match asked {
        None => "/".to_owned(),
        Some(dir) if dir.starts_with('/') => dir.clone(),
        Some(dir) => format!("/{dir}"),
    }
}

fn mounts(
    config: &ContainerConfig,
    sandbox_dir: &Path,
    layers_of: impl Fn(&str) -> Result<Vec<String>, RuntimeError>,
) -> Result<Vec<BindMount>, RuntimeError> {
    let mut all = Vec::with_capacity(config.mounts.len() + SANDBOX_FILES.len());
    for (name, target) in SANDBOX_FILES {
        if !config.mounts.iter().any(|mount| mount.container_path == target) {
            all.push(BindMount {
                source: sandbox_dir.join(name),
                layers: Vec::new(),
                sub_path: String::new(),
                target: target.to_owned(),
                readonly: config.security.readonly_rootfs,
                recursive_readonly: false,
                propagation: Propagation::Private,
            });
        }
    }
    for mount in &config.mounts {
        let target = &mount.container_path;
        let bad = !target.starts_with('/') || target.split('/').any(|part| part == "..") || target.contains('\0');
        if bad || target.trim_matches('/').is_empty() {
            return Err(invalid("mounts", format!("{target:?} is no path to mount at")));
        }
        let (layers, sub_path) = match &mount.image {
            Some(source) => (layers_of(&source.image)?, source.sub_path.clone()),
            None => (Vec::new(), String::new()),
        };
        all.push(BindMount {
            source: mount.host_path.clone(),
            target: target.clone(),
            readonly: mount.readonly || mount.image.is_some(),
            recursive_readonly: mount.recursive_readonly,
            propagation: mount.propagation,
            layers,
            sub_path,
        });
    }
    Ok(all)
}

fn devices(config: &ContainerConfig) -> Result<(Vec<DeviceNode>, Vec<DeviceRule>), RuntimeError> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if config.security.privileged {
        machine_devices(Path::new("/dev"), "/dev", &mut nodes)
            .map_err(|source| RuntimeError::Io { step: "list the machine's devices".to_owned(), source })?;
    }
    for Device { container_path, host_path, permissions } in &config.devices {
        let mut found = Vec::new();
        let metadata = std::fs::metadata(host_path)
            .map_err(|source| RuntimeError::Io { step: format!("look at device {}", host_path.display()), source })?;
        if metadata.is_dir() {
            machine_devices(host_path, container_path, &mut found)
                .map_err(|source| RuntimeError::Io { step: format!("list {}", host_path.display()), source })?;
        } else {
            let node = device_node(&metadata, container_path);
            found.push(node.ok_or_else(|| invalid("devices", format!("{} is not a device", host_path.display())))?);
        }
        for node in found {
            rules.push(DeviceRule {
                block: node.block,
                major: Some(node.major),
                minor: Some(node.minor),
                access: if permissions.is_empty() { "rwm".to_owned() } else { permissions.clone() },
            });
            nodes.push(node);
        }
    }
    Ok((nodes, rules))
}

fn device_node(metadata: &std::fs::Metadata, path: &str) -> Option<DeviceNode> {
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceNode {
        path: path.to_owned(),
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn machine_devices(dir: &Path, inside: &str, found: &mut Vec<DeviceNode>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{inside}/{name}");
        let metadata = entry.path().symlink_metadata()?;
        if metadata.is_dir() {
            // These are the container's own.
            if !(inside == "/dev" && matches!(name.as_str(), "pts" | "shm" | "fd" | "mqueue")) {
                machine_devices(&entry.path(), &path, found)?;
            }
        } else if path != "/dev/console"
            && let Some(node) = device_node(&metadata, &path)
            && found.len() < MAX_DEVICES
        {
            found.push(node);
        }
    }
    Ok(())
}

fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> Result<(String, i32), RuntimeError> {
    let asked = config.stop_signal.as_deref().unwrap_or(&image.stop_signal);
    let name = if asked.is_empty() { "SIGTERM" } else { asked };
    let number = signal_number(name).ok_or_else(|| invalid("stop_signal", format!("{name:?} is no signal")))?;
    Ok((signal_name(number).unwrap_or_else(|| name.to_owned()), number))
}

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// A signal by number or name (`15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`).
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let real_time = |rest: &str, base: i32, sign: i32| {
        let offset = if rest.is_empty() { 0 } else { rest[1..].parse::<i32>().ok()? };
        let number = base + sign * offset;
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => real_time(rest, libc::SIGRTMIN(), 1),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => real_time(rest, libc::SIGRTMAX(), -1),
        _ => None,
    }
}

fn signal_name(number: i32) -> Option<String> {
    if number >= libc::SIGRTMIN() {
        let offset = number - libc::SIGRTMIN();
        return Some(if offset == 0 { "SIGRTMIN".to_owned() } else { format!("SIGRTMIN+{offset}") });
    }
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| format!("SIG{name}"))
}

/// Bytes and inodes of a tree, hard links once. Absent counts as empty.
pub(super) fn disk_usage(path: &Path) -> io::Result<(u64, u64)> {
    let mut seen = BTreeSet::new();
    let mut total = (0, 0);
    let mut left = vec![path.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            // Files come and go while they are counted.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let Ok(metadata) =
                entry.as_ref().map_err(|_| ()).and_then(|entry| entry.path().symlink_metadata().map_err(|_| ()))
            else {
                continue;
            };
            if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            total.0 += metadata.blocks() * 512;
            total.1 += 1;
            if metadata.is_dir()
                && let Ok(entry) = entry
            {
                left.push(entry.path());
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_number_and_name() {
        for (text, number) in [
            ("15", Some(15)),
            ("term", Some(15)),
            ("SIGQUIT", Some(3)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX", Some(64)),
            ("NONE", None),
            ("0", None),
            ("SIGRTMIN-1", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }

    #[test]
    fn command_and_arguments_replace_the_images_as_in_a_pod() {
        let image = ImageConfig { entrypoint: vec!["e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        let run = |command: &[&str], args: &[&str]| {
            let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            let config = ContainerConfig { command: own(command), args: own(args), ..ContainerConfig::default() };
            super::command(&config, &image).map_err(|_| ())
        };
        assert_eq!(run(&[], &[]), Ok(vec!["e".into(), "c".into()]));
        assert_eq!(run(&["x"], &[]), Ok(vec!["x".into()]));
        assert_eq!(run(&[], &["a"]), Ok(vec!["e".into(), "a".into()]));
        assert_eq!(run(&["x"], &["a"]), Ok(vec!["x".into(), "a".into()]));
    }
}
