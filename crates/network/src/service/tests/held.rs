//! First packets that wait for an endpoint, between namespaces of the tests'
//! own.

use super::super::proxy::{Kernel, OpenQueue, Sync};
use super::{Fixture, at, config, names, set};
use crate::hold::{Hold, HoldLimits, Holding, Holds, Released};
use crate::testnet::{Netns, PATIENCE};
use api::types::api::core::v1::Service;
use api::types::api::discovery::v1::EndpointSlice;
use client::{Delta, ObjectKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A proxy that holds, and what it says.
struct Proxy {
    sync: Sync,
    service: Option<Arc<Service>>,
    slice: Option<Arc<EndpointSlice>>,
    /// Where endpoints are.
    node: &'static str,
    wanted: watch::Sender<Arc<Holds>>,
    applied: watch::Receiver<Arc<Holds>>,
    held: Receiver<(ObjectKey, Instant)>,
    released: Receiver<(ObjectKey, Released, Instant)>,
}

/// What the proxy calls.
pub(super) struct Calls {
    pub(super) held: Receiver<(ObjectKey, Instant)>,
    pub(super) released: Receiver<(ObjectKey, Released, Instant)>,
}

/// The proxy's end of everything, and the test's.
pub(super) fn holding(limits: HoldLimits) -> (Holding, watch::Sender<Arc<Holds>>, watch::Receiver<Arc<Holds>>, Calls) {
    let (want, wanted) = watch::channel(Arc::default());
    let (apply, applied) = watch::channel(Arc::default());
    let (tell_held, held) = mpsc::channel();
    let (tell_released, released) = mpsc::channel();
    let holding = Holding {
        wanted,
        applied: apply,
        on_held: Arc::new(move |service| {
            let _nobody_listens = tell_held.send((service.clone(), Instant::now()));
        }),
        on_released: Arc::new(move |service, released| {
            let _nobody_listens = tell_released.send((service.clone(), released, Instant::now()));
        }),
        limits,
    };
    (holding, want, applied, Calls { held, released })
}

fn key() -> ObjectKey {
    ObjectKey::new("n", "s")
}

fn holds(hold: Option<Hold>) -> Holds {
    hold.into_iter().map(|hold| (key(), hold)).collect()
}

impl Proxy {
    fn new(node: &Netns, limits: HoldLimits) -> Self {
        let config = config(node);
        let (holding, wanted, applied, calls) = holding(limits);
        let queue = OpenQueue::open(&config).unwrap();
        let kernel = Kernel::open(&config).unwrap();
        let mut sync = Sync::new(config, kernel);
        sync.hold(queue, holding);
        let Calls { held, released } = calls;
        Self { sync, service: None, slice: None, node: "here", wanted, applied, held, released }
    }

    fn service(&mut self, spec: Value, status: Value) {
        let mut whole = json!({
            "clusterIP": "10.43.0.10", "type": "NodePort",
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
            ],
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let whole = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": whole, "status": status});
        let service: Arc<Service> = Arc::new(serde_json::from_value(whole).unwrap());
        let delta = match self.service.replace(service.clone()) {
            Some(old) => Delta::Updated { old, new: service },
            None => Delta::Added(service),
        };
        let mut touched = BTreeSet::new();
        self.sync.note_service(&delta, &mut touched);
        self.sync.apply(touched).unwrap();
    }

    /// Replaces the Service's endpoints.
    fn serve(&mut self, addresses: &[IpAddr]) {
        let endpoints: Vec<_> = addresses.iter().map(|a| json!({"addresses": [a], "nodeName": self.node})).collect();
        let slice: Arc<EndpointSlice> = Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            }))
            .unwrap(),
        );
        let delta = match self.slice.replace(slice.clone()) {
            Some(old) => Delta::Updated { old, new: slice },
            None => Delta::Added(slice),
        };
        let mut touched = BTreeSet::new();
        self.sync.note_slice(&delta, &mut touched);
        self.sync.apply(touched).unwrap();
    }

    fn want(&mut self, wanted: Holds) {
        self.wanted.send_replace(Arc::new(wanted.clone()));
        let mut touched = BTreeSet::new();
        self.sync.note_wanted(&mut touched);
        self.sync.apply(touched).unwrap();
        assert_eq!(**self.applied.borrow_and_update(), wanted);
    }

    fn told(&self) -> Instant {
        let (service, when) = self.held.recv_timeout(PATIENCE).unwrap();
        assert_eq!(service, key());
        when
    }

    fn report(&self) -> Released {
        let (service, released, _) = self.released.recv_timeout(PATIENCE).unwrap();
        assert_eq!(service, key());
        released
    }

    /// How many packets went on, and how many were refused.
    fn counts(&self) -> (usize, usize) {
        let report = self.report();
        (report.packets, report.refused)
    }
}

