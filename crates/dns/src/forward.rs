//! Asking the machine's resolvers for names that are not the cluster's: over
//! UDP, over TCP when an answer does not fit, each resolver in turn. Answers are
//! kept for a short while, and equal questions at the same time are one.

use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OnceCell, Semaphore};

/// How long one resolver may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at the same time; upstream's `max_concurrent` is 1000.
const CONCURRENCY: usize = 1000;
/// Answers kept at most.
const CACHE_ENTRIES: usize = 2000;
/// Longest time an answer is kept, whatever it says itself (upstream's add-on).
const CACHE_TIME: Duration = Duration::from_secs(30);
/// Longest time "there is no such name" is kept if the answer does not say.
const NEGATIVE_CACHE_TIME: Duration = Duration::from_secs(5);
/// Payload that crosses every path unfragmented (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
const UDP_BUFFER: usize = 4096;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    name: Name,
    kind: RecordType,
    dnssec: bool,
}

type Shared = Arc<OnceCell<Option<Arc<Message>>>>;

struct Kept {
    message: Arc<Message>,
    since: Instant,
    until: Instant,
}

#[derive(Default)]
struct State {
    kept: HashMap<Question, Kept>,
    asked: HashMap<Question, Shared>,
}

/// The way to the outside.
pub(crate) struct Forwarder {
    resolvers: Vec<SocketAddr>,
    state: Mutex<State>,
    slots: Semaphore,
}

impl Forwarder {
    /// Over these resolvers, in order of preference.
    pub(crate) fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers, state: Mutex::new(State::default()), slots: Semaphore::new(CONCURRENCY) }
    }

    /// The resolvers' answer with its remaining lifetimes; `None` if none
    /// answered, or too many questions are under way.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType, dnssec: bool) -> Option<Message> {
        let question = Question { name: name.to_lowercase(), kind, dnssec };
        if let Some(message) = self.kept(&question) {
            return Some(message);
        }
        let shared = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.asked.entry(question.clone()).or_default().clone()
        };
        // A question that comes back to us by a loop among resolvers waits here
        // for itself and ends with the timeout, instead of going round.
        let answer = shared.get_or_init(|| self.fetch(&question)).await.clone();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.asked.remove(&question);
        answer.map(|message| (*message).clone())
    }

    fn kept(&self, question: &Question) -> Option<Message> {
        let now = Instant::now();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = state.kept.get(question).filter(|kept| kept.until > now)?;
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut message = (*kept.message).clone();
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(message)
    }

    async fn fetch(&self, question: &Question) -> Option<Arc<Message>> {
        let _slot = self.slots.try_acquire().ok()?;
        let mut refused = None;
        for resolver in &self.resolvers {
            match tokio::time::timeout(ATTEMPT_TIMEOUT, exchange(*resolver, question)).await {
                Ok(Ok(message)) => match message.metadata.response_code {
                    ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => refused = Some(message),
                    _ => {
                        let message = Arc::new(message);
                        self.keep(question, &message);
                        return Some(message);
                    }
                },
                Ok(Err(error)) => tracing::debug!(%resolver, err = %error, "a resolver failed"),
                Err(_) => tracing::debug!(%resolver, "a resolver did not answer in time"),
            }
        }
        refused.map(Arc::new)
    }

    fn keep(&self, question: &Question, message: &Arc<Message>) {
        let shortest = |records: &[hickory_proto::rr::Record]| records.iter().map(|record| record.ttl).min();
        let seconds = match shortest(&message.answers) {
            Some(seconds) => Duration::from_secs(seconds.into()),
            None => message
                .authorities
                .iter()
                .find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(Duration::from_secs(soa.minimum.min(record.ttl).into())),
                    _ => None,
                })
                .unwrap_or(NEGATIVE_CACHE_TIME),
        };
        let now = Instant::now();
        let until = now + seconds.min(CACHE_TIME);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.kept.len() >= CACHE_ENTRIES {
            state.kept.retain(|_, kept| kept.until > now);
            if state.kept.len() >= CACHE_ENTRIES {
                let victim = state.kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone());
                if let Some(victim) = victim {
                    state.kept.remove(&victim);
                }
            }
        }
        state.kept.insert(question.clone(), Kept { message: message.clone(), since: now, until });
    }
}

fn bad(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

async fn exchange(resolver: SocketAddr, question: &Question) -> io::Result<Message> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(question.dnssec);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(|_| bad("the question cannot be encoded"))?;
    let message = over_udp(resolver, &query, &bytes).await?;
    if message.metadata.truncation { over_tcp(resolver, &query, &bytes).await } else { Ok(message) }
}

fn answers(query: &Message, bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let same = message.metadata.id == query.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.queries.first().map(|q| (&q.name, q.query_type))
            == query.queries.first().map(|q| (&q.name, q.query_type));
    same.then_some(message)
}

async fn over_udp(resolver: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    // A socket a question: its port is one more thing a forger must guess.
    let any: IpAddr = if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = answers(query, &buffer[..length]) {
            return Ok(message);
        }
    }
}

async fn over_tcp(resolver: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| bad("the question is too long"))?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    answers(query, &buffer).ok_or_else(|| bad("the answer is to another question"))
}
