//! Traffic between namespaces of the test's own.

use super::*;
use crate::pod::{PodNetwork, PodNetworkConfig};
use crate::testnet::{Netns, PATIENCE, exchange_udp};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver as Channel};

struct Fixture {
    node: Netns,
    network: PodNetwork,
    one: (Netns, IpAddr),
    two: (Netns, IpAddr),
    activity: Activity,
    wakes: Channel<(IpAddr, Instant)>,
    answers: Channel<(IpAddr, Duration)>,
}

struct Channels {
    wakes: mpsc::Sender<(IpAddr, Instant)>,
    answers: mpsc::Sender<(IpAddr, Duration)>,
}

impl Watcher for Channels {
    fn woken(&self, address: IpAddr) {
        let _nobody_listens = self.wakes.send((address, Instant::now()));
    }

    fn answered(&self, address: IpAddr, after: Duration) {
        let _nobody_listens = self.answers.send((address, after));
    }
}

fn config(node: &Netns) -> ActivityConfig {
    let mut config = ActivityConfig::new("10.42.0.0/24".parse().unwrap());
    config.namespace = Some(node.path());
    config
}

type Heard = (Channel<(IpAddr, Instant)>, Channel<(IpAddr, Duration)>);

fn open(node: &Netns) -> (Activity, Heard) {
    let ((wakes, woken), (answers, answered)) = (mpsc::channel(), mpsc::channel());
    (Activity::open(config(node), Arc::new(Channels { wakes, answers })).unwrap(), (woken, answered))
}

impl Fixture {
    fn new() -> Self {
        let node = Netns::new();
        let mut config = PodNetworkConfig::new("10.42.0.0/24".parse().unwrap(), "10.42.0.0/16".parse().unwrap());
        config.namespace = Some(node.path());
        let network = PodNetwork::open(config).unwrap();
        let pod = |id| {
            let netns = Netns::new();
            let address = network.attach(id, &netns.path(), &[]).unwrap().addresses[0];
            (netns, address)
        };
        let (one, two) = (pod("one"), pod("two"));
        let (activity, (wakes, answers)) = open(&node);
        Self { node, network, one, two, activity, wakes, answers }
    }

    fn woken(&self) -> IpAddr {
        self.wakes.recv_timeout(PATIENCE).unwrap().0
    }

    /// Nothing was reported: a packet that would be, to another address, comes
    /// through first.
    fn nothing_reported(&self) {
        self.activity.arm(self.two.1).unwrap();
        let decoy = self.two.1;
        self.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", at(decoy, 9)).unwrap());
        assert_eq!(self.woken(), self.two.1);
    }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

#[test]
fn the_first_packet_to_a_sleeper_is_reported_once_and_passes_on() {
    let fixture = Fixture::new();
    let (pod, address) = &fixture.one;
    pod.serve_tcp(at(*address, 80), "one");
    for asker in [&fixture.node, &fixture.two.0] {
        fixture.activity.arm(*address).unwrap();
        assert_eq!(fixture.activity.armed().unwrap(), BTreeSet::from([*address]));
        assert!(asker.ask_tcp(at(*address, 80)).unwrap().starts_with("one "));
        assert_eq!(fixture.woken(), *address);
        assert!(fixture.activity.armed().unwrap().is_empty());
        assert!(!fixture.activity.disarm(*address).unwrap());
        fixture.nothing_reported();
    }
    pod.serve_udp(at(*address, 53), "one");
    fixture.activity.arm(*address).unwrap();
    fixture.two.0.ask_udp(at(*address, 53)).unwrap();
    assert_eq!(fixture.woken(), *address);
}

#[test]
fn the_first_data_after_a_wake_is_its_answer_and_the_handshake_is_not() {
    let fixture = Fixture::new();
    let (pod, address) = &fixture.one;
    let listener = pod.run(|| TcpListener::bind(at(*address, 80)).unwrap());
    for _wake in 0..2 {
        fixture.activity.arm(*address).unwrap();
        let stream = fixture.node.run(|| TcpStream::connect(at(*address, 80)).unwrap());
        assert_eq!(fixture.woken(), *address);
        // The kernel has answered the handshake; the program takes its time.
        let pause = Duration::from_millis(30);
        std::thread::sleep(pause);
        let (accepted, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut &accepted, b"x").unwrap();
        std::io::Read::read_exact(&mut &stream, &mut [0; 1]).unwrap();
        let (answered, after) = fixture.answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answered, *address);
        assert!(after >= pause && after < pause + Duration::from_millis(500), "{after:?}");
        std::io::Write::write_all(&mut &accepted, b"y").unwrap();
        std::io::Read::read_exact(&mut &stream, &mut [0; 1]).unwrap();
        fixture.nothing_reported();
        assert!(fixture.answers.try_recv().is_err(), "only the first is an answer");
    }
    pod.serve_udp(at(*address, 53), "one");
    fixture.activity.arm(*address).unwrap();
    fixture.node.ask_udp(at(*address, 53)).unwrap();
    assert_eq!(fixture.answers.recv_timeout(PATIENCE).unwrap().0, *address);
}