/// Pods, and a node port Service without endpoints that is held.
fn asleep(pods: usize, limits: HoldLimits) -> (Fixture, Proxy) {
    let world = Fixture::new(pods);
    let mut proxy = Proxy::new(&world.node, limits);
    proxy.service(json!({}), json!({}));
    proxy.want(holds(Some(Hold::WhenUnserved)));
    (world, proxy)
}

/// Asks in the background: while its packet is held, the asker waits.
fn ask<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    from: &'scope Netns,
    to: &'static str,
) -> ScopedJoinHandle<'scope, (std::io::Result<String>, Instant)> {
    scope.spawn(move || {
        let answer = from.ask_tcp(at(to));
        (answer, Instant::now())
    })
}

/// Waits until this many packets have come in.
fn until_waiting(proxy: &Proxy, packets: usize) {
    let deadline = Instant::now() + PATIENCE;
    while proxy.sync.waiting() < packets {
        assert!(Instant::now() < deadline, "only {} wait", proxy.sync.waiting());
        std::thread::yield_now();
    }
}

fn refused_at_once(from: &Netns, to: &str) {
    let before = Instant::now();
    assert_eq!(from.ask_tcp(at(to)).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
    assert!(before.elapsed() < Duration::from_millis(500), "{to}: {:?}", before.elapsed());
}

#[test]
fn a_connection_waits_for_an_endpoint_and_keeps_the_clients_address() {
    let (world, mut proxy) = asleep(3, HoldLimits::default());
    let Fixture { node, outside, pods, .. } = &world;
    let own = pods[2].1.to_string();
    for (from, to, seen) in [
        (&pods[2].0, "10.43.0.10:80", own.as_str()),
        (&pods[2].0, "192.0.2.1:30080", ""),
        (outside, "192.0.2.1:30080", "192.0.2.2"),
        (node, "10.43.0.10:80", ""),
        (node, "192.0.2.1:30080", ""),
        (node, "127.0.0.1:30080", ""),
    ] {
        std::thread::scope(|scope| {
            let before = Instant::now();
            let asking = ask(scope, from, to);
            proxy.told();
            assert!(!asking.is_finished());
            proxy.serve(&[pods[0].1]);
            let answer = asking.join().unwrap().0.unwrap();
            assert!(answer.starts_with("a ") && answer.contains(seen), "{to}: {answer}");
            // The client's kernel repeats an unanswered segment after 1 s.
            assert!(before.elapsed() < Duration::from_millis(900), "{to}: {:?}", before.elapsed());
        });
        assert_eq!(proxy.counts(), (1, 0));
        // With an endpoint nothing waits, without one everything does again.
        assert_eq!(names(from, to, 2), set(&["a"]));
        proxy.serve(&[]);
        assert!(proxy.held.try_recv().is_err() && proxy.released.try_recv().is_err());
    }
}

#[test]
fn datagrams_wait_too_and_all_of_them_arrive() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    for (from, to, seen) in [
        (&world.pods[1].0, "10.43.0.10:53", world.pods[1].1.to_string()),
        (&world.outside, "192.0.2.1:30053", "192.0.2.2".to_owned()),
        (&world.node, "10.43.0.10:53", String::new()),
    ] {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(at(to)).unwrap();
        for _datagram in 0..3 {
            socket.send(b"hi").unwrap();
        }
        proxy.told();
        until_waiting(&proxy, 3);
        proxy.serve(&[world.pods[0].1]);
        let mut buffer = [0; 64];
        for _datagram in 0..3 {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]);
            assert!(text.starts_with("a ") && text.contains(&seen), "{to}: {text}");
        }
        assert_eq!(proxy.counts(), (3, 0));
        proxy.serve(&[]);
    }
}

