//! Images for tests, made from Debian's static busybox: docker-archive files.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

/// This machine's, in the words of images.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const BUSYBOX: &str = "/bin/busybox";
/// Names under which busybox is found in the image.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "ls", "tar", "wget", "nc", "nslookup", "httpd", "env", "id", "kill", "ps", "mkdir",
    "touch", "true", "false", "hostname", "date", "head", "tail", "test", "seq", "grep", "stat", "rm",
];

/// Writes an image of busybox under this name.
pub fn busybox(folder: &Path, reference: &str, command: &[&str]) -> PathBuf {
    assert!(
        Path::new(BUSYBOX).exists(),
        "{BUSYBOX} is missing; install Debian's busybox-static (`cargo xtask test` does)"
    );
    let mut layer = tar::Builder::new(Vec::new());
    for name in ["bin/", "tmp/", "etc/", "www/"] {
        let mut header = owned_by_root();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if name == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    add(&mut layer, "bin/busybox", &std::fs::read(BUSYBOX).unwrap(), 0o755);
    add(&mut layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644);
    add(&mut layer, "www/index.html", b"hello\n", 0o644);
    for applet in APPLETS {
        let mut header = owned_by_root();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let path = folder.join(format!("{}.tar", reference.replace(['/', ':'], "_")));
    let mut archive = tar::Builder::new(File::create(&path).unwrap());
    add(&mut archive, "config.json", config.to_string().as_bytes(), 0o644);
    add(&mut archive, "layer.tar", &layer, 0o644);
    let manifest = json!([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]);
    add(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    archive.into_inner().unwrap().flush().unwrap();
    path
}

/// A layer with these files, readable by all.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, content) in files {
        add(&mut layer, name, content, 0o644);
    }
    layer.into_inner().unwrap()
}

/// `sha256:…` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn add<W: Write>(archive: &mut tar::Builder<W>, name: &str, data: &[u8], mode: u32) {
    let mut header = owned_by_root();
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    archive.append_data(&mut header, name, data).unwrap();
}

/// A header that says whose a file is; the crate leaves those fields empty.
fn owned_by_root() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
