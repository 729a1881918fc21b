//! Sockets, messages and the order in which a question is answered: from the
//! cluster's names, else from the machine's resolvers.

use crate::directory::{Directory, SERVICE_NAME};
use crate::forward::Forwarder;
use crate::zone::{Answer, Zone};
use api::types::api::core::v1::{Namespace, Service};
use api::types::api::discovery::v1::EndpointSlice;
use client::{Client, Informer, WatchParams};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Largest datagram read, bytes; questions are far smaller.
const DATAGRAM: usize = 4096;
/// Payload of a client that does not say (RFC 1035 section 4.2.1).
const PLAIN_PAYLOAD: u16 = 512;
/// Largest UDP answer, whatever the client says it takes: what the loopback
/// and a pod's interface carry unfragmented.
const LARGEST_PAYLOAD: u16 = 1432;
/// Questions of one socket that wait for others at the same time.
const WAITING: usize = 1000;
/// TCP connections at the same time.
const CONNECTIONS: usize = 200;
/// A silent TCP connection is closed after this time (RFC 7766 section 6.2.3).
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
/// Names an answer may lead through before it ends.
const ALIASES: usize = 8;

/// What the DNS server is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsConfig {
    /// The cluster's domain.
    pub domain: String,
    /// Addresses to serve on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Resolvers for all other names, in order; see [`crate::resolvers`]. Those
    /// that are in `listen` are left out.
    pub resolvers: Vec<SocketAddr>,
}

/// Why the DNS server cannot start.
#[derive(thiserror::Error, Debug)]
pub enum DnsError {
    /// The domain is no domain name.
    #[error("{domain:?} is not a domain name")]
    Domain {
        /// The domain.
        domain: String,
    },
    /// An address could not be bound.
    #[error("cannot serve DNS on {address} over {transport}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A DNS server with its sockets open.
pub struct Dns {
    client: Client,
    core: Arc<Core>,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<TcpListener>,
}

struct Core {
    zone: Zone,
    directory: RwLock<Directory>,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

impl Dns {
    /// Opens the sockets. Port 0 takes a free one, the same for both
    /// transports if that can be.
    pub async fn bind(client: Client, config: DnsConfig) -> Result<Self, DnsError> {
        let zone = Zone::new(&config.domain).ok_or(DnsError::Domain { domain: config.domain })?;
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let failed = |transport| move |source| DnsError::Bind { address: *address, transport, source };
            let listener = TcpListener::bind(address).await.map_err(failed("tcp"))?;
            let bound = listener.local_addr().map_err(failed("tcp"))?;
            udp.push(Arc::new(UdpSocket::bind(bound).await.map_err(failed("udp"))?));
            tcp.push(listener);
        }
        let resolvers = config.resolvers.into_iter().filter(|resolver| !config.listen.contains(resolver)).collect();
        let core = Arc::new(Core {
            zone,
            directory: RwLock::new(Directory::default()),
            forwarder: Forwarder::new(resolvers),
            turn: AtomicUsize::new(0),
        });
        Ok(Self { client, core, udp, tcp })
    }

    /// Where it serves.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`. Until the cluster is known, questions about it
    /// wait in the sockets; clients ask again meanwhile.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { client, core, udp, tcp } = self;
        let (services, first) = Informer::<Service>::new(client.all(), WatchParams::default());
        let (slices, second) = Informer::<EndpointSlice>::new(client.all(), WatchParams::labels(SERVICE_NAME));
        let (namespaces, third) = Informer::<Namespace>::new(client.all(), WatchParams::default());
        let follow = core.clone().follow(services.clone(), slices.clone(), namespaces.clone(), shutdown.clone());
        let serve = async {
            let synced = async { tokio::join!(services.synced(), slices.synced(), namespaces.synced()) };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = synced => {}
            }
            let mut tasks = JoinSet::new();
            for socket in udp {
                tasks.spawn(serve_udp(core.clone(), socket, shutdown.clone()));
            }
            for listener in tcp {
                tasks.spawn(serve_tcp(core.clone(), listener, shutdown.clone()));
            }
            while tasks.join_next().await.is_some() {}
        };
        tokio::join!(
            first.run(shutdown.clone()),
            second.run(shutdown.clone()),
            third.run(shutdown.clone()),
            follow,
            serve
        );
    }
}