#[test]
fn datagrams_of_one_socket_go_to_one_of_several_endpoints() {
    let (world, mut proxy) = asleep(4, HoldLimits::default());
    let endpoints = [world.pods[0].1, world.pods[1].1, world.pods[2].1];
    let mut answered = BTreeSet::new();
    for _wake in 0..20 {
        let socket = world.pods[3].0.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.connect(at("10.43.0.10:53")).unwrap();
        for _datagram in 0..5 {
            socket.send(b"hi").unwrap();
        }
        proxy.told();
        until_waiting(&proxy, 5);
        proxy.serve(&endpoints);
        let mut buffer = [0; 64];
        let names: Vec<_> = (0..5)
            .map(|_| {
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned()
            })
            .collect();
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        answered.insert(names[0].clone());
        assert_eq!(proxy.counts(), (5, 0));
        proxy.serve(&[]);
    }
    assert!(answered.len() > 1, "{answered:?}");
}

#[test]
fn all_wait_while_a_workload_is_taken_down_and_open_connections_go_on() {
    let (world, mut proxy) = asleep(3, HoldLimits::default());
    proxy.serve(&[world.pods[0].1]);
    let mut open = world.pods[2].0.run(|| TcpStream::connect(at("10.43.0.10:80")).unwrap());
    proxy.want(holds(Some(Hold::Always)));
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    open.write_all(b"still").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("a ") && answer.ends_with("still"), "{answer}");
    std::thread::scope(|scope| {
        let asking = [ask(scope, &world.pods[2].0, "10.43.0.10:80"), ask(scope, &world.outside, "192.0.2.1:30080")];
        until_waiting(&proxy, 2);
        // Another endpoint changes nothing.
        proxy.serve(&[world.pods[0].1, world.pods[1].1]);
        assert!(asking.iter().all(|asking| !asking.is_finished()));
        proxy.want(holds(Some(Hold::WhenUnserved)));
        for asking in asking {
            asking.join().unwrap().0.unwrap();
        }
    });
    assert_eq!(proxy.counts(), (2, 0));
}

#[test]
fn a_service_that_is_not_held_refuses_as_ever_and_so_does_one_let_go_without_endpoints() {
    let (world, mut proxy) = asleep(1, HoldLimits::default());
    let Fixture { node, outside, pods, .. } = &world;
    std::thread::scope(|scope| {
        let asking = [
            ask(scope, &pods[0].0, "10.43.0.10:80"),
            ask(scope, node, "10.43.0.10:80"),
            ask(scope, outside, "192.0.2.1:30080"),
        ];
        until_waiting(&proxy, 3);
        let before = Instant::now();
        proxy.want(Holds::new());
        for asking in asking {
            let (answer, when) = asking.join().unwrap();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(when - before < Duration::from_millis(300), "{:?}", when - before);
        }
    });
    proxy.told();
    assert_eq!(proxy.counts(), (0, 3));
    for from in [&pods[0].0, node] {
        refused_at_once(from, "10.43.0.10:80");
        refused_at_once(from, "192.0.2.1:30080");
    }
    refused_at_once(outside, "192.0.2.1:30080");
    assert!(proxy.held.try_recv().is_err());
}

#[test]
fn clients_of_a_service_that_is_deleted_are_refused_at_once() {
    let (world, mut proxy) = asleep(1, HoldLimits::default());
    std::thread::scope(|scope| {
        let asking = [ask(scope, &world.pods[0].0, "10.43.0.10:80"), ask(scope, &world.outside, "192.0.2.1:30080")];
        until_waiting(&proxy, 2);
        let before = Instant::now();
        let mut touched = BTreeSet::new();
        proxy.sync.note_service(&Delta::Deleted(proxy.service.take().unwrap()), &mut touched);
        proxy.sync.apply(touched).unwrap();
        for asking in asking {
            let (answer, when) = asking.join().unwrap();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(when - before < Duration::from_millis(300), "{:?}", when - before);
        }
    });
    assert_eq!(proxy.counts(), (0, 2));
    assert!(proxy.applied.borrow_and_update().is_empty());
}

