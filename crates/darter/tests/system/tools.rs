//! Programs that tests drive and images are made of: Debian's packages,
//! unpacked into a folder of the build and never installed on the machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{run, succeed};

/// kubectl of the release whose API is served. `DARTER_TEST_KUBECTL` names one
/// that is there already.
pub fn kubectl() -> PathBuf {
    match std::env::var_os("DARTER_TEST_KUBECTL") {
        Some(path) => PathBuf::from(path),
        None => Sid::open().program("kubectl", "usr/bin/kubectl"),
    }
}

/// The registry of the distribution project.
pub fn docker_registry() -> PathBuf {
    Sid::open().program("docker-registry", "usr/bin/docker-registry")
}

/// A layer's tar file with these packages and all that they depend on, made
/// once. Packages are unpacked, not configured: accounts are what `etc/passwd`
/// here says, and folders that scripts would make are made here.
pub fn layer(name: &str, packages: &[&str]) -> PathBuf {
    let sid = Sid::open();
    let layer = sid.folder.join(format!("{name}.tar"));
    if layer.exists() {
        return layer;
    }
    let root = sid.folder.join(name);
    sid.unpack(&root, packages);
    for folder in ["run", "tmp", "root", "var/log/nginx"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/\nnobody:x:65534:65534:nobody:/:/\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    for unused in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"] {
        std::fs::remove_dir_all(root.join(unused)).ok();
    }
    let unfinished = layer.with_extension("unfinished");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    succeed(tar.arg("--file").arg(&unfinished).arg("--directory").arg(&root).arg("."));
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::rename(&unfinished, &layer).unwrap();
    layer
}

/// Debian's unstable release, in a folder that one process uses at a time.
struct Sid {
    folder: PathBuf,
    _lock: File,
}

impl Sid {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sid");
        for part in ["lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let lock = File::create(folder.join("lock")).unwrap();
        lock.lock().unwrap();
        Self { folder, _lock: lock }
    }

    /// A file of a package that needs no more of Debian than its C library.
    fn program(&self, package: &str, file: &str) -> PathBuf {
        let root = self.folder.join("root");
        let wanted = root.join(file);
        if wanted.exists() {
            return wanted;
        }
        let download = self.folder.join("download");
        std::fs::remove_dir_all(&download).ok();
        std::fs::create_dir(&download).unwrap();
        self.fetch(&download, &["download", package]);
        for entry in std::fs::read_dir(&download).unwrap() {
            succeed(Command::new("dpkg-deb").arg("-x").arg(entry.unwrap().path()).arg(&root));
        }
        assert!(wanted.exists(), "the package {package} has no {file}");
        wanted
    }

    /// Makes a root of these packages and of all that they depend on.
    fn unpack(&self, root: &Path, packages: &[&str]) {
        let files = self.with_dependencies(packages);
        std::fs::remove_dir_all(root).ok();
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for merged in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{merged}"), root.join(merged)).unwrap();
        }
        for file in files {
            succeed(Command::new("dpkg-deb").arg("-x").arg(file).arg(root));
        }
    }

    /// The package files of these packages and of all that they depend on.
    fn with_dependencies(&self, packages: &[&str]) -> Vec<PathBuf> {
        let install = ["install", "--yes", "--no-install-recommends"];
        let fetched = self.fetch(&self.folder, &[&install[..], &["--download-only"], packages].concat());
        assert!(fetched.is_empty(), "{fetched}");
        // What would have to be downloaded is asked of an empty cache.
        let empty = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(empty.path().join("archives/partial")).unwrap();
        let cache = format!("Dir::Cache::archives={}", empty.path().join("archives").display());
        let listed = self.fetch(&self.folder, &[&["-o", &cache], &install[..], &["--print-uris"], packages].concat());
        let names = listed.lines().filter_map(|line| line.split_whitespace().nth(1));
        names.map(|name| self.folder.join("cache/archives").join(name)).collect()
    }

    /// Runs apt-get; if it fails, once more with fresh lists of packages.
    fn fetch(&self, folder: &Path, words: &[&str]) -> String {
        let known = self.folder.join("updated");
        if known.exists() {
            let output = run(&mut self.apt(folder, words));
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
        }
        let sources = format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} sid main\n", mirror());
        std::fs::write(self.folder.join("sources.list"), sources).unwrap();
        succeed(&mut self.apt(folder, &["update"]));
        std::fs::write(known, "").unwrap();
        succeed(&mut self.apt(folder, words))
    }

    fn apt(&self, folder: &Path, words: &[&str]) -> Command {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new("apt-get");
        command.current_dir(folder).arg("-qq");
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", at("cache")),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.args(words);
        command
    }
}

/// The package mirror that this machine is set up with.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.map(|entry| entry.unwrap().path()));
    }
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let addresses = text.split_whitespace().filter(|word| word.starts_with("http"));
        for address in addresses {
            if address.trim_end_matches('/').ends_with("/debian") {
                return address.to_owned();
            }
        }
    }
    panic!("no Debian package mirror in /etc/apt")
}
