//! One client of the demo's app: a plain TCP connection, one request, the time
//! to the first byte. And one DNS question.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts while the Service is not there yet; a client outside
/// the cluster has no event to wait for.
const RETRY: Duration = Duration::from_millis(1);
/// Attempts before a Service that refuses counts as broken.
const ATTEMPTS: u32 = 5_000;

/// One request on a new connection; from connect to the first byte.
pub(super) async fn request(address: SocketAddr) -> io::Result<Duration> {
    let started = Instant::now();
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await?;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await?;
        let elapsed = started.elapsed();
        if &first != b"HTTP/1.1 200" {
            return Err(io::Error::other("the app did not answer 200"));
        }
        let mut rest = Vec::new();
        stream.take(1 << 20).read_to_end(&mut rest).await?;
        Ok(elapsed)
    };
    tokio::time::timeout(LIMIT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Repeats until the Service answers; the time of the whole.
pub(super) async fn first_answer(address: SocketAddr) -> io::Result<Duration> {
    let started = Instant::now();
    for _ in 1..ATTEMPTS {
        match request(address).await {
            Ok(_) => return Ok(started.elapsed()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
    request(address).await.map(|_| started.elapsed())
}

/// Asks `server` for the A record of `name`.
pub(super) async fn resolve(server: SocketAddr, name: &str) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    let mut query = vec![0x5a, 0x5a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.send(&query).await?;
        let mut answer = [0; 512];
        match tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await {
            Ok(Ok(count)) => return address_of(&answer[..count]),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

/// The address in an answer with one A record: its last four bytes.
fn address_of(answer: &[u8]) -> io::Result<Ipv4Addr> {
    let code = answer.get(3).map(|byte| byte & 0x0f);
    let answers = answer.get(6..8).map(|count| u16::from_be_bytes([count[0], count[1]]));
    match (code, answers, answer.last_chunk::<4>()) {
        (Some(0), Some(1), Some(bytes)) => Ok(Ipv4Addr::from(*bytes)),
        _ => Err(io::Error::other(format!("DNS answered with code {code:?} and {answers:?} records"))),
    }
}