#[test]
fn past_the_time_a_client_is_refused_and_the_next_is_reported_again() {
    let limits = HoldLimits { time: Duration::from_millis(300), ..HoldLimits::default() };
    let (world, proxy) = asleep(1, limits);
    for (from, tcp, udp) in [
        (&world.pods[0].0, "10.43.0.10:80", "10.43.0.10:53"),
        (&world.node, "10.43.0.10:80", "10.43.0.10:53"),
        (&world.outside, "192.0.2.1:30080", "192.0.2.1:30053"),
    ] {
        for transport in ["TCP", "UDP"] {
            let before = Instant::now();
            let answer = if transport == "TCP" { from.ask_tcp(at(tcp)) } else { from.ask_udp(at(udp)) };
            let waited = before.elapsed();
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::ConnectionRefused, "{tcp} {transport}");
            assert!(waited >= limits.time && waited < limits.time * 3, "{tcp} {transport}: {waited:?}");
            proxy.told();
            let report = proxy.report();
            assert_eq!((report.packets, report.refused), (0, 1));
            assert!(report.first_held >= limits.time);
        }
    }
}

#[test]
fn a_flood_at_one_service_is_refused_at_once_and_another_still_waits() {
    let (world, mut proxy) = asleep(2, HoldLimits { packets_per_service: 4, ..HoldLimits::default() });
    let Fixture { node, outside, pods, .. } = &world;
    let other = ObjectKey::new("n", "t");
    let service = json!({
        "metadata": {"name": "t", "namespace": "n"},
        "spec": {"clusterIP": "10.43.0.11", "ports": [{"name": "web", "port": 80}]},
    });
    let service: Service = serde_json::from_value(service).unwrap();
    let mut touched = BTreeSet::new();
    proxy.sync.note_service(&Delta::Added(Arc::new(service)), &mut touched);
    proxy.sync.apply(touched).unwrap();
    proxy.want(Holds::from([(key(), Hold::WhenUnserved), (other.clone(), Hold::WhenUnserved)]));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4).map(|_| ask(scope, &pods[1].0, "10.43.0.10:80")).collect();
        until_waiting(&proxy, 4);
        proxy.told();
        for _attempt in 0..20 {
            refused_at_once(&pods[1].0, "10.43.0.10:80");
            refused_at_once(node, "10.43.0.10:80");
            refused_at_once(outside, "192.0.2.1:30080");
        }
        let elsewhere = ask(scope, &pods[1].0, "10.43.0.11:80");
        assert_eq!(proxy.held.recv_timeout(PATIENCE).unwrap().0, other);
        proxy.serve(&[pods[0].1]);
        for waiting in waiting {
            assert!(waiting.join().unwrap().0.unwrap().starts_with("a "));
        }
        assert!(!elsewhere.is_finished());
        assert_eq!(proxy.counts(), (4, 60));
        proxy.want(Holds::new());
        assert_eq!(elsewhere.join().unwrap().0.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_repeated_first_segment_is_one_connection() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    std::thread::scope(|scope| {
        let before = Instant::now();
        let asking = ask(scope, &world.pods[1].0, "10.43.0.10:80");
        proxy.told();
        // Past the first repetition, which the client's kernel sends after 1 s.
        std::thread::sleep(Duration::from_millis(1300).saturating_sub(before.elapsed()));
        assert_eq!(proxy.sync.waiting(), 1);
        let before = Instant::now();
        proxy.serve(&[world.pods[0].1]);
        let (answer, when) = asking.join().unwrap();
        assert!(answer.unwrap().starts_with("a "));
        assert!(when - before < Duration::from_millis(500), "{:?}", when - before);
    });
    let report = proxy.report();
    assert_eq!((report.packets, report.refused), (1, 0));
    assert!(report.first_held > Duration::from_secs(1));
    assert!(proxy.held.try_recv().is_err());
}

