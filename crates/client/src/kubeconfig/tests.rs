//! Reading, merging, resolving and writing.

use std::os::unix::fs::PermissionsExt;

use super::*;

const ONE: &str = r#"
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: a
  cluster: {server: "https://a:1", certificate-authority: ca.pem, proxy-note: kept}
contexts:
- name: a
  context: {cluster: a, user: a, namespace: team}
users:
- name: a
  user: {token: t, as: someone}
extra: {kept: true}
"#;

const TWO: &str = r#"
current-context: b
clusters: [{name: a, cluster: {server: "https://other"}}, {name: b, cluster: {server: "http://b"}}]
contexts: [{name: b, context: {cluster: b, user: ""}}, {name: e, context: {cluster: b, user: e}}]
users: [{name: e, user: {exec: {command: x}}}]
preferences: null
"#;

fn folder() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), "PEM").unwrap();
    let paths = vec![folder.path().join("one"), folder.path().join("missing"), folder.path().join("two")];
    std::fs::write(&paths[0], ONE).unwrap();
    std::fs::write(&paths[2], TWO).unwrap();
    (folder, paths)
}

#[test]
fn the_first_file_counts_and_paths_are_relative_to_their_file() {
    let (_folder, paths) = folder();
    let merged = Kubeconfig::load(&paths).unwrap();
    let config = merged.resolve(None).unwrap();
    assert_eq!(config.server, "https://a:1");
    assert_eq!(config.certificate_authority.as_deref(), Some(b"PEM".as_slice()));
    assert_eq!(config.credential, Credential::Token("t".into()));
    assert_eq!(config.impersonate_user.as_deref(), Some("someone"));
    assert_eq!(config.namespace.as_deref(), Some("team"));
    assert_eq!(merged.resolve(Some("b")).unwrap().server, "http://b");
}

#[test]
fn what_is_missing_or_unsupported_is_named() {
    let (_folder, paths) = folder();
    let merged = Kubeconfig::load(&paths).unwrap();
    let error = |context| merged.resolve(Some(context)).unwrap_err().to_string();
    assert_eq!(error("x"), r#"the kubeconfig has no context named "x""#);
    assert_eq!(error("e"), r#"user "e" authenticates by exec, which is not supported"#);
    assert!(matches!(Kubeconfig::default().resolve(None), Err(KubeconfigError::NoContext)));
}

#[test]
fn a_written_file_is_private_keeps_foreign_fields_and_the_old_one() {
    let (folder, paths) = folder();
    std::fs::set_permissions(&paths[0], std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut config = Kubeconfig::read_raw(&paths[0]).unwrap();
    config.put("darter", Cluster { server: "https://d".into(), ..Cluster::default() }, AuthInfo::default());
    config.current_context = "darter".into();
    config.write(&paths[0]).unwrap();
    assert_eq!(std::fs::metadata(&paths[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&paths[0]).unwrap();
    assert!(text.contains("proxy-note: kept") && text.contains("extra:"), "{text}");
    assert!(text.contains("certificate-authority: ca.pem"), "still relative");
    assert_eq!(std::fs::read_to_string(folder.path().join("one.bak")).unwrap(), ONE);
    let mut again = Kubeconfig::read(&paths[0]).unwrap();
    assert_eq!(again.resolve(None).unwrap().server, "https://d");
    assert!(again.remove("darter"));
    assert!(!again.remove("darter"));
    assert_eq!(again.current_context, "");
}

#[test]
fn paths_come_from_the_list_or_the_home_directory() {
    let home = Path::new("/home/x");
    let listed = default_paths(Some("/a:/b".as_ref()), Some(home));
    assert_eq!(listed, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(default_paths(Some("".as_ref()), Some(home)), [home.join(".kube/config")]);
}