impl Core {
    async fn follow(
        self: Arc<Self>,
        services: Informer<Service>,
        slices: Informer<EndpointSlice>,
        namespaces: Informer<Namespace>,
        shutdown: CancellationToken,
    ) {
        let (mut services, mut slices, mut namespaces) =
            (services.subscribe(), slices.subscribe(), namespaces.subscribe());
        let write = || self.directory.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(delta) = services.next() => write().note_service(&delta),
                Some(delta) = slices.next() => write().note_slice(&delta),
                Some(delta) = namespaces.next() => write().note_namespace(&delta),
            }
        }
    }

    fn local(&self, name: &hickory_proto::rr::Name, kind: RecordType) -> Option<Answer> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        self.zone.answer(&directory, name, kind)
    }

    /// An answer that needs nobody else, or the request back.
    fn at_once(&self, request: Message) -> Result<Message, Message> {
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.checking_disabled = request.metadata.checking_disabled;
        response.queries = request.queries.clone();
        if let Some(edns) = &request.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(LARGEST_PAYLOAD).set_dnssec_ok(edns.flags().dnssec_ok);
            response.set_edns(ours);
            if edns.version() != 0 {
                response.metadata.response_code = ResponseCode::BADVERS;
                return Ok(response);
            }
        }
        let code = match (request.metadata.op_code, request.queries.as_slice()) {
            (OpCode::Query, [question]) if question.query_class == DNSClass::IN => None,
            (OpCode::Query, [_]) => Some(ResponseCode::Refused),
            (OpCode::Query, _) => Some(ResponseCode::FormErr),
            _ => Some(ResponseCode::NotImp),
        };
        if let Some(code) = code {
            response.metadata.response_code = code;
            return Ok(response);
        }
        let question = &request.queries[0];
        match self.local(&question.name, question.query_type) {
            Some(answer) if answer.continue_at.is_none() => {
                response.metadata.authoritative = true;
                response.metadata.response_code = answer.code;
                response.answers = self.rotated(answer.answers);
                response.additionals = answer.additionals;
                response.authorities = answer.authorities;
                Ok(response)
            }
            _ => Err(response),
        }
    }

    /// An answer for which others must be asked; `response` is prepared but for
    /// its records.
    async fn asking_others(&self, mut response: Message) -> Message {
        let Some(question) = response.queries.first().cloned() else { return response };
        let dnssec = response.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let (mut name, kind) = (question.name, question.query_type);
        for _alias in 0..ALIASES {
            match self.local(&name, kind) {
                Some(answer) => {
                    response.answers.extend(self.rotated(answer.answers));
                    response.authorities = answer.authorities;
                    response.metadata.response_code = answer.code;
                    match answer.continue_at {
                        Some(next) if kind != RecordType::CNAME => name = next,
                        _ => return response,
                    }
                }
                None => {
                    match self.forwarder.ask(&name, kind, dnssec).await {
                        Some(theirs) => {
                            response.metadata.response_code = theirs.metadata.response_code;
                            response.metadata.authentic_data = theirs.metadata.authentic_data;
                            response.answers.extend(theirs.answers);
                            response.authorities = theirs.authorities;
                            response.additionals = theirs.additionals;
                        }
                        // What we know ourselves is said even if nobody knows
                        // the rest.
                        None if response.answers.is_empty() => {
                            response.metadata.response_code = ResponseCode::ServFail;
                        }
                        None => {}
                    }
                    return response;
                }
            }
        }
        response.metadata.response_code = ResponseCode::ServFail;
        response
    }

    /// The address records begin with another one each time, for clients that
    /// take the first.
    fn rotated(&self, mut records: Vec<Record>) -> Vec<Record> {
        let addresses = records.iter().all(|record| matches!(record.data, RData::A(_) | RData::AAAA(_)));
        if addresses && records.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
            records.rotate_left(turn);
        }
        records
    }
}

