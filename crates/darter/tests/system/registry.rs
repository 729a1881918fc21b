//! Debian's docker-registry on loopback, and images pushed to it. Not for
//! hostile registries: those are made by hand where they are needed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::images::digest;
use super::{http, tools};

/// The user that a registry with accounts knows.
pub const USER: &str = "puller";
/// That user's password.
pub const PASSWORD: &str = "secret";
/// The line of `htpasswd -B` for the two.
const ACCOUNT: &str = "puller:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry; ends when dropped.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// One that anybody may push to, over plain HTTP.
    pub fn open(folder: &Path) -> Self {
        Self::start(folder, "open", json!({"addr": "127.0.0.1:0"}), None)
    }

    /// One over the same images that speaks TLS and wants a password. The
    /// authority of its certificate is left in `FOLDER/registry-ca.pem`.
    pub fn guarded(folder: &Path) -> Self {
        let (certificate, key) = certificate(folder);
        let accounts = folder.join("htpasswd");
        std::fs::write(&accounts, ACCOUNT).unwrap();
        let tls = json!({"addr": "127.0.0.1:0", "tls": {"certificate": certificate, "key": key}});
        Self::start(folder, "guarded", tls, Some(json!({"htpasswd": {"realm": "tests", "path": accounts}})))
    }

    fn start(folder: &Path, name: &str, listen: Value, accounts: Option<Value>) -> Self {
        let mut config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.join("registry")}},
            "http": listen,
        });
        config["http"]["secret"] = "tests".into();
        if let Some(accounts) = accounts {
            config["auth"] = accounts;
        }
        let file = folder.join(format!("{name}.json"));
        std::fs::write(&file, config.to_string()).unwrap();
        let mut child = Command::new(tools::docker_registry())
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut before = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "the registry ended:\n{before}");
            if let Some(rest) = line.split("listening on ").nth(1) {
                break rest.split([',', '"']).next().unwrap().trim().to_owned();
            }
            before += &line;
        };
        // It ends with the registry, which must never wait for its reader.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, address }
    }

    /// Puts an image there: layers (tar files) and the container's settings.
    pub fn push(&self, repository: &str, tag: &str, layers: &[PathBuf], settings: Value) {
        let mut diff_ids = Vec::new();
        let mut descriptors = Vec::new();
        for layer in layers {
            diff_ids.push(digest(&std::fs::read(layer).unwrap()));
            let zipped = layer.with_extension("tar.gz");
            if !zipped.exists() {
                let file = File::create(&zipped).unwrap();
                let mut gzip = Command::new("gzip");
                let status = gzip.args(["-1", "-n", "-c"]).arg(layer).stdout(file).status().unwrap();
                assert!(status.success());
            }
            let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
            descriptors.push(self.blob(repository, kind, &std::fs::read(&zipped).unwrap()));
        }
        let config = json!({
            "architecture": super::images::ARCHITECTURE, "os": "linux",
            "config": settings, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(repository, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        self.manifest(repository, tag, config, &json!(descriptors));
    }

    /// Puts a manifest there.
    pub fn manifest(&self, repository: &str, tag: &str, config: Value, layers: &Value) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}).to_string();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = http::send("PUT", &self.address, &path, kind, manifest.as_bytes()).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// Puts a blob there; returns its descriptor.
    pub fn blob(&self, repository: &str, kind: &str, bytes: &[u8]) -> Value {
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let begun = http::send("POST", &self.address, &uploads, "text/plain", b"").unwrap();
        assert_eq!(begun.status, 202, "{}", begun.text());
        let place = begun.header("location").unwrap();
        let place = place.split_once(&self.address).map_or(place, |(_, path)| path);
        let digest = digest(bytes);
        let path = format!("{place}{}digest={digest}", if place.contains('?') { '&' } else { '?' });
        let put = http::send("PUT", &self.address, &path, "application/octet-stream", bytes).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Makes an authority and a certificate of it for this machine's loopback.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let own = own.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    write("registry-ca.pem", authority_certificate.pem());
    (write("registry.pem", own.pem()), write("registry.key", key.serialize_pem()))
}
