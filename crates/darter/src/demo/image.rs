//! The demo's image, made of files at hand: this program and the libraries it
//! is linked with. A docker-archive file, like `docker save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

/// What the manifest calls the image.
pub(super) const REFERENCE: &str = "localhost/darter-demo:1";

/// Largest library that is taken into the image, bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Writes the archive; its layer lies beside it meanwhile.
pub(super) fn write(path: &Path) -> io::Result<()> {
    let layer = path.with_extension("layer");
    let libraries = mapped_libraries()?;
    let entrypoint = write_layer(&layer, &libraries)?;
    let digest = sha256(&layer)?;
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": entrypoint, "Cmd": ["demo-app"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "darter demo"}],
    })
    .to_string();
    let manifest = json!([{"Config": "config.json", "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(File::create(path)?);
    append(&mut archive, "config.json", config.as_bytes(), 0o644)?;
    archive.append_path_with_name(&layer, "layer.tar")?;
    append(&mut archive, "manifest.json", manifest.as_bytes(), 0o644)?;
    archive.into_inner()?.flush()?;
    std::fs::remove_file(layer)
}

/// The shared objects in this process's memory, by file name; a static build
/// has none.
fn mapped_libraries() -> io::Result<BTreeMap<String, PathBuf>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut libraries = BTreeMap::new();
    for line in maps.lines() {
        let Some(at) = line.find('/') else { continue };
        let path = Path::new(&line[at..]);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.contains(".so") {
            libraries.insert(name.to_owned(), path.to_path_buf());
        }
    }
    Ok(libraries)
}

/// Returns the entrypoint: the program, behind its loader if it has one. The
/// loader is named because its usual path differs between distributions.
fn write_layer(path: &Path, libraries: &BTreeMap<String, PathBuf>) -> io::Result<Vec<String>> {
    let mut layer = tar::Builder::new(File::create(path)?);
    for folder in ["bin/", "lib/", "etc/", "tmp/"] {
        let mut header = owned_by_root();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if folder == "tmp/" { 0o1777 } else { 0o755 });
        header.set_size(0);
        layer.append_data(&mut header, folder, io::empty())?;
    }
    append(
        &mut layer,
        "etc/passwd",
        b"root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        0o644,
    )?;
    append_file(&mut layer, "bin/darter", Path::new("/proc/self/exe"))?;
    let mut entrypoint = vec!["/bin/darter".to_owned()];
    for (name, file) in libraries {
        append_file(&mut layer, &format!("lib/{name}"), file)?;
        if name.starts_with("ld-") || name.starts_with("ld.") {
            entrypoint = vec![format!("/lib/{name}"), "--library-path".into(), "/lib".into(), "/bin/darter".into()];
        }
    }
    layer.into_inner()?.flush()?;
    Ok(entrypoint)
}

fn append(archive: &mut tar::Builder<File>, name: &str, data: &[u8], mode: u32) -> io::Result<()> {
    let mut header = owned_by_root();
    header.set_mode(mode);
    header.set_size(data.len() as u64);
    archive.append_data(&mut header, name, data)
}

fn append_file(archive: &mut tar::Builder<File>, name: &str, path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("{} has {size} bytes, too many for the demo's image", path.display())));
    }
    let mut header = owned_by_root();
    header.set_mode(0o755);
    header.set_size(size);
    archive.append_data(&mut header, name, file)
}

/// A header that says whose a file is; the crate leaves those fields empty.
fn owned_by_root() -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_names_this_program_and_its_layer_has_the_digest_it_claims() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        write(&path).unwrap();
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let (mut claimed, mut found) = (String::new(), String::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            if name == "config.json" {
                let config: serde_json::Value = serde_json::from_slice(&data).unwrap();
                claimed = config["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
            } else if name == "layer.tar" {
                found = format!(
                    "sha256:{}",
                    Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
                );
                let mut layer = tar::Archive::new(data.as_slice());
                assert!(
                    layer.entries().unwrap().any(|entry| entry.unwrap().path().unwrap() == Path::new("bin/darter"))
                );
            }
        }
        assert_eq!(claimed, found);
        assert!(!found.is_empty());
    }
}
