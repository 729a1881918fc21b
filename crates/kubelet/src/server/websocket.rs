//! Remote commands and port-forwards over WebSocket: upstream's channel
//! protocols (`v5.channel.k8s.io` and its forerunners), in which each message
//! begins with the number of its channel, and the tunnel that carries a whole
//! SPDY connection.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::remote::{Input, Output, Transport, Wants, parse_size};

/// Longest message taken, bytes; peers send 32 KiB.
const MESSAGE_LIMIT: usize = 4 << 20;
/// Bytes of a tunnelled connection that wait for either side.
const TUNNEL: usize = 64 << 10;
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Sub-protocol that carries SPDY for port-forwards.
pub(super) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// A channel protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Protocol {
    /// As negotiated; empty if the client named none.
    pub(super) name: &'static str,
    version: u8,
    base64: bool,
}

/// Best first.
const PROTOCOLS: [Protocol; 6] = [
    Protocol { name: "v5.channel.k8s.io", version: 5, base64: false },
    Protocol { name: "v4.channel.k8s.io", version: 4, base64: false },
    Protocol { name: "v4.base64.channel.k8s.io", version: 4, base64: true },
    Protocol { name: "channel.k8s.io", version: 1, base64: false },
    Protocol { name: "base64.channel.k8s.io", version: 1, base64: true },
    Protocol { name: "", version: 1, base64: false },
];

impl Protocol {
    /// The first of the client's wishes that is known; without wishes, the
    /// oldest.
    pub(super) fn choose(offered: &[&str]) -> Option<Self> {
        if offered.is_empty() {
            return PROTOCOLS.last().copied();
        }
        offered.iter().find_map(|name| PROTOCOLS.iter().find(|known| known.name == *name).copied())
    }

    fn message(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = char::from(b'0' + channel).to_string();
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut bytes = BytesMut::with_capacity(data.len() + 1);
        bytes.extend_from_slice(&[channel]);
        bytes.extend_from_slice(data);
        Message::binary(bytes)
    }

    fn parse(self, message: Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(mut data) if !data.is_empty() => {
                let rest = data.split_off(1);
                Some((data[0], rest))
            }
            Message::Text(text) if self.base64 => {
                let (channel, data) = text.as_str().split_at_checked(1)?;
                let channel = channel.bytes().next()?.checked_sub(b'0')?;
                Some((channel, STANDARD.decode(data).ok()?.into()))
            }
            Message::Text(text) => {
                let bytes = Bytes::copy_from_slice(text.as_bytes());
                Some((*bytes.first()?, bytes.slice(1..)))
            }
            _ => None,
        }
    }
}

/// A server on an upgraded connection.
pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

fn is_end(error: &Error) -> bool {
    matches!(error, Error::ConnectionClosed | Error::AlreadyClosed)
}

