//! Images from registries and archives, good and hostile. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "support/machine.rs"]
mod machine;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use containers::ImageStore;
use containers::runtime::{ImageError, RegistryAuth};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machine::{add, config_json, digest};
use tar::EntryType;

/// A registry on loopback: blobs and manifests by path, optional token.
#[derive(Default)]
struct Registry {
    files: Mutex<HashMap<String, Vec<u8>>>,
    asked: Mutex<Vec<String>>,
    token: bool,
}

impl Registry {
    fn put(&self, path: &str, bytes: &[u8]) {
        self.files.lock().unwrap().insert(path.to_owned(), bytes.to_vec());
    }

    /// Puts a blob; returns its descriptor.
    fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        self.put(&format!("/v2/{repository}/blobs/{}", digest(bytes)), bytes);
        serde_json::json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
    }

    /// Puts an image of these (compressed) layers under a tag, behind an index.
    fn image(&self, repository: &str, tag: &str, layers: &[(Vec<u8>, String)]) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|(_, diff_id)| diff_id.clone()).collect();
        let config = config_json(&diff_ids, serde_json::json!({"Cmd": ["sh"], "User": "7:8"}));
        let layers: Vec<_> = layers.iter().map(|(bytes, _)| self.blob(repository, "layer", bytes)).collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "config": self.blob(repository, "config", &config), "layers": layers});
        let manifest = serde_json::to_vec(&manifest).unwrap();
        self.put(&format!("/v2/{repository}/manifests/{}", digest(&manifest)), &manifest);
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": format!("sha256:{}", "0".repeat(64)), "size": 1, "platform": {"os": "windows", "architecture": arch}},
            {"digest": digest(&manifest), "size": manifest.len(), "platform": {"os": "linux", "architecture": arch}}]});
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &serde_json::to_vec(&index).unwrap());
        digest(&config)
    }

    fn answer(&self, request: &Request<Incoming>, host: &str) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        self.asked.lock().unwrap().push(request.uri().to_string());
        let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let respond = |status: StatusCode, body: Vec<u8>| {
            Response::builder().status(status).body(Full::new(Bytes::from(body))).unwrap()
        };
        if path == "/token" {
            // user:secret
            let good = authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=");
            let status = if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            return respond(status, br#"{"token": "t0ken"}"#.to_vec());
        }
        if self.token && authorization.as_deref() != Some("Bearer t0ken") {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="here",scope="repository:a:pull""#);
            let builder = Response::builder().status(StatusCode::UNAUTHORIZED).header("www-authenticate", challenge);
            return builder
                .body(Full::new(Bytes::from_static(br#"{"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}"#)))
                .unwrap();
        }
        match self.files.lock().unwrap().get(&path) {
            Some(bytes) => respond(StatusCode::OK, bytes.clone()),
            None => respond(
                StatusCode::NOT_FOUND,
                br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}"#.to_vec(),
            ),
        }
    }

    /// Serves until the test's runtime ends; returns host and port.
    async fn serve(self: Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let name = host.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (registry, name) = (Arc::clone(&self), name.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let response = registry.answer(&request, &name);
                        async move { Ok::<_, Infallible>(response) }
                    });
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        host
    }
}

fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    build(&mut tar);
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> (Vec<u8>, String) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    (encoder.finish().unwrap(), digest(bytes))
}

fn store(dir: &Path) -> Arc<ImageStore> {
    ImageStore::open(&dir.join("root"), Some(&dir.join("registries.yaml"))).unwrap()
}

