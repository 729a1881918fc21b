//! SPDY/3.1 as Kubernetes' streaming protocols use it: a server that takes
//! streams with their headers, reads and writes their data and answers pings.
//! There is no flow control, because the peers (client-go and everything built
//! on the same library) neither keep windows nor announce them; instead each
//! stream's inbox is bounded, and a full one holds the whole connection back.
//! It opens no streams of its own and serves no HTTP.

mod frame;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;
use frame::{Control, Decoder, Encoder, Frame};
use std::collections::HashMap;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Data frames that wait for a stream's reader.
const INBOX: usize = 32;
/// Frames that wait to be written.
const OUTBOX: usize = 64;
/// Streams of one connection at a time: a port-forward has two for each
/// connection through it.
const STREAMS: usize = 1000;
/// Streams that wait to be taken.
const WAITING: usize = 16;

/// Header names in lower case with their values.
pub(super) type Headers = HashMap<String, String>;

/// A stream that the peer opened.
pub(super) struct Stream {
    /// As the peer sent them.
    pub(super) headers: Headers,
    /// What the peer writes; ends when it closes its side.
    pub(super) reader: Reader,
    /// What goes to the peer.
    pub(super) writer: Writer,
}

/// Reads a stream's data.
pub(super) struct Reader {
    inbox: mpsc::Receiver<Bytes>,
}

impl Reader {
    /// The next piece, or `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.inbox.recv().await
    }
}

/// Writes a stream's data. Dropping it without [`Writer::finish`] resets the
/// stream.
pub(super) struct Writer {
    id: u32,
    outbox: mpsc::Sender<Frame>,
    open: bool,
}

impl Writer {
    /// Sends a piece; waits while the connection is behind.
    pub(super) async fn send(&mut self, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.push(Frame::Data { stream: self.id, finish: false, data }).await
    }

    /// Closes our side.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.open) {
            self.push(Frame::Data { stream: self.id, finish: true, data: Bytes::new() }).await?;
        }
        Ok(())
    }

    /// Aborts both sides.
    pub(super) async fn reset(mut self) -> io::Result<()> {
        self.open = false;
        self.push(Frame::Control(Control::Reset { stream: self.id })).await
    }

    async fn push(&self, frame: Frame) -> io::Result<()> {
        self.outbox.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Without room the connection is in trouble and ends by itself.
        if self.open
            && let Err(error) = self.outbox.try_send(Frame::Control(Control::Reset { stream: self.id }))
        {
            tracing::debug!(err = %error, "a stream could not be reset");
        }
    }
}

/// The streams of a connection as they come.
pub(super) struct Incoming {
    streams: mpsc::Receiver<Stream>,
}

impl Incoming {
    /// The next stream, or `None` when the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

/// The work of a connection; its owner runs it to the end.
pub(super) struct Connection<T> {
    io: T,
    streams: mpsc::Sender<Stream>,
    outbox: (mpsc::Sender<Frame>, mpsc::Receiver<Frame>),
}

/// A server on an open connection.
pub(super) fn serve<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> (Connection<T>, Incoming) {
    let (sender, streams) = mpsc::channel(WAITING);
    (Connection { io, streams: sender, outbox: mpsc::channel(OUTBOX) }, Incoming { streams })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// Runs until the peer ends it, or until nobody holds its streams any more
    /// and everything is written.
    pub(super) async fn run(self) -> io::Result<()> {
        let Self { io, streams, outbox: (outbox, frames) } = self;
        let (reader, writer) = tokio::io::split(io);
        let reading = read(reader, streams, outbox);
        let writing = write(writer, frames);
        tokio::pin!(reading, writing);
        tokio::select! {
            result = &mut reading => match result {
                // The peer closed its side; ours may still have things to say,
                // and ends when the last writer is gone.
                Ok(()) => writing.await,
                Err(error) => Err(error),
            },
            result = &mut writing => result,
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut encoder = Encoder::new()?;
    while let Some(frame) = frames.recv().await {
        let (head, data) = encoder.encode(&frame)?;
        writer.write_all(&head).await?;
        writer.write_all(&data).await?;
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    writer.flush().await?;
    writer.shutdown().await
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    streams: mpsc::Sender<Stream>,
    outbox: mpsc::Sender<Frame>,
) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut goodbye = None;
    // The outbox is held weakly: writing ends when all streams are dropped.
    let weak = outbox.downgrade();
    let mut held = Some(outbox);
    while let Some(frame) = decoder.next(&mut reader).await? {
        match frame {
            Frame::Data { stream, finish, data } => {
                if let Some(inbox) = open.get(&stream).filter(|_| !data.is_empty()) {
                    // A reader that is gone is not interested in more.
                    if inbox.send(data).await.is_err() {
                        open.remove(&stream);
                    }
                }
                if finish {
                    open.remove(&stream);
                }
            }
            Frame::Control(Control::Open { stream, finish, headers }) => {
                let Some(sender) = held.clone().or_else(|| weak.upgrade()) else { return Ok(()) };
                open.retain(|_, inbox| !inbox.is_closed());
                if open.len() >= STREAMS || open.contains_key(&stream) {
                    push(&sender, Control::Reset { stream }).await?;
                    continue;
                }
                push(&sender, Control::Reply { stream }).await?;
                let (inbox, receiver) = mpsc::channel(INBOX);
                if !finish {
                    open.insert(stream, inbox);
                }
                let writer = Writer { id: stream, outbox: sender, open: true };
                if streams.send(Stream { headers, reader: Reader { inbox: receiver }, writer }).await.is_err() {
                    // Nobody takes streams any more.
                    held = None;
                }
            }
            Frame::Control(Control::Reset { stream }) => {
                open.remove(&stream);
            }
            Frame::Control(Control::Ping { id }) => {
                let Some(sender) = held.clone().or_else(|| weak.upgrade()) else { return Ok(()) };
                push(&sender, Control::Ping { id }).await?;
            }
            Frame::Control(Control::GoAway) => goodbye = Some(()),
            Frame::Control(Control::Reply { .. } | Control::Other) => {}
        }
        if streams.is_closed() {
            held = None;
        }
        if goodbye.is_some() && open.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

async fn push(outbox: &mpsc::Sender<Frame>, control: Control) -> io::Result<()> {
    outbox.send(Frame::Control(control)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
