//! Remote commands and port-forwards over SPDY: which streams a client opens
//! and what each carries.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::remote::{Input, Output, Transport, Wants, parse_size};
use super::spdy::{self, Incoming, Reader, Stream};

/// Upstream's `DefaultStreamCreationTimeout`.
const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Port-forward connections that wait for their second stream.
const HALF_OPEN: usize = 64;

/// Versions of the command protocol, best first.
const COMMAND_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// The port-forward protocol.
pub(super) const PORT_FORWARD_PROTOCOL: &str = "portforward.k8s.io";

/// The first of the client's wishes that is known.
pub(super) fn choose(offered: &[&str]) -> Option<&'static str> {
    if offered.is_empty() {
        return Some("");
    }
    offered.iter().find_map(|name| COMMAND_PROTOCOLS.iter().find(|known| *known == name).copied())
}

fn missing(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Carries a remote command's streams until it ends or the client leaves.
pub(super) async fn command<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    protocol: &str,
    wants: &Wants,
    transport: Transport,
) -> io::Result<()> {
    let (connection, mut incoming) = spdy::serve(io);
    let work = async {
        let streams = tokio::time::timeout(STREAM_TIMEOUT, take_streams(&mut incoming, protocol, wants))
            .await
            .map_err(|_| missing("timed out waiting for client to create streams"))?
            .ok_or_else(|| missing("the client left before its streams were open"))?;
        drop(incoming);
        carry(streams, protocol, transport).await
    };
    tokio::pin!(work);
    let running = connection.run();
    tokio::pin!(running);
    tokio::select! {
        // When all is written, the connection ends by itself.
        result = &mut work => {
            result?;
            running.await
        }
        result = &mut running => result,
    }
}

async fn take_streams(incoming: &mut Incoming, protocol: &str, wants: &Wants) -> Option<HashMap<String, Stream>> {
    let resizes = wants.tty && (protocol.starts_with("v4") || protocol.starts_with("v3"));
    let expected = 1 + [wants.stdin, wants.stdout, wants.stderr, resizes].iter().filter(|wanted| **wanted).count();
    let mut streams = HashMap::new();
    while streams.len() < expected {
        let stream = incoming.next().await?;
        let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
        streams.insert(kind, stream);
    }
    Some(streams)
}

async fn carry(mut streams: HashMap<String, Stream>, protocol: &str, transport: Transport) -> io::Result<()> {
    let Transport { input, mut output } = transport;
    let mut readers = Vec::new();
    let mut writers = HashMap::new();
    for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
        if let Some(stream) = streams.remove(kind) {
            readers.push((kind, stream.reader));
            writers.insert(kind, stream.writer);
        }
    }
    let stdin = take(&mut readers, "stdin");
    let resize = take(&mut readers, "resize");
    let feed = async {
        let stdin = async {
            let Some(mut reader) = stdin else { return };
            while let Some(data) = reader.next().await {
                if input.send(Input::Stdin(data)).await.is_err() {
                    return;
                }
            }
            if input.send(Input::StdinEnd).await.is_err() {
                tracing::debug!("a command ended before its input");
            }
        };
        let sizes = async {
            let Some(mut reader) = resize else { return };
            while let Some(data) = reader.next().await {
                // Each size is an object of its own, ended by a new line.
                for line in data.split(|byte| *byte == b'\n') {
                    if let Some(size) = parse_size(line)
                        && input.send(size).await.is_err()
                    {
                        return;
                    }
                }
            }
        };
        tokio::join!(stdin, sizes);
        // The channel stays open: the end of input is not the client's end.
        std::future::pending::<()>().await;
    };
    let drain = async {
        while let Some(piece) = output.recv().await {
            let (kind, data) = match piece {
                Output::Stdout(data) => ("stdout", data),
                Output::Stderr(data) => ("stderr", data),
                Output::Ended(ended) if protocol.starts_with("v4") => {
                    ("error", Bytes::from(ended.status().to_string()))
                }
                Output::Ended(ended) => ("error", Bytes::from(ended.text())),
            };
            if let Some(writer) = writers.get_mut(kind) {
                writer.send(data).await?;
            }
        }
        for writer in writers.values_mut() {
            writer.finish().await?;
        }
        Ok(())
    };
    tokio::select! {
        () = feed => Ok(()),
        result = drain => result,
    }
}

fn take(readers: &mut Vec<(&'static str, Reader)>, kind: &str) -> Option<Reader> {
    let index = readers.iter().position(|(found, _)| *found == kind)?;
    Some(readers.swap_remove(index).1)
}

/// Carries port-forwards until the client leaves: each connection through it is
/// a pair of streams, one for data and one for an error message.
pub(super) async fn ports<T, F, D>(io: T, connect: impl Fn(u16) -> F + Clone + Send + Sync + 'static) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<D, String>> + Send + 'static,
    D: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (connection, mut incoming) = spdy::serve(io);
    let work = async {
        let mut half_open: HashMap<String, Stream> = HashMap::new();
        let mut forwards = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = incoming.next() => stream,
                Some(_) = forwards.join_next() => continue,
            };
            let Some(stream) = stream else { break };
            let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
            // Old clients number streams instead: data follows its error.
            let id = match header("requestid") {
                id if id.is_empty() => header("port"),
                id => id,
            };
            match half_open.remove(&id) {
                Some(first) => {
                    let is_data = stream.headers.get("streamtype").is_some_and(|kind| kind == "data");
                    let (data, error) = if is_data { (stream, first) } else { (first, stream) };
                    forwards.spawn(forward(data, error, connect.clone()));
                }
                None if half_open.len() < HALF_OPEN => {
                    half_open.insert(id, stream);
                }
                None => stream.writer.reset().await?,
            }
        }
        forwards.shutdown().await;
        Ok(())
    };
    let (result, work) = tokio::join!(connection.run(), work);
    result.and(work)
}

async fn forward<F, D>(data: Stream, error: Stream, connect: impl Fn(u16) -> F)
where
    F: Future<Output = Result<D, String>>,
    D: AsyncRead + AsyncWrite + Unpin,
{
    let Stream { headers, reader, writer } = data;
    let Stream { writer: mut complain, .. } = error;
    let port = headers.get("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0);
    let result = match port {
        Some(port) => match connect(port).await {
            Ok(io) => join(io, reader, writer).await.map_err(|error| error.to_string()),
            Err(message) => Err(message),
        },
        None => Err(format!("unable to parse port {:?}", headers.get("port").map_or("", String::as_str))),
    };
    let told = async {
        if let Err(message) = result {
            complain.send(Bytes::from(message)).await?;
        }
        complain.finish().await
    };
    if let Err(error) = told.await {
        tracing::debug!(err = %error, "the client of a port-forward is gone");
    }
}

async fn join<D: AsyncRead + AsyncWrite + Unpin>(io: D, mut from: Reader, mut to: spdy::Writer) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let up = async {
        while let Some(data) = from.next().await {
            writer.write_all(&data).await?;
        }
        writer.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return to.finish().await;
            }
            to.send(Bytes::copy_from_slice(&buffer[..length])).await?;
        }
    };
    tokio::pin!(up, down);
    // Once the pod has closed, nothing more can come of what the client sends.
    tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            Ok(()) => down.await,
            Err(error) => Err(error),
        },
    }
}
