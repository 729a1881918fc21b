//! A client made of the same frames talks to the server over a pipe.

use super::frame::open_frame;
use super::*;
use tokio::io::DuplexStream;

/// A client.
pub(crate) struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
}

impl Peer {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self { io, encoder: Encoder::new().unwrap(), decoder: Decoder::new() }
    }

    pub(crate) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_lowercase(), (*value).to_owned())).collect();
        self.send(open_frame(stream, headers)).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, finish: bool, text: &'static str) {
        self.send(data(stream, finish, text)).await;
    }

    /// What comes on all streams until these have ended.
    pub(crate) async fn collect(&mut self, streams: &[u32]) -> HashMap<u32, Vec<u8>> {
        let mut found: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut open: Vec<_> = streams.to_vec();
        while !open.is_empty() {
            if let Frame::Data { stream, finish, data } = self.next().await.unwrap() {
                if !data.is_empty() {
                    found.entry(stream).or_default().extend(&data);
                }
                open.retain(|id| !(finish && *id == stream));
            }
        }
        found
    }

    async fn send(&mut self, frame: Frame) {
        let (head, data) = self.encoder.encode(&frame).unwrap();
        self.io.write_all(&head).await.unwrap();
        self.io.write_all(&data).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        self.decoder.next(&mut self.io).await.unwrap()
    }
}

fn pair() -> (Peer, Connection<DuplexStream>, Incoming) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (connection, incoming) = serve(far);
    (Peer::new(near), connection, incoming)
}

fn headers(kind: &str) -> Headers {
    Headers::from([("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), "80".to_owned())])
}

fn data(stream: u32, finish: bool, text: &'static str) -> Frame {
    Frame::Data { stream, finish, data: Bytes::from_static(text.as_bytes()) }
}

#[tokio::test]
async fn streams_carry_headers_and_data_both_ways_and_end() {
    let (mut peer, connection, mut incoming) = pair();
    let running = tokio::spawn(connection.run());
    for id in [1, 3] {
        peer.send(open_frame(id, headers(if id == 1 { "error" } else { "data" }))).await;
        assert_eq!(peer.next().await.unwrap(), Frame::Control(Control::Reply { stream: id }));
    }
    let first = incoming.next().await.unwrap();
    let mut second = incoming.next().await.unwrap();
    assert_eq!(first.headers["streamtype"], "error");
    assert_eq!(second.headers["streamtype"], "data");
    peer.send(data(3, false, "hello")).await;
    peer.send(data(3, true, " you")).await;
    assert_eq!(second.reader.next().await.unwrap(), "hello");
    assert_eq!(second.reader.next().await.unwrap(), " you");
    assert_eq!(second.reader.next().await, None);
    second.writer.send(Bytes::from_static(b"answer")).await.unwrap();
    second.writer.finish().await.unwrap();
    assert_eq!(peer.next().await.unwrap(), data(3, false, "answer"));
    assert_eq!(peer.next().await.unwrap(), data(3, true, ""));
    // A writer that is dropped without an end resets.
    drop(first);
    assert_eq!(peer.next().await.unwrap(), Frame::Control(Control::Reset { stream: 1 }));
    peer.send(Frame::Control(Control::Ping { id: 9 })).await;
    assert_eq!(peer.next().await.unwrap(), Frame::Control(Control::Ping { id: 9 }));
    drop(second);
    drop(incoming);
    // The peer ends.
    drop(peer);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_connection_ends_when_nobody_holds_its_streams() {
    let (mut peer, connection, mut incoming) = pair();
    let running = tokio::spawn(connection.run());
    peer.send(open_frame(1, headers("data"))).await;
    let mut stream = incoming.next().await.unwrap();
    peer.next().await.unwrap();
    drop(incoming);
    stream.writer.finish().await.unwrap();
    drop(stream);
    // The next frame shows the reader that it is alone.
    peer.send(Frame::Control(Control::Ping { id: 1 })).await;
    assert_eq!(peer.next().await.unwrap(), data(1, true, ""));
    while peer.next().await.is_some() {}
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn malformed_frames_end_the_connection_with_an_error() {
    for bytes in [
        // Another version; a block that is no zlib; a length beyond the limit.
        &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2],
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &[0x80, 3, 0, 6, 0, 0, 0, 1, 0],
    ] {
        let (mut peer, connection, _incoming) = pair();
        let running = tokio::spawn(connection.run());
        peer.io.write_all(bytes).await.unwrap();
        assert!(running.await.unwrap().is_err(), "{bytes:?}");
    }
}
