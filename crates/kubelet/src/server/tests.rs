//! Streams end to end over pipes: real clients of the protocols on one side, a
//! made-up process on the other.

use super::remote::{Ended, Remote, Transport, Wants};
use super::reply::Query;
use super::websocket::Protocol;
use super::*;
use containers::runtime::{RuntimeError, Session};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

fn query(text: &str) -> Query {
    parse_query(text)
}

#[test]
fn queries_are_decoded() {
    let expected = [("command", "sh"), ("command", "a b&c"), ("stdin", "true"), ("x", "")];
    let found = query("command=sh&command=a+b%26c&stdin=true&x");
    let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_terminal_has_no_standard_error_of_its_own() {
    let wants = Wants::parse(&query("input=1&output=1&error=1&tty=1&command=sh")).unwrap();
    assert!(wants.stdin && wants.stdout && !wants.stderr && wants.tty);
    assert_eq!(Wants::parse(&query("command=sh")), None);
}

#[test]
fn the_end_of_a_command_reads_as_upstream_writes_it() {
    assert_eq!(Ended::Exit(0).status(), json!({"metadata": {}, "status": "Success"}));
    let failure = Ended::Exit(3).status();
    assert_eq!(failure["reason"], "NonZeroExitCode");
    let message = "command terminated with non-zero exit code: command terminated with exit code 3";
    assert_eq!(failure["message"], message);
    assert_eq!(failure["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    assert_eq!(Ended::Exit(0).text(), "");
}

/// A process that echoes its input in capitals, complains once and exits with
/// the number of terminal sizes it was given.
fn process() -> Session {
    let (stdin, mut input) = tokio::io::duplex(1024);
    let (mut output, stdout) = tokio::io::duplex(1024);
    let (mut complaint, stderr) = tokio::io::duplex(1024);
    let (resize, mut sizes) = mpsc::channel(4);
    let (done, exit) = oneshot::channel();
    tokio::spawn(async move {
        complaint.write_all(b"careful").await.unwrap();
        drop(complaint);
        let mut text = String::new();
        input.read_to_string(&mut text).await.unwrap();
        output.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        drop(output);
        let mut count = 0;
        while sizes.try_recv().is_ok() {
            count += 1;
        }
        done.send(count).unwrap();
    });
    Session {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: Some(Box::new(stderr)),
        resize,
        exit,
    }
}

fn all() -> Wants {
    Wants::parse(&query("stdin=true&stdout=true&stderr=true&command=echo")).unwrap()
}

fn ends() -> (Remote, Transport) {
    remote::pair()
}

async fn client(io: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

#[tokio::test]
async fn a_command_runs_over_websocket_version_5_and_its_input_ends() {
    let (near, far) = tokio::io::duplex(4096);
    let (remote, transport) = ends();
    let server = tokio::spawn(async move {
        let protocol = Protocol::choose(&["v5.channel.k8s.io", "v4.channel.k8s.io"]).unwrap();
        let socket = websocket::accept(far).await;
        let (wants, session) = (all(), Ok(process()));
        let (result, ()) =
            tokio::join!(websocket::command(socket, protocol, &wants, transport), remote::run(session, remote));
        result
    });
    let mut socket = client(near).await;
    socket.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
    socket.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let mut streams = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(data) => streams.entry(data[0]).or_default().extend(&data[1..]),
            Message::Close(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(streams[&1], b"HELLO");
    assert_eq!(streams[&2], b"careful");
    let status: serde_json::Value = serde_json::from_slice(&streams[&3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "1");
    drop(socket);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn old_websocket_protocols_speak_base64_and_plain_errors() {
    let (near, far) = tokio::io::duplex(4096);
    let (remote, transport) = ends();
    let server = tokio::spawn(async move {
        let protocol = Protocol::choose(&["base64.channel.k8s.io"]).unwrap();
        let socket = websocket::accept(far).await;
        let wants = Wants { stderr: false, ..all() };
        let failure = Err(RuntimeError::Start("no such command".into()));
        let (result, ()) =
            tokio::join!(websocket::command(socket, protocol, &wants, transport), remote::run(failure, remote));
        result
    });
    let mut socket = client(near).await;
    let mut texts = Vec::new();
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        texts.push(text.to_string());
    }
    assert_eq!(texts[0], "1");
    let last = texts.last().unwrap();
    use base64::Engine;
    let words = base64::engine::general_purpose::STANDARD.decode(&last[1..]).unwrap();
    assert!(last.starts_with('3') && String::from_utf8(words).unwrap().contains("no such command"));
    drop(socket);
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_runs_over_spdy() {
    let (near, far) = tokio::io::duplex(4096);
    let (remote, transport) = ends();
    let server = tokio::spawn(async move {
        let (wants, session) = (all(), Ok(process()));
        let (result, ()) =
            tokio::join!(streams::command(far, "v4.channel.k8s.io", &wants, transport), remote::run(session, remote));
        result
    });
    let mut peer = spdy::tests::Peer::new(near);
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        peer.open(id, &[("streamType", kind)]).await;
    }
    peer.data(3, false, "hello").await;
    peer.data(3, true, "").await;
    let streams = peer.collect(&[1, 5, 7]).await;
    assert_eq!(streams[&5], b"HELLO");
    assert_eq!(streams[&7], b"careful");
    let status: serde_json::Value = serde_json::from_slice(&streams[&1]).unwrap();
    assert_eq!(status["status"], "Success");
    drop(peer);
    server.await.unwrap().unwrap();
}

/// A pod that greets on port 80 and is closed on others.
async fn connect(port: u16) -> Result<DuplexStream, String> {
    if port != 80 {
        return Err(format!("port {port} is closed"));
    }
    let (near, mut far) = tokio::io::duplex(1024);
    tokio::spawn(async move {
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        far.write_all(format!("hello {text}").as_bytes()).await.unwrap();
    });
    Ok(near)
}

async fn forwards(mut peer: spdy::tests::Peer) {
    for (id, port) in [(1, "80"), (5, "81")] {
        let request = [("port", port), ("requestID", port)];
        peer.open(id, &[&request[..], &[("streamType", "error")]].concat()).await;
        peer.open(id + 2, &[&request[..], &[("streamType", "data")]].concat()).await;
    }
    peer.data(3, true, "you").await;
    let streams = peer.collect(&[1, 3, 5]).await;
    assert_eq!(streams[&3], b"hello you");
    assert!(!streams.contains_key(&1));
    assert_eq!(streams[&5], b"port 81 is closed");
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let (near, far) = tokio::io::duplex(4096);
    let server = tokio::spawn(streams::ports(far, connect));
    forwards(spdy::tests::Peer::new(near)).await;
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_a_websocket() {
    let (near, far) = tokio::io::duplex(4096);
    let server = tokio::spawn(async move {
        let (inner, work) = websocket::tunnel(websocket::accept(far).await);
        tokio::join!(streams::ports(inner, connect), work).0
    });
    let (inner, work) = websocket::tunnel(client(near).await);
    let tunnel = tokio::spawn(work);
    forwards(spdy::tests::Peer::new(inner)).await;
    server.await.unwrap().unwrap();
    tunnel.await.unwrap().unwrap();
}

#[tokio::test]
async fn ports_are_forwarded_over_websocket_channels() {
    let (near, far) = tokio::io::duplex(4096);
    let server = tokio::spawn(async move {
        let protocol = Protocol::choose(&["v4.channel.k8s.io"]).unwrap();
        websocket::ports(websocket::accept(far).await, protocol, &[81], connect).await
    });
    let mut socket = client(near).await;
    let mut messages = Vec::new();
    while let Some(Ok(Message::Binary(data))) = socket.next().await {
        messages.push(data.to_vec());
    }
    assert_eq!(messages[..2], [vec![0, 81, 0], vec![1, 81, 0]]);
    assert_eq!(messages[2], b"\x01port 81 is closed");
    drop(socket);
    server.await.unwrap().unwrap();
}
