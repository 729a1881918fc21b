//! Decisions about packets that exist only here, at instants that are made up.

use super::*;
use std::net::Ipv4Addr;
use std::time::Duration;

fn service(name: &str) -> ObjectKey {
    ObjectKey::new("n", name)
}

/// Port 80 of an address per Service.
fn place(last: u8) -> Place {
    Place { protocol: 6, address: Some(Ipv4Addr::new(10, 43, 0, last)), port: 80 }
}

fn arrival(id: u32, client: u16, to: Place) -> Arrival {
    let destination = (to.address.unwrap_or(Ipv4Addr::new(192, 0, 2, 1)), to.port);
    let connection = Connection { protocol: to.protocol, source: (Ipv4Addr::new(10, 42, 0, 2), client), destination };
    Arrival { id, mark: 0, connection, opens: true, bytes: 100 }
}

fn held(last: u8, name: &str) -> (Place, Fate) {
    (place(last), Fate::Held(service(name)))
}

fn waiting(limits: HoldLimits, fates: &[(Place, Fate)]) -> Waiting {
    let mut waiting = Waiting::new(limits, []);
    assert_eq!(waiting.prepare(fates.iter().map(|(place, fate)| (place, fate))), []);
    waiting
}

fn waits(tell: Option<&str>) -> Step {
    Step::Wait { instead_of: None, tell: tell.map(service) }
}

fn settle(waiting: &mut Waiting, place: Place, fate: Fate, now: Instant) -> LetGo {
    waiting.settle([(&place, &fate)], now)
}

#[test]
fn a_service_is_reported_once_until_packets_of_it_are_let_go() {
    let now = Instant::now();
    let mut waiting = waiting(HoldLimits::default(), &[held(1, "a"), held(2, "b")]);
    assert_eq!(waiting.arrive(&arrival(1, 1, place(1)), now), waits(Some("a")));
    assert_eq!(waiting.arrive(&arrival(2, 2, place(1)), now), waits(None));
    assert_eq!(waiting.arrive(&arrival(3, 1, place(2)), now), waits(Some("b")));
    let later = now + Duration::from_millis(5);
    let gone = settle(&mut waiting, place(1), Fate::Served, later);
    assert_eq!(gone.packets, [(1, 0), (2, 0)]);
    let report = Released { packets: 2, refused: 0, first_held: Duration::from_millis(5) };
    assert_eq!(gone.reports, [(service("a"), report)]);
    // Those that come late see the new rules.
    assert_eq!(waiting.arrive(&arrival(4, 3, place(1)), later), Step::GoOn);
    waiting.prepare([(&held(1, "a").0, &held(1, "a").1)]);
    assert_eq!(waiting.arrive(&arrival(5, 3, place(1)), later), waits(Some("a")));
}

#[test]
fn a_node_port_is_found_on_any_address_and_an_exact_address_first() {
    let now = Instant::now();
    let any = Place { address: None, ..place(1) };
    let mut waiting = waiting(HoldLimits::default(), &[(any, Fate::Held(service("any"))), held(2, "exact")]);
    assert_eq!(waiting.arrive(&arrival(1, 1, any), now), waits(Some("any")));
    assert_eq!(waiting.arrive(&arrival(2, 1, place(2)), now), waits(Some("exact")));
    let other = Place { port: 81, ..any };
    assert_eq!(waiting.arrive(&arrival(3, 1, other), now), Step::GoOn);
}

#[test]
fn the_newest_segment_of_a_connection_waits_with_the_first_ones_deadline() {
    let now = Instant::now();
    let limits = HoldLimits::default();
    let mut waiting = waiting(limits, &[held(1, "a")]);
    waiting.arrive(&arrival(1, 1, place(1)), now);
    let second = now + Duration::from_secs(1);
    let step = waiting.arrive(&arrival(2, 1, place(1)), second);
    assert_eq!(step, Step::Wait { instead_of: Some(1), tell: None });
    assert_eq!(waiting.deadline(), Some(now + limits.time));
    assert_eq!(waiting.expire(now + limits.time).packets, [(2, 0)]);
    assert_eq!((waiting.len(), waiting.bytes, waiting.deadline()), (0, 0, None));
    // Datagrams of one sender are no repetitions.
    let udp = Place { protocol: 17, ..place(1) };
    waiting.prepare([(&udp, &Fate::Held(service("a")))]);
    assert_eq!(waiting.arrive(&arrival(3, 1, udp), second), waits(Some("a")));
    assert_eq!(waiting.arrive(&arrival(4, 1, udp), second), waits(None));
}