/// Carries a remote command's streams until it ends or the client leaves.
pub(super) async fn command<T: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<T>,
    protocol: Protocol,
    wants: &Wants,
    transport: Transport,
) -> Result<(), Error> {
    let Transport { input, mut output } = transport;
    let (mut sink, mut stream) = socket.split();
    // An empty message tells the client that the streams are open.
    let lowest = match (wants.stdout, wants.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    sink.send(protocol.message(lowest, &[])).await?;
    let reading = async {
        while let Some(message) = stream.next().await {
            let message = match message {
                Ok(Message::Close(_)) => return Ok(()),
                Ok(message) => message,
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            let piece = match protocol.parse(message) {
                Some((STDIN, data)) if wants.stdin && !data.is_empty() => Some(Input::Stdin(data)),
                Some((RESIZE, data)) => parse_size(&data),
                Some((CLOSE, data)) if protocol.version >= 5 && data.first() == Some(&STDIN) => Some(Input::StdinEnd),
                _ => None,
            };
            if let Some(piece) = piece
                && input.send(piece).await.is_err()
            {
                // The command is over; what it left is being written.
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    };
    let writing = async {
        while let Some(piece) = output.recv().await {
            let message = match piece {
                Output::Stdout(data) => protocol.message(STDOUT, &data),
                Output::Stderr(data) => protocol.message(STDERR, &data),
                Output::Ended(ended) if protocol.version >= 4 => {
                    let status = ended.status().to_string();
                    protocol.message(ERROR, status.as_bytes())
                }
                Output::Ended(ended) => protocol.message(ERROR, ended.text().as_bytes()),
            };
            sink.send(message).await?;
        }
        sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
    };
    tokio::pin!(reading, writing);
    tokio::select! {
        result = &mut reading => result,
        result = &mut writing => result,
    }
}

/// Carries port-forwards: for each port a data and an error channel.
pub(super) async fn ports<T, F, D>(
    socket: WebSocketStream<T>,
    protocol: Protocol,
    ports: &[u16],
    connect: impl Fn(u16) -> F,
) -> Result<(), Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<D, String>>,
    D: AsyncRead + AsyncWrite + Unpin,
{
    use tokio::sync::mpsc;
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outgoing) = mpsc::channel::<(u8, Bytes)>(ports.len().max(1) * 4);
    let mut inputs = Vec::new();
    let mut connections = futures_util::stream::FuturesUnordered::new();
    for (index, port) in (0_u8..127).zip(ports) {
        let (to_port, mut from_client) = mpsc::channel::<Bytes>(16);
        inputs.push(to_port);
        let (sender, connection) = (sender.clone(), connect(*port));
        let (data, error) = (index * 2, index * 2 + 1);
        let port = *port;
        connections.push(async move {
            let number = Bytes::copy_from_slice(&port.to_le_bytes());
            for channel in [data, error] {
                if sender.send((channel, number.clone())).await.is_err() {
                    return;
                }
            }
            let result = match connection.await {
                Ok(io) => {
                    let (mut reader, mut writer) = tokio::io::split(io);
                    let up = async {
                        while let Some(bytes) = from_client.recv().await {
                            writer.write_all(&bytes).await?;
                        }
                        Ok::<_, io::Error>(())
                    };
                    let down = async {
                        let mut buffer = vec![0; 32 << 10];
                        loop {
                            let length = reader.read(&mut buffer).await?;
                            let piece = (data, Bytes::copy_from_slice(&buffer[..length]));
                            if length == 0 || sender.send(piece).await.is_err() {
                                return Ok::<_, io::Error>(());
                            }
                        }
                    };
                    tokio::select! { result = up => result, result = down => result }.map_err(|error| error.to_string())
                }
                Err(message) => Err(message),
            };
            if let Err(message) = result
                && sender.send((error, message.into())).await.is_err()
            {
                tracing::debug!("the client of a port-forward is gone");
            }
        });
    }
    drop(sender);
    let reading = async {
        while let Some(message) = stream.next().await {
            match message {
                Ok(Message::Close(_)) => return Ok(()),
                Ok(message) => {
                    if let Some((channel, data)) = protocol.parse(message)
                        && channel % 2 == 0
                        && let Some(port) = inputs.get(usize::from(channel / 2))
                        && port.send(data).await.is_err()
                    {
                        tracing::debug!(channel, "a forwarded port is closed");
                    }
                }
                Err(error) if is_end(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let writing = async {
        while let Some((channel, data)) = outgoing.recv().await {
            sink.send(protocol.message(channel, &data)).await?;
        }
        sink.send(Message::Close(None)).await
    };
    let working = async { while connections.next().await.is_some() {} };
    tokio::pin!(reading, writing);
    let both = async {
        let (result, ()) = tokio::join!(&mut writing, working);
        result
    };
    tokio::select! {
        result = &mut reading => result,
        result = both => result,
    }
}

/// Turns a WebSocket into the plain connection that it carries, and the work
/// that keeps it going.
pub(super) fn tunnel<T: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<T>,
) -> (DuplexStream, impl Future<Output = Result<(), Error>>) {
    let (near, far) = tokio::io::duplex(TUNNEL);
    let work = async move {
        let (mut sink, mut stream) = socket.split();
        let (mut reader, mut writer) = tokio::io::split(far);
        let incoming = async {
            while let Some(message) = stream.next().await {
                match message {
                    Ok(Message::Binary(data)) => writer.write_all(&data).await?,
                    Ok(Message::Close(_)) => break,
                    Ok(_) => {}
                    Err(error) if is_end(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            writer.shutdown().await?;
            Ok(())
        };
        let outgoing = async {
            let mut buffer = BytesMut::with_capacity(32 << 10);
            while reader.read_buf(&mut buffer).await? > 0 {
                sink.send(Message::Binary(buffer.split().freeze())).await?;
                buffer.reserve(32 << 10);
            }
            sink.send(Message::Close(None)).await
        };
        tokio::pin!(incoming, outgoing);
        tokio::select! {
            result = &mut incoming => match result {
                Ok(()) => outgoing.await,
                Err(error) => Err(error),
            },
            result = &mut outgoing => result,
        }
    };
    (near, work)
}
