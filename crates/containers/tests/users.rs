//! Sandboxes with a user namespace of their own, on the real kernel. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "support/machine.rs"]
mod machine;

use std::os::unix::fs::MetadataExt as _;

use containers::runtime::{IdRange, Mount, Runtime as _};
use machine::Machine;

const RANGE: IdRange = IdRange { first: 1 << 20, count: 65_536 };

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_somebody_else_outside_and_owns_what_it_sees() {
    let machine = Machine::new().await;
    let volume = tempfile::tempdir().unwrap();
    let sandbox = machine.sandbox_with(|config| config.users = Some(RANGE)).await;
    assert_eq!(machine.runtime.sandbox(&sandbox).await.unwrap().users, Some(RANGE));
    let source = volume.path().to_owned();
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; stat -c %u:%g / /bin/busybox /tmp /v /made /dev; \
                  touch /v/f /tmp/g; stat -c %u /v/f /tmp/g; echo to > /dev/stdout; chown 5:6 /v/f; id -u 1000 2>&1 | wc -l";
    let (code, log) = machine
        .output(&sandbox, script, |config| {
            config.working_dir = "/made".into();
            config.mounts = vec![Mount { container_path: "/v".into(), host_path: source, ..Mount::default() }];
        })
        .await;
    let expected = "0\n 0 1048576 65536\n0:0\n0:0\n0:0\n0:0\n0:0\n0:0\n0\n0\nto\n1\n";
    assert_eq!((code, log.as_str()), (0, expected));
    // On disk the volume's files belong to whom they belong to inside.
    let made = std::fs::metadata(volume.path().join("f")).unwrap();
    assert_eq!((made.uid(), made.gid()), (5, 6));
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_inside_reach_what_belongs_to_the_sandbox_and_no_further() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox_with(|config| config.users = Some(RANGE)).await;
    let id = machine
        .run(&sandbox, "sleep 1000", |config| {
            config.security.add_capabilities = vec!["SYS_ADMIN".into(), "MKNOD".into()];
        })
        .await;
    let run = |script: &str| machine.runtime.exec_sync(&id, vec!["sh".into(), "-c".into(), script.into()], None);
    let text = |output: containers::runtime::ExecOutput| String::from_utf8_lossy(&output.stdout).into_owned();
    // The mount and host name are the sandbox's; a device would be the machine's.
    let own = run("mkdir /m && mount -t tmpfs none /m && hostname other && hostname; id -u").await.unwrap();
    assert_eq!((own.exit_code, text(own).as_str()), (0, "other\n0\n"));
    assert_ne!(run("mknod /tmp/d b 1 0").await.unwrap().exit_code, 0);
    let bound = run("(nc -l -p 80 & p=$!; sleep 0; kill -0 $p && kill $p) && echo bound").await.unwrap();
    assert_eq!(text(bound), "bound\n");
    let pid = match machine.runtime.container(&id).await.unwrap().state {
        containers::runtime::ContainerState::Running { pid, .. } => pid,
        state => panic!("{state:?}"),
    };
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), RANGE.first);
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_outlive_the_agent_and_are_the_machines_unless_asked_for() {
    let machine = Machine::new().await;
    let plain = machine.sandbox().await;
    let (_, log) = machine.output(&plain, "tr -s ' ' < /proc/self/uid_map", |_| {}).await;
    assert_eq!(log, " 0 0 4294967295\n");
    let sandbox = machine.sandbox_with(|config| config.users = Some(RANGE)).await;
    let id = machine.run(&sandbox, "sleep 1000", |_| {}).await;
    let machine = machine.restart().await;
    assert_eq!(machine.runtime.sandbox(&plain).await.unwrap().users, None);
    assert_eq!(machine.runtime.sandbox(&sandbox).await.unwrap().users, Some(RANGE));
    let script = "id -u; touch /tmp/f && stat -c %u /tmp/f".to_owned();
    let inside = machine.runtime.exec_sync(&id, vec!["sh".into(), "-c".into(), script], None).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "0\n0\n");
    machine.finish().await;
}
