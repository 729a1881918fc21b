//! Clients that tests drive, from Debian's packages, unpacked into a folder of
//! the build and never installed on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::succeed;

/// kubectl of the release whose API is served. `DARTER_TEST_KUBECTL` names one
/// that is there already.
pub fn kubectl() -> PathBuf {
    match std::env::var_os("DARTER_TEST_KUBECTL") {
        Some(path) => PathBuf::from(path),
        None => from_sid("kubectl", "usr/bin/kubectl"),
    }
}

/// A file of a package of Debian's unstable release.
fn from_sid(package: &str, file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sid");
    let wanted = folder.join("root").join(file);
    if wanted.exists() {
        return wanted;
    }
    std::fs::create_dir_all(folder.join("lists/partial")).unwrap();
    std::fs::create_dir_all(folder.join("cache/archives/partial")).unwrap();
    let sources = folder.join("sources.list");
    std::fs::write(
        &sources,
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} sid main\n", mirror()),
    )
    .unwrap();
    let options = [
        format!("Dir::Etc::sourcelist={}", sources.display()),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        format!("Dir::State::lists={}", folder.join("lists").display()),
        "Dir::State::status=/dev/null".to_owned(),
        format!("Dir::Cache={}", folder.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&folder).args(["-qq"]);
        for option in &options {
            command.args(["-o", option]);
        }
        succeed(command.args(words));
    };
    apt(&["update"]);
    apt(&["download", package]);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            succeed(Command::new("dpkg").arg("-x").arg(path).arg(folder.join("root")));
        }
    }
    assert!(wanted.exists(), "the package {package} has no {file}");
    wanted
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
    panic!("no Debian package mirror in /etc/apt; set DARTER_TEST_KUBECTL to a kubectl 1.36")
}
