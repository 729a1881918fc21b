//! Sandboxes and containers from their making to their removal, on the real
//! kernel. Needs root.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub)]

#[path = "support/machine.rs"]
mod machine;

use std::time::Duration;

use containers::runtime::{ContainerState, Runtime as _, RuntimeError};
use machine::Machine;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_reports_its_exit_code() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let (code, log) = machine.output(&sandbox, "echo out; echo $FROM; hostname; exit 3", |_| {}).await;
    assert_eq!((code, log.as_str()), (3, "out\nimage\ninside\n"));
    let status = machine.runtime.sandbox(&sandbox).await.unwrap();
    assert!(status.ready);
    assert_eq!(status.ips, ["10.9.8.7".parse::<std::net::IpAddr>().unwrap()]);
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why_in_the_words_users_search_for() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    for (command, text) in [
        ("nosuch", r#"exec: "nosuch": executable file not found in $PATH"#),
        ("/nosuch", r#"exec: "/nosuch": stat /nosuch: no such file or directory"#),
        ("/etc", r#"exec: "/etc": is a directory"#),
        ("/etc/plain", r#"exec: "/etc/plain": permission denied"#),
    ] {
        let id = machine.create(&sandbox, "", |config| config.command = vec![command.into()]).await;
        let error = machine.runtime.start_container(&id).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
        assert_eq!(error.to_string(), text);
        let status = machine.runtime.container(&id).await.unwrap();
        let ContainerState::Exited { exit_code, reason, message, .. } = status.state else {
            panic!("{:?}", status.state)
        };
        assert_eq!((exit_code, reason.as_str(), message.as_str()), (128, "StartError", text));
    }
    let id = machine.create(&sandbox, "", |config| config.working_dir = "/etc/plain".into()).await;
    let error = machine.runtime.start_container(&id).await.unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
    let (code, log) = machine.output(&sandbox, "", |config| config.command = vec!["/etc/broken".into()]).await;
    assert_eq!((code, log.as_str()), (255, "exec /etc/broken: exec format error\n"));
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_first_and_kills_after_the_grace_time() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let polite = machine.run(&sandbox, "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done", |_| {}).await;
    let deaf = machine.run(&sandbox, "trap '' TERM; echo up; while :; do sleep 0.1; done", |_| {}).await;
    for id in [&polite, &deaf] {
        // The trap must be set before the signal comes.
        while machine.runtime.exec_sync(id, vec!["true".into()], None).await.unwrap().exit_code != 0 {}
        let log = machine.runtime.container(id).await.unwrap().log_path;
        while !machine::log_text(&log).contains("up") {
            tokio::task::yield_now().await;
        }
    }
    machine.runtime.stop_container(&polite, Duration::from_secs(10)).await.unwrap();
    machine.runtime.stop_container(&deaf, Duration::from_millis(200)).await.unwrap();
    for (id, expected, by) in [(&polite, 7, None), (&deaf, 137, Some(9))] {
        let state = machine.runtime.container(id).await.unwrap().state;
        let ContainerState::Exited { exit_code, signal, .. } = state else { panic!("{state:?}") };
        assert_eq!((exit_code, signal), (expected, by));
    }
    machine.runtime.stop_container(&deaf, Duration::ZERO).await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_in_the_container_with_its_identity_and_a_time_limit() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine
        .run(&sandbox, "sleep 1000", |config| {
            config.security.uid = Some(1000);
            config.env = vec![("X".into(), "y".into())];
            config.working_dir = "/srv".into();
        })
        .await;
    let run = |command: &str| machine.runtime.exec_sync(&id, vec!["sh".into(), "-c".into(), command.into()], None);
    let output = run("id -u; id -G; pwd; echo $X; echo no >&2; exit 4").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n1000 5000\n/srv\ny\n");
    assert_eq!((String::from_utf8_lossy(&output.stderr).as_ref(), output.exit_code), ("no\n", 4));
    let missing = machine.runtime.exec_sync(&id, vec!["missing".into()], None).await.unwrap_err();
    assert_eq!(missing.to_string(), r#"exec: "missing": executable file not found in $PATH"#);
    let limit = Some(Duration::from_millis(100));
    let slow = machine.runtime.exec_sync(&id, vec!["sleep".into(), "100".into()], limit).await.unwrap_err();
    assert!(matches!(slow, RuntimeError::Timeout { .. }), "{slow:?}");
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_the_agent_and_are_found_again() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let running = machine.run(&sandbox, "while :; do echo tick; sleep 0.05; done", |_| {}).await;
    let ended = machine.run(&sandbox, "sleep 0.2; exit 5", |_| {}).await;
    let before = machine.runtime.container(&running).await.unwrap().state;
    let machine = machine.restart().await;
    assert_eq!(machine.runtime.container(&running).await.unwrap().state, before);
    assert!(machine.runtime.sandbox(&sandbox).await.unwrap().ready);
    let state = machine.ended(&ended).await.state;
    assert!(matches!(state, ContainerState::Exited { exit_code: 5, .. }), "{state:?}");
    assert!(machine.runtime.exec_sync(&running, vec!["true".into()], None).await.is_ok());
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sandbox_stands_still_until_it_is_thawed() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine.run(&sandbox, "while :; do echo tick; sleep 0.01; done", |_| {}).await;
    machine.runtime.freeze(&sandbox).await.unwrap();
    assert!(machine.runtime.sandbox(&sandbox).await.unwrap().frozen);
    let ContainerState::Running { pid, .. } = machine.runtime.container(&id).await.unwrap().state else { panic!() };
    let ticks = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (first, second) = (ticks(), ticks());
    assert_eq!(first, second);
    let machine = machine.restart().await;
    assert!(machine.runtime.sandbox(&sandbox).await.unwrap().frozen, "a new agent knows");
    machine.runtime.thaw(&sandbox).unwrap();
    assert!(!machine.runtime.sandbox(&sandbox).await.unwrap().frozen);
    machine.runtime.freeze(&sandbox).await.unwrap();
    // What needs the processes wakes them.
    assert!(machine.runtime.exec_sync(&id, vec!["true".into()], None).await.is_ok());
    machine.runtime.freeze(&sandbox).await.unwrap();
    machine.runtime.stop_container(&id, Duration::from_secs(5)).await.unwrap();
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_those_of_the_request() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let script = "grep -E '^(CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\n\\t' ' '; id -u";
    use containers::runtime::{Seccomp, Security};
    for (security, expected) in [
        (
            Security { seccomp: Seccomp::RuntimeDefault, ..Security::default() },
            "CapPrm: 00000000a80425fb CapBnd: 00000000a80425fb NoNewPrivs: 0 Seccomp: 2 0\n",
        ),
        (
            Security {
                uid: Some(1000),
                no_new_privileges: true,
                seccomp: Seccomp::RuntimeDefault,
                ..Security::default()
            },
            "CapPrm: 0000000000000000 CapBnd: 00000000a80425fb NoNewPrivs: 1 Seccomp: 2 1000\n",
        ),
        (
            Security {
                drop_capabilities: vec!["ALL".into()],
                add_capabilities: vec!["NET_ADMIN".into()],
                ..Security::default()
            },
            "CapPrm: 0000000000001000 CapBnd: 0000000000001000 NoNewPrivs: 0 Seccomp: 0 0\n",
        ),
    ] {
        let (code, log) = machine.output(&sandbox, script, |config| config.security = security).await;
        assert_eq!((code, log.as_str()), (0, expected));
    }
    let script = "touch /x 2>&1; echo a > /proc/sys/kernel/domainname; ls /sys/firmware | wc -l; touch /sys/x 2>&1; mknod /tmp/d b 8 0 && cat /tmp/d";
    let (_, log) = machine.output(&sandbox, script, |config| config.security.readonly_rootfs = true).await;
    assert!(log.contains("/x: Read-only file system"), "{log}");
    assert!(log.contains("domainname: Read-only file system\n0\n"), "hidden, and empty: {log}");
    let (_, log) = machine.output(&sandbox, "mknod /tmp/d c 1 11 && cat /tmp/d 2>&1", |_| {}).await;
    assert!(log.contains("Operation not permitted"), "the devices cgroup bars /dev/kmsg: {log}");
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_beyond_its_memory_is_reported_as_killed_for_it() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine
        .run(&sandbox, "", |config| {
            config.command =
                vec!["dd".into(), "if=/dev/zero".into(), "of=/dev/null".into(), "bs=100M".into(), "count=1".into()];
            config.resources.memory_limit_bytes = Some(8 << 20);
        })
        .await;
    let state = machine.ended(&id).await.state;
    let ContainerState::Exited { exit_code, reason, .. } = state else { panic!("{state:?}") };
    assert_eq!((exit_code, reason.as_str()), (137, "OOMKilled"));
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_session_has_size_input_and_exit_code() {
    use containers::runtime::ExecRequest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine.run(&sandbox, "sleep 1000", |_| {}).await;
    let request = ExecRequest { command: vec!["sh".into()], tty: true, stdin: true, stdout: true, stderr: false };
    let mut session = machine.runtime.exec(&id, request).await.unwrap();
    session.resize.send((91, 27)).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"tty; while [ \"$(stty size)\" != '27 91' ]; do :; done; echo sized; exit 6\n").await.unwrap();
    let mut output = Vec::new();
    session.stdout.take().unwrap().read_to_end(&mut output).await.unwrap();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(output.contains("/dev/pts/0") && output.contains("\r\nsized\r\n"), "{output}");
    assert_eq!(session.exit.await.unwrap(), 6);

    // Without a terminal: separate streams, and the end of input is seen.
    let request = ExecRequest { command: vec!["cat".into()], tty: false, stdin: true, stdout: true, stderr: true };
    let mut session = machine.runtime.exec(&id, request).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"through").await.unwrap();
    drop(stdin);
    let mut output = Vec::new();
    session.stdout.take().unwrap().read_to_end(&mut output).await.unwrap();
    assert_eq!((output.as_slice(), session.exit.await.unwrap()), (b"through".as_slice(), 0));
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_reaches_a_containers_own_streams() {
    use containers::runtime::ExecRequest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    for tty in [false, true] {
        let id = machine
            .run(&sandbox, "read line; echo got $line; exit 9", |config| {
                (config.stdin, config.stdin_once, config.tty) = (true, true, tty);
            })
            .await;
        let request = ExecRequest { command: Vec::new(), tty, stdin: true, stdout: true, stderr: !tty };
        let mut session = machine.runtime.attach(&id, request).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        let mut output = Vec::new();
        session.stdout.take().unwrap().read_to_end(&mut output).await.unwrap();
        assert!(String::from_utf8_lossy(&output).contains("got hello"), "tty {tty}: {output:?}");
        assert_eq!(session.exit.await.unwrap(), 9);
        let log = machine::log_text(&machine.runtime.container(&id).await.unwrap().log_path);
        assert!(log.contains("got hello"), "the log has it too: {log}");
    }
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward_connects_inside_the_sandbox() {
    use tokio::io::AsyncReadExt as _;
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine.run(&sandbox, "echo hello | nc -l -p 7000", |_| {}).await;
    let listening = "while ! grep -q ':1B58 ' /proc/net/tcp /proc/net/tcp6; do :; done";
    machine.runtime.exec_sync(&id, vec!["sh".into(), "-c".into(), listening.into()], None).await.unwrap();
    let mut stream = machine.runtime.port_forward(&sandbox, 7000).await.unwrap();
    let mut text = vec![0; 6];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(text, b"hello\n");
    assert!(machine.runtime.port_forward(&sandbox, 7001).await.is_err(), "nobody listens there");
    machine.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_identity_and_shared_processes_are_as_asked() {
    use containers::runtime::{Mount, NamespaceMode};
    let machine = Machine::new().await;
    let volume = machine.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let sandbox = machine.sandbox_with(|config| config.pid = NamespaceMode::Pod).await;
    let mounts = vec![
        Mount {
            container_path: "/made/on/demand".into(),
            host_path: volume.clone(),
            readonly: true,
            ..Mount::default()
        },
        Mount { container_path: "/a-file".into(), host_path: volume.join("file"), ..Mount::default() },
    ];
    let script = "cat /made/on/demand/file; touch /made/on/demand/x 2>&1; echo more >> /a-file; id -G; mkdir /tmp/z; \
                  cat /proc/1/comm; cat /etc/hosts | grep inside; df 2>/dev/null; echo $HOSTNAME $HOME";
    let (_, log) = machine
        .output(&sandbox, script, |config| {
            config.mounts = mounts;
            config.security.username = Some("app".into());
            config.security.supplemental_groups = vec![77];
            config.security.uid = None;
        })
        .await;
    assert!(log.starts_with("content"), "{log}");
    assert!(log.contains("/made/on/demand/x: Read-only file system"), "{log}");
    assert!(log.contains("1000 77 5000\npause\n10.9.8.7\tinside\n"), "{log}");
    assert!(log.ends_with("inside /home/app\n"), "{log}");
    // Both of one sandbox see each other, and a background process of the
    // first does not outlive it.
    let first = machine.run(&sandbox, "sleep 4321 & echo x; exit 0", |_| {}).await;
    machine.ended(&first).await;
    let (_, log) = machine.output(&sandbox, "ps | grep -c '[s]leep 4321'", |_| {}).await;
    assert_eq!(log, "0\n");
    machine.finish().await;
}