#[test]
fn a_client_outside_the_source_ranges_does_not_wake() {
    let (world, mut proxy) = asleep(1, HoldLimits::default());
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    let ranges = |range: &str| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [range]});
    proxy.service(ranges("203.0.113.0/24"), status.clone());
    let socket = world.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send_to(b"hi", "192.0.2.1:53").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err();
    assert!(proxy.held.try_recv().is_err());
    proxy.service(ranges("192.0.2.0/24"), status);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"hi", "192.0.2.1:53").unwrap();
    proxy.told();
    proxy.serve(&[world.pods[0].1]);
    assert_eq!(proxy.counts(), (1, 0));
    socket.recv(&mut [0; 16]).unwrap();
}

#[test]
fn what_a_former_run_held_stays_held_through_restarts_and_nobody_is_refused() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    let holds = holds(Some(Hold::WhenUnserved));
    std::thread::scope(|scope| {
        let mut asking = Vec::new();
        for _restart in 0..2 {
            // What waits is dropped, and repeated by the clients.
            asking.push(ask(scope, &world.pods[1].0, "10.43.0.10:80"));
            proxy.told();
            drop(proxy.sync);
            // Nobody has the queue.
            asking.push(ask(scope, &world.outside, "192.0.2.1:30080"));
            asking.push(ask(scope, &world.node, "10.43.0.10:80"));
            proxy = Proxy::new(&world.node, HoldLimits::default());
            // Nobody has said yet what is wanted.
            proxy.service(json!({}), json!({}));
            assert_eq!(**proxy.applied.borrow_and_update(), holds);
        }
        proxy.told();
        until_waiting(&proxy, asking.len());
        // That it is wanted changes nothing.
        proxy.wanted.send_replace(Arc::new(holds));
        let mut touched = BTreeSet::new();
        proxy.sync.note_wanted(&mut touched);
        assert_eq!(touched, BTreeSet::new());
        proxy.serve(&[world.pods[0].1]);
        for asking in asking {
            assert!(asking.join().unwrap().0.unwrap().starts_with("a "));
        }
        assert_eq!(proxy.counts(), (6, 0));
    });
}

#[test]
fn endpoints_elsewhere_do_not_make_clients_wait_whom_a_local_policy_keeps_out() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    let elsewhere = json!({"externalTrafficPolicy": "Local"});
    proxy.service(elsewhere, json!({}));
    proxy.node = "elsewhere";
    proxy.serve(&[world.pods[0].1]);
    proxy.want(holds(Some(Hold::Always)));
    let socket = world.outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send_to(b"hi", "192.0.2.1:30053").unwrap();
    socket.recv(&mut [0; 16]).unwrap_err();
    assert!(proxy.held.try_recv().is_err());
    std::thread::scope(|scope| {
        let asking = [ask(scope, &world.pods[1].0, "192.0.2.1:30080"), ask(scope, &world.node, "192.0.2.1:30080")];
        until_waiting(&proxy, 2);
        proxy.want(Holds::new());
        for asking in asking {
            assert!(asking.join().unwrap().0.unwrap().starts_with("a "));
        }
    });
    assert_eq!(proxy.counts(), (2, 0));
}

