//! Real sockets on loopback, the cluster's names from a fixed directory.

use super::*;
use crate::zone::tests::{directory, service};
use hickory_proto::op::Query;
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::A;
use serde_json::json;

struct Server {
    udp: SocketAddr,
    tcp: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Server {
    async fn start(resolvers: Vec<SocketAddr>) -> Self {
        let mut directory = directory();
        let many: Vec<_> = (1..=200).map(|i| format!("10.43.1.{i}")).collect();
        directory.note_service(&client::Delta::Added(service("many", json!({"clusterIPs": many}))));
        let core = Arc::new(Core {
            zone: Zone::new("cluster.local").unwrap(),
            directory: RwLock::new(directory),
            forwarder: Forwarder::new(resolvers),
            turn: AtomicUsize::new(0),
        });
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(core.clone(), socket, shutdown.clone()));
        tasks.spawn(serve_tcp(core, listener, shutdown.clone()));
        Self { udp, tcp, shutdown, tasks }
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn exchange(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let receive = socket.recv(&mut buffer);
    let length = tokio::time::timeout(Duration::from_secs(5), receive).await.unwrap().unwrap();
    buffer.truncate(length);
    buffer
}

async fn ask(server: SocketAddr, message: &Message) -> Message {
    Message::from_vec(&exchange(server, &message.to_vec().unwrap()).await).unwrap()
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// A resolver that knows one address for every name, says so over TCP only for
/// names that begin with `big`, and counts the questions.
async fn resolver() -> (SocketAddr, Arc<AtomicUsize>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(address).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let answer = |bytes: &[u8], truncate: bool| {
        let request = Message::from_vec(bytes).unwrap();
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.queries = request.queries.clone();
        let name = request.queries[0].name.clone();
        if truncate && name.to_ascii().starts_with("big") {
            response.metadata.truncation = true;
        } else if name.to_ascii().starts_with("missing") {
            response.metadata.response_code = ResponseCode::NXDomain;
        } else {
            response.add_answer(Record::from_rdata(name, 300, RData::A(A("192.0.2.9".parse().unwrap()))));
        }
        response.to_vec().unwrap()
    };
    let mut tasks = JoinSet::new();
    let counter = count.clone();
    tasks.spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            socket.send_to(&answer(&buffer[..length], true), peer).await.unwrap();
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut bytes = vec![0; usize::from(length)];
            stream.read_exact(&mut bytes).await.unwrap();
            let bytes = answer(&bytes, false);
            stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    (address, count, tasks)
}

#[tokio::test]
async fn the_cluster_is_answered_over_udp_and_tcp() {
    let server = Server::start(Vec::new()).await;
    for answer in [
        ask(server.udp, &question("web.default.svc.cluster.local.", RecordType::A)).await,
        ask_tcp(server.tcp, &question("web.default.svc.cluster.local.", RecordType::A)).await,
    ] {
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.answers.len(), 1);
        assert!(answer.edns.is_none());
    }
    let absent = ask(server.udp, &question("x.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(absent.authorities.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_truncated_and_whole_over_tcp() {
    let server = Server::start(Vec::new()).await;
    let plain = question("many.default.svc.cluster.local.", RecordType::A);
    let answer = ask(server.udp, &plain).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut extended = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    extended.set_edns(edns);
    let answer = ask(server.udp, &extended).await;
    assert!(answer.metadata.truncation && answer.edns.is_some());
    let answer = ask_tcp(server.tcp, &plain).await;
    assert_eq!(answer.answers.len(), 200);
    server.stop().await;
}

#[tokio::test]
async fn other_names_are_asked_of_the_resolvers_once_and_kept() {
    let (first, count, _tasks) = resolver().await;
    // One that does not exist is passed over.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::start(vec![dead, first]).await;
    for _time in 0..3 {
        let answer = ask(server.udp, &question("example.com.", RecordType::A)).await;
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.9");
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let big = ask(server.udp, &question("big.example.com.", RecordType::A)).await;
    assert_eq!(big.answers.len(), 1);
    let missing = ask(server.udp, &question("missing.example.com.", RecordType::A)).await;
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    server.stop().await;
}

#[tokio::test]
async fn an_external_name_is_followed_inside_and_outside_and_never_in_circles() {
    let (address, _count, _tasks) = resolver().await;
    let server = Server::start(vec![address]).await;
    let answer = ask(server.udp, &question("ext.default.svc.cluster.local.", RecordType::A)).await;
    let data: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["db.example.com.", "192.0.2.9"]);
    let answer = ask(server.udp, &question("alias.default.svc.cluster.local.", RecordType::A)).await;
    let data: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["web.default.svc.cluster.local.", "10.43.0.5"]);
    let answer = ask(server.udp, &question("ext.default.svc.cluster.local.", RecordType::CNAME)).await;
    assert_eq!(answer.answers.len(), 1);
    let answer = ask(server.udp, &question("loop.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.stop().await;
}

#[tokio::test]
async fn without_resolvers_other_names_fail_and_the_cluster_works() {
    let server = Server::start(Vec::new()).await;
    let answer = ask(server.udp, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let answer = ask(server.udp, &question("ext.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn malformed_and_odd_messages_get_an_error_or_nothing_and_do_no_harm() {
    let server = Server::start(Vec::new()).await;
    let broken = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63];
    let answer = Message::from_vec(&exchange(server.udp, &broken).await).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (0x1234, ResponseCode::FormErr));
    let mut update = question("web.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(ask(server.udp, &update).await.metadata.response_code, ResponseCode::NotImp);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(ask(server.udp, &chaos).await.metadata.response_code, ResponseCode::Refused);
    let mut future = question("web.default.svc.cluster.local.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    future.set_edns(edns);
    // 16 has two names, depending on where it stands.
    assert_eq!(u16::from(ask(server.udp, &future).await.metadata.response_code), 16);
    // Answers and fragments are not answered.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut reflected = question("web.default.svc.cluster.local.", RecordType::A);
    reflected.metadata.message_type = MessageType::Response;
    socket.send_to(&reflected.to_vec().unwrap(), server.udp).await.unwrap();
    socket.send_to(&[1, 2, 3], server.udp).await.unwrap();
    let answer = ask(server.udp, &question("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
    socket.try_recv(&mut [0; 16]).unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn addresses_take_turns() {
    let server = Server::start(Vec::new()).await;
    let mut firsts = std::collections::BTreeSet::new();
    for _time in 0..2 {
        let answer = ask(server.udp, &question("db.default.svc.cluster.local.", RecordType::A)).await;
        firsts.insert(answer.answers[0].data.to_string());
    }
    assert_eq!(firsts.len(), 2);
    server.stop().await;
}