/// Reads a question. `None`: not worth an answer.
fn parse(bytes: &[u8]) -> Option<Result<Message, Message>> {
    match Message::from_vec(bytes) {
        Ok(message) if message.metadata.message_type == MessageType::Query => Some(Ok(message)),
        Ok(_) => None,
        Err(_) => {
            // Answer only what claims to be a question, or two servers could
            // tell each other of their errors for ever.
            let header = bytes.get(..12)?;
            let is_query = header[2] & 0x80 == 0;
            let id = u16::from_be_bytes([header[0], header[1]]);
            is_query.then(|| Err(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr)))
        }
    }
}

fn encode(response: &Message, limit: Option<u16>) -> Option<Vec<u8>> {
    let bytes = response.to_vec().ok()?;
    let limit = limit.map_or(usize::from(u16::MAX), usize::from);
    if bytes.len() <= limit {
        return Some(bytes);
    }
    // Additional records are a courtesy; without them it may fit.
    let mut shorter = response.clone();
    shorter.additionals.clear();
    let bytes = shorter.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    shorter.answers.clear();
    shorter.authorities.clear();
    shorter.metadata.truncation = true;
    shorter.to_vec().ok()
}

fn payload(request: &Message) -> u16 {
    request.edns.as_ref().map_or(PLAIN_PAYLOAD, |edns| edns.max_payload().clamp(PLAIN_PAYLOAD, LARGEST_PAYLOAD))
}

async fn serve_udp(core: Arc<Core>, socket: Arc<UdpSocket>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(WAITING));
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // An earlier answer found nobody; the socket is well.
                Err(error) => {
                    tracing::debug!(err = %error, "receiving a question failed");
                    continue;
                }
            },
        };
        let Some(parsed) = parse(&buffer[..length]) else { continue };
        let limit = parsed.as_ref().map_or(PLAIN_PAYLOAD, payload);
        match parsed.map_or_else(Ok, |request| core.at_once(request)) {
            Ok(response) => {
                if let Some(bytes) = encode(&response, Some(limit)) {
                    send(&socket, &bytes, peer).await;
                }
            }
            Err(prepared) => {
                // Beyond the bound a question is dropped and asked again.
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let (core, socket) = (core.clone(), socket.clone());
                tasks.spawn(async move {
                    let response = core.asking_others(prepared).await;
                    if let Some(bytes) = encode(&response, Some(limit)) {
                        send(&socket, &bytes, peer).await;
                    }
                    drop(slot);
                });
            }
        }
    }
    tasks.shutdown().await;
}

async fn send(socket: &UdpSocket, bytes: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, peer).await {
        tracing::debug!(%peer, err = %error, "an answer could not be sent");
    }
}

async fn serve_tcp(core: Arc<Core>, listener: TcpListener, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let accept = async {
            // Beyond the bound, connections wait in the kernel's queue.
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let core = core.clone();
                tasks.spawn(async move {
                    if let Err(error) = serve_connection(&core, stream).await {
                        tracing::debug!(%peer, err = %error, "a DNS connection failed");
                    }
                    drop(slot);
                });
            }
            Err(error) => tracing::debug!(err = %error, "accepting a DNS connection failed"),
        }
    }
    tasks.shutdown().await;
}

async fn serve_connection(core: &Core, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = match tokio::time::timeout(CONNECTION_IDLE, read).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let Some(parsed) = parse(&bytes) else { return Ok(()) };
        let response = match parsed.map_or_else(Ok, |request| core.at_once(request)) {
            Ok(response) => response,
            Err(prepared) => core.asking_others(prepared).await,
        };
        let Some(bytes) = encode(&response, None) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
    }
}

#[cfg(test)]
mod tests;