#[test]
fn a_flood_leaves_the_queue_to_others() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    let other = ObjectKey::new("n", "t");
    let service = json!({
        "metadata": {"name": "t", "namespace": "n"},
        "spec": {"clusterIP": "10.43.0.11", "ports": [{"name": "web", "port": 80}]},
    });
    let mut touched = BTreeSet::new();
    proxy.sync.note_service(&Delta::Added(Arc::new(serde_json::from_value(service).unwrap())), &mut touched);
    proxy.sync.apply(touched).unwrap();
    proxy.want(Holds::from([(key(), Hold::WhenUnserved), (other.clone(), Hold::WhenUnserved)]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            // Every datagram asks for a connection: none is answered.
            let bind = |_| UdpSocket::bind("0.0.0.0:0").unwrap();
            let sockets: Vec<_> = world.outside.run(|| (0..300).map(bind).collect());
            let mut sent = 0_u64;
            for socket in sockets.iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let _refused = socket.send_to(b"x", "192.0.2.1:30053");
                sent += 1;
            }
            sent
        });
        proxy.told();
        let start = Instant::now();
        let mut heard = Vec::new();
        for _wake in 0..100 {
            let before = Instant::now();
            let asking = ask(scope, &world.pods[1].0, "10.43.0.11:80");
            assert_eq!(proxy.held.recv_timeout(PATIENCE).unwrap().0, other);
            heard.push(before.elapsed());
            proxy.want(holds(Some(Hold::WhenUnserved)));
            asking.join().unwrap().0.unwrap_err();
            assert_eq!(proxy.released.recv_timeout(PATIENCE).unwrap().0, other);
            proxy.want(Holds::from([(key(), Hold::WhenUnserved), (other.clone(), Hold::WhenUnserved)]));
        }
        let elapsed = start.elapsed();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let sent = flood.join().unwrap();
        heard.sort();
        println!("beside {sent} datagrams in {elapsed:?}: p50 {:?}, max {:?}", heard[50], heard[99]);
        assert!(heard[99] < Duration::from_millis(900), "a segment was repeated: {:?}", heard[99]);
    });
}

#[test]
fn five_hundred_services_that_wake_at_once_answer_every_datagram() {
    const SERVICES: u8 = 250;
    let world = Fixture::new(4);
    let mut proxy = Proxy::new(&world.node, HoldLimits::default());
    let all: Vec<_> = [1, 2].iter().flat_map(|part| (1..=SERVICES).map(move |last| (*part, last))).collect();
    let (mut touched, mut wanted) = (BTreeSet::new(), Holds::new());
    for (part, last) in &all {
        let name = format!("s-{part}-{last}");
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"clusterIP": format!("10.43.{part}.{last}"), "ports": [{"port": 53, "protocol": "UDP"}]},
        }))
        .unwrap();
        proxy.sync.note_service(&Delta::Added(Arc::new(service)), &mut touched);
        wanted.insert(ObjectKey::new("n", name), Hold::WhenUnserved);
    }
    proxy.sync.apply(touched).unwrap();
    proxy.want(wanted);
    let sockets = world.pods[3].0.run(|| {
        let connect = |(part, last): &(u8, u8)| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((Ipv4Addr::new(10, 43, *part, *last), 53)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        all.iter().map(connect).collect::<Vec<_>>()
    });
    let before = Instant::now();
    for socket in &sockets {
        socket.send(b"hi").unwrap();
    }
    for _service in &all {
        proxy.held.recv_timeout(PATIENCE).unwrap();
    }
    let heard = before.elapsed();
    let mut touched = BTreeSet::new();
    // One server's socket would not take so many at once.
    for ((part, last), pod) in all.iter().zip([0, 1, 2].into_iter().cycle()) {
        let name = format!("s-{part}-{last}");
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [world.pods[pod].1]}],
            "ports": [{"port": 5353, "protocol": "UDP"}],
        }))
        .unwrap();
        proxy.sync.note_slice(&Delta::Added(Arc::new(slice)), &mut touched);
    }
    let served = Instant::now();
    proxy.sync.apply(touched).unwrap();
    for socket in &sockets {
        socket.recv(&mut [0; 64]).unwrap();
    }
    println!("{} services: all reported after {heard:?}, all answered {:?} later", all.len(), served.elapsed());
    assert!(proxy.released.iter().take(all.len()).all(|(_, report, _)| (report.packets, report.refused) == (1, 0)));
}

#[test]
fn going_to_sleep_and_waking_lose_no_connection_however_they_race() {
    race(|proxy, endpoint| {
        proxy.serve(&[endpoint]);
        proxy.want(holds(Some(Hold::Always)));
        proxy.serve(&[]);
        proxy.want(holds(Some(Hold::WhenUnserved)));
    });
}