#[test]
fn a_packet_from_outside_wakes_too() {
    let fixture = Fixture::new();
    let outside = Netns::new();
    fixture.node.cable("up", "192.0.2.1".parse().unwrap(), &outside, "192.0.2.2".parse().unwrap());
    outside.default_route("up", "192.0.2.1".parse().unwrap());
    fixture.one.0.serve_tcp(at(fixture.one.1, 80), "one");
    fixture.activity.arm(fixture.one.1).unwrap();
    assert_eq!(outside.ask_tcp(at(fixture.one.1, 80)).unwrap(), "one 192.0.2.2 hi");
    assert_eq!(fixture.woken(), fixture.one.1);
}

#[test]
fn a_disarmed_address_is_not_reported() {
    let fixture = Fixture::new();
    fixture.activity.arm(fixture.one.1).unwrap();
    assert!(fixture.activity.disarm(fixture.one.1).unwrap());
    fixture.one.0.serve_udp(at(fixture.one.1, 53), "one");
    fixture.node.ask_udp(at(fixture.one.1, 53)).unwrap();
    fixture.nothing_reported();
}

#[test]
fn segments_without_data_neither_wake_nor_count() {
    let fixture = Fixture::new();
    let (pod, address) = &fixture.one;
    let listener = pod.run(|| TcpListener::bind(at(*address, 80)).unwrap());
    let stream = fixture.node.run(|| TcpStream::connect(at(*address, 80)).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    fixture.activity.track(*address).unwrap();
    fixture.activity.arm(*address).unwrap();
    // A keep-alive after one second, then a FIN: both without data.
    rustix::net::sockopt::set_socket_keepalive(stream.as_fd(), true).unwrap();
    rustix::net::sockopt::set_tcp_keepidle(stream.as_fd(), Duration::from_secs(1)).unwrap();
    let unacknowledged = || rustix::net::sockopt::socket_error(stream.as_fd()).unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    assert!(unacknowledged().is_ok());
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // The FIN has arrived when the peer reads the end.
    assert_eq!(std::io::Read::read(&mut &accepted, &mut [0; 8]).unwrap(), 0);
    fixture.nothing_reported();
    assert!(fixture.activity.since_last(*address).unwrap() >= Duration::from_millis(1200));
    // Data the other way is activity of the pod.
    std::io::Write::write_all(&mut &accepted, b"x").unwrap();
    std::io::Read::read_exact(&mut &stream, &mut [0; 1]).unwrap();
    assert!(fixture.activity.since_last(*address).unwrap() < Duration::from_millis(500));
}

#[test]
fn marked_connections_are_no_activity_in_either_direction() {
    let fixture = Fixture::new();
    let (pod, address) = &fixture.one;
    pod.serve_udp(at(*address, 53), "one");
    fixture.activity.track(*address).unwrap();
    fixture.activity.arm(*address).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let socket = fixture.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    crate::activity::set_mark(socket.as_fd(), ActivityConfig::PROBE_MARK).unwrap();
    assert!(exchange_udp(&socket, at(*address, 53)).unwrap().starts_with("one "));
    assert!(fixture.activity.since_last(*address).unwrap() >= Duration::from_millis(90));
    fixture.nothing_reported();
    fixture.node.ask_udp(at(*address, 53)).unwrap();
    assert_eq!(fixture.woken(), *address);
    assert!(fixture.activity.since_last(*address).unwrap() < Duration::from_millis(90));
}

#[test]
fn idleness_is_reported_when_its_deadline_has_passed_without_traffic() {
    let fixture = Fixture::new();
    let address = fixture.one.1;
    fixture.one.0.serve_udp(at(address, 53), "one");
    fixture.activity.track(address).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let after = Duration::from_millis(150);
    let socket = fixture.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    std::thread::scope(|scope| {
        let last = scope.spawn(|| {
            for _packet in 0..6 {
                exchange_udp(&socket, at(address, 53)).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
            exchange_udp(&socket, at(address, 53)).unwrap();
            Instant::now()
        });
        runtime.block_on(fixture.activity.idle(address, after)).unwrap();
        let idle = Instant::now();
        let since = idle.duration_since(last.join().unwrap());
        assert!(since >= after - Duration::from_millis(10), "{since:?}");
        assert!(since < after + Duration::from_millis(150), "{since:?}");
    });
    let stranger = "10.42.0.77".parse().unwrap();
    let error = runtime.block_on(fixture.activity.idle(stranger, after)).unwrap_err();
    assert!(matches!(error, ActivityError::Untracked { .. }), "{error}");
}

#[test]
fn a_restart_keeps_sleepers_armed_and_shows_who_had_a_packet_meanwhile() {
    let Fixture { node, network, one, two, activity, .. } = Fixture::new();
    activity.arm(one.1).unwrap();
    activity.arm(two.1).unwrap();
    drop(activity);
    node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", at(two.1, 9)).unwrap());
    let (activity, (wakes, _answers)) = open(&node);
    assert_eq!(activity.armed().unwrap(), BTreeSet::from([one.1]));
    node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", at(one.1, 9)).unwrap());
    assert_eq!(wakes.recv_timeout(PATIENCE).unwrap().0, one.1);
    network.teardown().unwrap();
    assert!(node.inventory().contains(&"table darter-activity".to_owned()));
    drop(activity);
    Activity::remove_rules(&config(&node)).unwrap();
    assert!(!node.inventory().contains(&"table darter-activity".to_owned()));
}

#[test]
fn a_wake_is_reported_within_a_fraction_of_a_millisecond() {
    const WAKES: usize = 200;
    let fixture = Fixture::new();
    let address = fixture.one.1;
    let socket = fixture.node.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let mut times = Vec::new();
    let mut arming = Vec::new();
    for _wake in 0..WAKES {
        let before = Instant::now();
        fixture.activity.arm(address).unwrap();
        arming.push(before.elapsed());
        let sent = Instant::now();
        socket.send_to(b"x", at(address, 9)).unwrap();
        let (_, woken) = fixture.wakes.recv_timeout(PATIENCE).unwrap();
        times.push(woken.saturating_duration_since(sent));
    }
    times.sort();
    arming.sort();
    println!("packet to callback: p50 {:?} p99 {:?}", times[WAKES / 2], times[WAKES * 99 / 100]);
    println!("arm: p50 {:?} p99 {:?}", arming[WAKES / 2], arming[WAKES * 99 / 100]);
    assert!(times[WAKES / 2] < Duration::from_millis(5), "{:?}", times[WAKES / 2]);
}
