//! Logs in a directory of the test's own.

use super::*;
use containers::runtime::SandboxId;
use std::io::Write;

const LOG: &str = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n\
                   2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:02Z stdout F ee\n\
                   2026-01-01T00:00:03Z stdout F four\n";

fn life(ended: bool) -> (broadcast::Sender<RuntimeEvent>, Life) {
    let (sender, events) = broadcast::channel(16);
    (sender, Life { id: ContainerId("c".into()), ended, events })
}

async fn read(log: &str, query: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    std::fs::write(&path, log).unwrap();
    let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let selection = Selection::parse(&query, "2026-01-01T00:00:04Z".parse().unwrap()).unwrap();
    let (sender, mut receiver) = mpsc::channel(16);
    let (_events, life) = life(true);
    serve(&path, &selection, life, sender).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = receiver.recv().await {
        all.extend_from_slice(&piece);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn lines_are_selected_as_asked() {
    for (query, expected) in [
        (&[][..], "one\ntwo\nthree\nfour\n"),
        (&[("tailLines", "1")], "four\n"),
        (&[("tailLines", "0")], ""),
        (&[("tailLines", "99")], "one\ntwo\nthree\nfour\n"),
        (&[("stream", "Stderr")], "two\n"),
        (&[("sinceTime", "2026-01-01T00:00:02Z")], "three\nfour\n"),
        (&[("sinceSeconds", "2")], "three\nfour\n"),
        (&[("limitBytes", "6")], "one\ntw"),
        (&[("timestamps", "true"), ("tailLines", "1")], "2026-01-01T00:00:03Z four\n"),
        (&[("timestamps", "true"), ("sinceSeconds", "2")], "2026-01-01T00:00:02Z three\n2026-01-01T00:00:03Z four\n"),
    ] {
        assert_eq!(read(LOG, query).await, expected, "{query:?}");
    }
}

#[tokio::test]
async fn the_tail_of_a_long_log_is_found_across_blocks() {
    let long: String = (0..20_000).map(|i| format!("2026-01-01T00:00:00Z stdout F line {i}\n")).collect();
    let tail = read(&long, &[("tailLines", "3000")]).await;
    assert_eq!(tail.lines().count(), 3000);
    assert!(tail.starts_with("line 17000\n") && tail.ends_with("line 19999\n"));
    assert_eq!(read(&long, &[]).await.lines().count(), 20_000);
}

#[tokio::test]
async fn following_sees_new_lines_a_rotation_and_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n").unwrap();
    let selection = Selection { follow: true, ..Selection::default() };
    let (sender, mut receiver) = mpsc::channel(16);
    let (events, life) = life(false);
    let following = path.clone();
    let task = tokio::spawn(async move { serve(&following, &selection, life, sender).await });
    assert_eq!(receiver.recv().await.unwrap(), "one\n");
    let append = |text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    // A line that comes in two writes.
    append("2026-01-01T00:00:01Z stdout ");
    append("F two\n");
    assert_eq!(receiver.recv().await.unwrap(), "two\n");
    std::fs::rename(&path, directory.path().join("0.log.1")).unwrap();
    append("2026-01-01T00:00:02Z stdout F three\n");
    assert_eq!(receiver.recv().await.unwrap(), "three\n");
    append("2026-01-01T00:00:03Z stdout F four\n");
    let stopped = RuntimeEvent {
        sandbox: SandboxId("s".into()),
        container: Some(ContainerId("c".into())),
        kind: RuntimeEventKind::Stopped,
    };
    events.send(stopped).unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "four\n");
    assert_eq!(receiver.recv().await, None);
    task.await.unwrap().unwrap();
}

#[test]
fn wrong_queries_are_refused_in_words() {
    for (name, value) in [("tailLines", "-1"), ("limitBytes", "0"), ("sinceTime", "x"), ("stream", "x")] {
        let query = [(name.to_owned(), value.to_owned())];
        assert!(Selection::parse(&query, Timestamp::UNIX_EPOCH).unwrap_err().contains(name));
    }
}