#[test]
fn an_endpoint_that_comes_and_goes_loses_no_connection_of_a_held_service() {
    race(|proxy, endpoint| {
        proxy.serve(&[endpoint]);
        proxy.serve(&[]);
    });
}

/// Does this again and again while clients connect.
fn race(turn: impl Fn(&mut Proxy, IpAddr)) {
    const TURNS: usize = 1000;
    let (world, mut proxy) = asleep(3, HoldLimits::default());
    // Without UDP: for that, connections are listed when endpoints go.
    proxy.service(json!({"ports": [{"name": "web", "port": 80, "nodePort": 30080}]}), json!({}));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let Fixture { node, outside, pods, .. } = &world;
    std::thread::scope(|scope| {
        let clients: Vec<_> = [
            // Each has a way of its own, or they would be taken for a flood.
            (&pods[1].0, "10.43.0.10:80"),
            (&pods[2].0, "10.42.0.1:30080"),
            (outside, "192.0.2.1:30080"),
            (node, "127.0.0.1:30080"),
        ]
        .into_iter()
        .map(|(from, to)| {
            let stop = &stop;
            scope.spawn(move || {
                let (mut asked, mut slowest) = (0, Duration::ZERO);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let before = Instant::now();
                    let answer = from.ask_tcp(at(to)).unwrap_or_else(|error| panic!("{to}: {error} after {asked}"));
                    assert!(answer.starts_with("a "), "{to}: {answer}");
                    slowest = slowest.max(before.elapsed());
                    asked += 1;
                }
                (asked, slowest)
            })
        })
        .collect();
        for _turn in 0..TURNS {
            turn(&mut proxy, pods[0].1);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        proxy.serve(&[pods[0].1]);
        for client in clients {
            let (asked, slowest) = client.join().unwrap();
            println!("{asked} connections, slowest {slowest:?}");
            assert!(asked > 0 && slowest < Duration::from_millis(900), "a segment was repeated: {slowest:?}");
        }
    });
    assert!(proxy.released.try_iter().all(|(_, report, _)| report.refused == 0));
}

#[test]
fn a_thousand_connections_each_wait_and_none_is_lost() {
    let (world, mut proxy) = asleep(2, HoldLimits::default());
    // Without UDP: for that, connections are listed when endpoints go.
    proxy.service(json!({"ports": [{"name": "web", "port": 80, "nodePort": 30080}]}), json!({}));
    let to: SocketAddr = at("10.43.0.10:80");
    let (ask, asked) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel::<(Instant, Instant)>();
    let client = &world.pods[1].0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            client.run(move || {
                for () in asked {
                    let before = Instant::now();
                    let mut stream = TcpStream::connect(to).unwrap();
                    let connected = Instant::now();
                    stream.write_all(b"hi").unwrap();
                    let mut text = String::new();
                    stream.read_to_string(&mut text).unwrap();
                    assert!(text.starts_with("a "), "{text}");
                    answer.send((before, connected)).unwrap();
                }
            });
        });
        let (mut heard, mut let_go, mut through) = (Vec::new(), Vec::new(), Vec::new());
        for _connection in 0..1000 {
            ask.send(()).unwrap();
            let told = proxy.told();
            let before = Instant::now();
            proxy.serve(&[world.pods[0].1]);
            let (asked, connected) = answered.recv_timeout(PATIENCE).unwrap();
            let (_, report, released) = proxy.released.recv_timeout(PATIENCE).unwrap();
            assert_eq!((report.packets, report.refused), (1, 0));
            heard.push(told - asked);
            let_go.push(released - before);
            through.push(connected.saturating_duration_since(released));
            proxy.serve(&[]);
        }
        drop(ask);
        for (what, mut times) in [
            ("first segment sent to Service reported", heard),
            ("endpoint known to packet let go", let_go),
            ("packet let go to connected", through),
        ] {
            times.sort();
            println!("{what}: p50 {:?}, p99 {:?}, max {:?}", times[500], times[990], times[999]);
            assert!(times[500] < Duration::from_millis(50), "{what}: {:?}", times[500]);
        }
    });
}