#[test]
fn a_sender_of_many_datagrams_is_not_refused_and_leaves_room_for_others() {
    let now = Instant::now();
    let udp = Place { protocol: 17, ..place(1) };
    let limits = HoldLimits { packets_per_service: 20, ..HoldLimits::default() };
    let mut waiting = waiting(limits, &[(udp, Fate::Held(service("a")))]);
    for id in 0..40 {
        let step = waiting.arrive(&arrival(id, 1, udp), now);
        assert_eq!(step == Step::Drop, id >= 16, "{id}: {step:?}");
    }
    for client in 2..6 {
        assert_eq!(waiting.arrive(&arrival(100, client, udp), now), waits(None));
    }
    // The line is full: who waits is not refused, a new one is.
    assert_eq!(waiting.arrive(&arrival(101, 5, udp), now), Step::Drop);
    assert_eq!(waiting.arrive(&arrival(102, 6, udp), now), Step::GoOn);
    let gone = settle(&mut waiting, udp, Fate::Served, now);
    assert_eq!((gone.packets.len(), gone.reports[0].1.refused), (20, 1));
    assert!(waiting.connections.is_empty() && waiting.lines.is_empty());
}

#[test]
fn a_segment_that_opens_nothing_does_not_wait() {
    let mut waiting = waiting(HoldLimits::default(), &[held(1, "a")]);
    let stray = Arrival { opens: false, ..arrival(1, 1, place(1)) };
    assert_eq!(waiting.arrive(&stray, Instant::now()), Step::GoOn);
}

#[test]
fn a_full_line_refuses_and_says_so_with_the_next_report() {
    let now = Instant::now();
    let limits = HoldLimits { packets_per_service: 2, ..HoldLimits::default() };
    let mut waiting = waiting(limits, &[held(1, "a"), held(2, "b")]);
    for client in 0..5 {
        let step = waiting.arrive(&arrival(client.into(), client, place(1)), now);
        assert_eq!(step == Step::GoOn, client >= 2);
    }
    assert_eq!(waiting.arrive(&arrival(9, 0, place(2)), now), waits(Some("b")));
    let gone = settle(&mut waiting, place(1), Fate::Served, now);
    assert_eq!(gone.reports[0].1, Released { packets: 2, refused: 3, first_held: Duration::ZERO });
}

#[test]
fn however_many_services_are_flooded_the_next_finds_room() {
    let now = Instant::now();
    let limits = HoldLimits { packets_per_service: 128, packets: 200, ..HoldLimits::default() };
    let all: Vec<_> = (0..10).map(|last| held(last, &format!("s{last}"))).collect();
    let mut waiting = waiting(limits, &all);
    let mut id = 0;
    for flooded in 0..7 {
        for client in 0..300 {
            id += 1;
            waiting.arrive(&arrival(id, client, place(flooded)), now);
            assert!(waiting.len() <= limits.packets && waiting.bytes <= limits.bytes);
        }
    }
    assert_eq!(waiting.arrive(&arrival(id + 1, 0, place(9)), now), waits(Some("s9")));
}

#[test]
fn the_memory_of_packets_is_bounded_too() {
    let now = Instant::now();
    let limits = HoldLimits { bytes: 1000, ..HoldLimits::default() };
    let mut waiting = waiting(limits, &[held(1, "a"), held(2, "b")]);
    let big = |id, place| Arrival { bytes: 400, ..arrival(id, 1, place) };
    assert_eq!(waiting.arrive(&big(1, place(1)), now), waits(Some("a")));
    // More than is left for the others.
    let second = Arrival { connection: arrival(2, 2, place(1)).connection, ..big(2, place(1)) };
    assert_eq!(waiting.arrive(&second, now), Step::GoOn);
    assert_eq!(waiting.arrive(&big(3, place(2)), now), waits(Some("b")));
    assert_eq!(waiting.bytes, 800);
}

#[test]
fn packets_of_a_former_runs_rules_wait_until_their_service_is_known() {
    let now = Instant::now();
    let mut waiting = Waiting::new(HoldLimits::default(), [place(1), place(2)]);
    assert_eq!(waiting.arrive(&arrival(1, 1, place(1)), now), waits(None));
    assert_eq!(waiting.arrive(&arrival(2, 2, place(1)), now), waits(None));
    let (place, fate) = held(1, "a");
    assert_eq!(waiting.prepare([(&place, &fate)]), [service("a")]);
    assert_eq!(waiting.prepare([(&place, &fate)]), []);
    assert_eq!(settle(&mut waiting, place, Fate::Refused, now).reports[0].1.refused, 2);
}

#[test]
fn a_table_written_anew_leaves_nothing_waiting_and_no_place_without_a_service() {
    let now = Instant::now();
    let mut waiting = Waiting::new(HoldLimits::default(), [place(1), place(2)]);
    let (known, fate) = held(1, "a");
    waiting.prepare([(&known, &fate)]);
    waiting.arrive(&arrival(1, 1, place(1)), now);
    let lost = waiting.clear(now);
    assert_eq!(lost.packets.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1]);
    let [(owner, report)] = &lost.reports[..] else { panic!("{:?}", lost.reports) };
    assert_eq!((owner.clone(), report.packets, report.refused), (service("a"), 0, 0), "nothing of it waits");
    assert_eq!((waiting.len(), waiting.bytes), (0, 0));
    assert_eq!(waiting.arrive(&arrival(2, 1, place(1)), now), waits(Some("a")));
    assert_eq!(waiting.arrive(&arrival(3, 1, place(2)), now), Step::GoOn);
}