fn layer_dirs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("root/layers")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "empty");
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_used_by_two_processes_and_removed_with_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry::default());
    let base = layer(|tar| {
        add(tar, "etc", EntryType::Directory, 0o755, b"");
        add(tar, "etc/gone", EntryType::Regular, 0o644, b"x");
        add(tar, "etc/suid", EntryType::Regular, 0o4755, b"x");
        add(tar, "etc/same", EntryType::Link, 0o644, b"etc/suid");
    });
    let top = layer(|tar| {
        add(tar, "etc/.wh.gone", EntryType::Regular, 0o644, b"");
        add(tar, "opaque/.wh..wh..opq", EntryType::Regular, 0o644, b"");
    });
    let zstd = (zstd::encode_all(&top[..], 1).unwrap(), digest(&top));
    let id = registry.image("a/b", "1", &[gzip(&base), zstd]);
    let host = Arc::clone(&registry).serve().await;
    let name = format!("{host}/a/b:1");
    let store = store(dir.path());
    let other = ImageStore::open(&dir.path().join("root"), None).unwrap();
    assert_eq!(store.pull(&name, None).await.unwrap(), id);
    // The other process sees it at once.
    let image = other.image(&name).unwrap().unwrap();
    assert_eq!((image.id.as_str(), image.tags.as_slice(), image.uid), (id.as_str(), &[name.clone()][..], Some(7)));
    assert_eq!(image.digests.len(), 1);
    assert_eq!(other.image(&image.digests[0]).unwrap().unwrap().id, id, "found by digest");

    use std::os::unix::fs::MetadataExt as _;
    let layers = layer_dirs(dir.path());
    let path = |diff: &[u8], file: &str| dir.path().join("root/layers").join(&digest(diff)[7..39]).join(file);
    assert_eq!(std::fs::metadata(path(&base, "etc/suid")).unwrap().mode() & 0o7777, 0o4755);
    assert_eq!(std::fs::metadata(path(&base, "etc/suid")).unwrap().nlink(), 2);
    let whiteout = std::fs::symlink_metadata(path(&top, "etc/gone")).unwrap();
    assert_eq!((whiteout.mode() & 0o170_000, whiteout.rdev()), (0o020_000, 0));
    let mut value = [0_u8; 8];
    let length = rustix::fs::getxattr(path(&top, "opaque"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    assert_eq!(layers.len(), 2);

    let before = registry.asked.lock().unwrap().len();
    store.pull(&name, None).await.unwrap();
    let asked = registry.asked.lock().unwrap()[before..].join(" ");
    assert!(!asked.contains(&digest(&gzip(&base).0)), "layers at hand are not fetched again: {asked}");
    other.remove(&name).unwrap();
    assert!(store.image(&name).unwrap().is_none());
    assert!(layer_dirs(dir.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_tokens_and_refusals_work_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry { token: true, ..Registry::default() });
    let id = registry.image(
        "library/nginx",
        "latest",
        &[gzip(&layer(|tar| add(tar, "x", EntryType::Regular, 0o644, b"x")))],
    );
    let host = Arc::clone(&registry).serve().await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let yaml = format!(
        "mirrors:\n  docker.io:\n    endpoint: ['http://{closed}', 'http://{host}']\nconfigs:\n  '{host}':\n    auth: {{username: user, password: secret}}\n"
    );
    std::fs::write(dir.path().join("registries.yaml"), yaml).unwrap();
    let store = store(dir.path());
    assert_eq!(store.pull("nginx", None).await.unwrap(), id);
    assert!(store.image("docker.io/library/nginx:latest").unwrap().is_some());
    assert!(registry.asked.lock().unwrap().iter().any(|uri| uri.ends_with("?ns=docker.io")));

    let direct = format!("{host}/library/nginx");
    let auth = |password: &str| {
        Some(RegistryAuth { username: "user".into(), password: password.into(), ..RegistryAuth::default() })
    };
    assert_eq!(store.pull(&direct, auth("secret")).await.unwrap(), id);
    let denied = store.pull(&direct, auth("wrong")).await.unwrap_err();
    assert!(matches!(denied, ImageError::Denied { .. }), "{denied:?}");
    let missing = store.pull(&format!("{host}/library/none"), auth("secret")).await.unwrap_err();
    assert!(matches!(missing, ImageError::NotFound { .. }), "{missing:?}");
    let refused = store.pull(&format!("{closed}/a"), None).await.unwrap_err().to_string();
    assert!(refused.contains("connect: ") && refused.contains(&closed.to_string()), "{refused}");
    assert!(store.pull("no such name", None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_digest_says_is_never_visible() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Arc::new(Registry::default());
    let plain = layer(|tar| add(tar, "x", EntryType::Regular, 0o644, &[7; 100_000]));
    let good = gzip(&plain);
    registry.image("changed", "1", std::slice::from_ref(&good));
    let blob = format!("/v2/changed/blobs/{}", digest(&good.0));
    registry.image("wrong-diff", "1", &[(good.0.clone(), digest(b"other"))]);
    let host = Arc::clone(&registry).serve().await;
    let store = store(dir.path());
    let mut longer = good.0.clone();
    longer.extend_from_slice(b"tail");
    for (name, bytes) in [
        ("cut", good.0[..good.0.len() / 2].to_vec()),
        ("longer", longer),
        ("other", gzip(b"other").0),
        ("none", b"<html>".to_vec()),
    ] {
        registry.put(&blob, &bytes);
        let error = store.pull(&format!("{host}/changed:1"), None).await.unwrap_err();
        assert!(matches!(error, ImageError::Corrupt { .. }), "{name}: {error:?}");
    }
    let error = store.pull(&format!("{host}/wrong-diff:1"), None).await.unwrap_err();
    assert!(error.to_string().contains("should be sha256:"), "{error}");
    assert!(layer_dirs(dir.path()).is_empty());
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_hostile_layer_stays_inside_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "untouched").unwrap();
    let out = outside.to_str().unwrap().to_owned();
    // tar's own writer refuses such names, so the bytes are set by hand.
    let raw = |tar: &mut tar::Builder<Vec<u8>>, path: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, &b"!"[..]).unwrap();
    };
    let mut cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("dots", layer(|tar| raw(tar, "../../outside/file")), false),
        ("inner dots", layer(|tar| raw(tar, "a/../../outside/file")), false),
        ("whiteout of dots", layer(|tar| raw(tar, "a/.wh...")), false),
    ];
    // These are legal tars whose links lead nowhere outside.
    cases.push((
        "absolute link",
        layer(|tar| {
            add(tar, "out", EntryType::Symlink, 0o777, out.as_bytes());
            raw(tar, "out/file");
        }),
        true,
    ));
    cases.push((
        "relative link",
        layer(|tar| {
            add(tar, "out", EntryType::Symlink, 0o777, b"../../../../../../outside");
            raw(tar, "out/file");
        }),
        true,
    ));
    cases.push((
        "file over link",
        layer(|tar| {
            add(tar, "out", EntryType::Symlink, 0o777, format!("{out}/file").as_bytes());
            raw(tar, "out");
        }),
        true,
    ));
    cases.push((
        "hard link outside",
        layer(|tar| {
            add(tar, "out", EntryType::Link, 0o644, format!("{out}/file").as_bytes());
        }),
        false,
    ));
    cases.push((
        "chmod through link",
        layer(|tar| {
            add(tar, "out", EntryType::Symlink, 0o777, out.as_bytes());
            add(tar, "out", EntryType::Directory, 0o000, b"");
        }),
        true,
    ));
    for (name, bytes, legal) in cases {
        let archive = dir.path().join("hostile.tar");
        machine::docker_archive(&archive, "test/hostile:1", &bytes, serde_json::json!({}));
        let result = store.import(&archive);
        assert_eq!(result.is_ok(), legal, "{name}: {result:?}");
        assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "untouched", "{name}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1, "{name}");
    }
    let nothing = dir.path().join("nothing.tar");
    std::fs::write(&nothing, "this is no archive").unwrap();
    assert!(matches!(store.import(&nothing).unwrap_err(), ImageError::Corrupt { .. }));
}

#[test]
fn an_oci_layout_is_imported_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        std::fs::write(blobs.join(&digest(bytes)[7..]), bytes).unwrap();
        serde_json::json!({"digest": digest(bytes), "size": bytes.len()})
    };
    let (compressed, diff_id) = gzip(&layer(|tar| add(tar, "x", EntryType::Regular, 0o644, b"x")));
    let config = config_json(&[diff_id], serde_json::json!({}));
    let manifest = serde_json::json!({"schemaVersion": 2, "config": put(&config), "layers": [put(&compressed)]});
    let mut descriptor = put(&serde_json::to_vec(&manifest).unwrap());
    descriptor["annotations"] = serde_json::json!({"io.containerd.image.name": "test/layout:2"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor]});
    std::fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    let store = store(dir.path());
    assert_eq!(store.import(&layout).unwrap(), ["docker.io/test/layout:2"]);
    assert_eq!(store.image("test/layout:2").unwrap().unwrap().id, digest(&config));
}
