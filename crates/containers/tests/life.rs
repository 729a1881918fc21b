//! Sandboxes and containers from their making to their removal, on the real
//! kernel. Needs root.
#![expect(clippy::unwrap_used, reason = "a test")]
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
        let ContainerState::Exited { exit_code, reason, message, .. } = status.state else { panic!("{:?}", status.state) };
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
