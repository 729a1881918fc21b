//! Which packets wait, for whom and until when: the decisions, without the
//! kernel and without a clock.

use super::packet::{Arrival, Connection, Place};
use super::{HoldLimits, Released};
use crate::pod::TransportProtocol;
use client::ObjectKey;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

#[cfg(test)]
mod tests;

/// Datagrams of one sender that wait at most: the opening of every usual
/// protocol. More are dropped as on any way that is too narrow, for the sender
/// is not refused.
const DATAGRAMS_PER_FLOW: usize = 16;

/// What the Services' table does with new connections to a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// They wait, for this Service.
    Held(ObjectKey),
    /// They go to an endpoint.
    Served,
    /// They are refused, or nobody's.
    Refused,
}

/// What to do with a packet that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// It waits.
    Wait {
        /// An older packet of the same connection, to be dropped.
        instead_of: Option<u32>,
        /// The Service to report.
        tell: Option<ObjectKey>,
    },
    /// It sees the rules once more and does not wait.
    GoOn,
    /// Enough of its flow waits.
    Drop,
}

/// A packet that goes on: what names it, and its mark.
pub(super) type GoesOn = (u32, u32);

/// Packets that wait no longer, and what to report.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LetGo {
    pub(super) packets: Vec<GoesOn>,
    pub(super) reports: Vec<(ObjectKey, Released)>,
}

struct Packet {
    id: u32,
    mark: u32,
    connection: Connection,
    place: Place,
    owner: Option<ObjectKey>,
    since: Instant,
    bytes: usize,
}

/// The packets that wait for a connection: one if it is of TCP.
struct Flow {
    newest: u64,
    packets: usize,
}

/// What is known of one Service's packets.
#[derive(Default)]
struct Line {
    packets: usize,
    bytes: usize,
    refused: usize,
    told: bool,
}

/// The packets that wait.
pub(super) struct Waiting {
    limits: HoldLimits,
    /// Places whose packets wait; without a Service if a former run's rules
    /// send them and the Services are not known yet.
    places: HashMap<Place, Option<ObjectKey>>,
    /// In order of arrival of their connections.
    packets: BTreeMap<u64, Packet>,
    connections: HashMap<Connection, Flow>,
    lines: HashMap<Option<ObjectKey>, Line>,
    next: u64,
    bytes: usize,
}

impl Waiting {
    /// Nothing waits yet; packets to `former` do.
    pub(super) fn new(limits: HoldLimits, former: impl IntoIterator<Item = Place>) -> Self {
        Self {
            limits,
            places: former.into_iter().map(|place| (place, None)).collect(),
            packets: BTreeMap::new(),
            connections: HashMap::new(),
            lines: HashMap::new(),
            next: 0,
            bytes: 0,
        }
    }

    /// How many packets wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Where the rules caught it.
    fn place(&self, connection: &Connection) -> Option<(Place, Option<ObjectKey>)> {
        let (address, port) = connection.destination;
        let exact = Place { protocol: connection.protocol, address: Some(address), port };
        let any = Place { address: None, ..exact };
        [exact, any].into_iter().find_map(|place| Some((place, self.places.get(&place)?.clone())))
    }

    /// Takes a packet in.
    pub(super) fn arrive(&mut self, arrival: &Arrival, now: Instant) -> Step {
        let Arrival { id, mark, connection, opens, bytes } = *arrival;
        // A place that is no longer held has other rules by now.
        let Some((place, owner)) = self.place(&connection).filter(|_| opens) else { return Step::GoOn };
        let flow = self.connections.get(&connection);
        if let Some(flow) = flow.filter(|_| connection.protocol == TransportProtocol::Tcp.number())
            && let Some(known) = self.packets.get_mut(&flow.newest)
        {
            let older = std::mem::replace(&mut known.id, id);
            known.mark = mark;
            return Step::Wait { instead_of: Some(older), tell: None };
        }
        let waiting = flow.map_or(0, |flow| flow.packets);
        let held = self.packets.len();
        let line = self.lines.entry(owner.clone()).or_default();
        let room = self.limits.packets_per_service.min(self.limits.packets.saturating_sub(held));
        let memory = self.limits.bytes.saturating_sub(self.bytes);
        let full = line.packets >= room || line.bytes + bytes > memory;
        if waiting >= DATAGRAMS_PER_FLOW || full && waiting > 0 {
            return Step::Drop;
        }
        if full {
            line.refused += 1;
            return Step::GoOn;
        }
        line.packets += 1;
        line.bytes += bytes;
        let first = !std::mem::replace(&mut line.told, true);
        self.bytes += bytes;
        let serial = self.next;
        self.next += 1;
        self.connections.insert(connection, Flow { newest: serial, packets: waiting + 1 });
        let tell = owner.clone().filter(|_| first);
        self.packets.insert(serial, Packet { id, mark, connection, place, owner, since: now, bytes });
        Step::Wait { instead_of: None, tell }
    }

    /// Before the rules change: packets to new held places will come. Gives
    /// the Services of packets that wait and whose Service was not known.
    pub(super) fn prepare<'a>(&mut self, fates: impl IntoIterator<Item = (&'a Place, &'a Fate)>) -> Vec<ObjectKey> {
        let mut moved = Vec::new();
        for (place, fate) in fates {
            let Fate::Held(owner) = fate else { continue };
            if let Some(old) = self.places.insert(*place, Some(owner.clone()))
                && old.as_ref() != Some(owner)
            {
                moved.push(*place);
            }
        }
        if moved.is_empty() {
            return Vec::new();
        }
        let mut tell = Vec::new();
        for packet in self.packets.values_mut().filter(|packet| moved.contains(&packet.place)) {
            let Some(owner) = self.places.get(&packet.place).cloned().flatten() else { continue };
            forget(&mut self.lines, packet);
            let line = self.lines.entry(Some(owner.clone())).or_default();
            line.packets += 1;
            line.bytes += packet.bytes;
            if !std::mem::replace(&mut line.told, true) {
                tell.push(owner.clone());
            }
            packet.owner = Some(owner);
        }
        tell
    }

    /// Before the rules change: packets to places where new connections will be
    /// refused, or that will be nobody's, are refused by the rules there are.
    pub(super) fn turn_away<'a>(
        &mut self,
        fates: impl IntoIterator<Item = (&'a Place, &'a Fate)>,
        now: Instant,
    ) -> LetGo {
        let refused =
            fates.into_iter().filter(|(place, fate)| **fate == Fate::Refused && self.places.contains_key(place));
        let refused: HashSet<_> = refused.map(|(place, _)| *place).collect();
        if refused.is_empty() {
            return LetGo::default();
        }
        let leaving = self.packets.iter().filter(|(_, packet)| refused.contains(&packet.place));
        let leaving: Vec<_> = leaving.map(|(serial, _)| (*serial, false)).collect();
        self.let_go(leaving, now)
    }

    /// After the rules changed: packets to places that are no longer held go
    /// on.
    pub(super) fn settle<'a>(&mut self, fates: impl IntoIterator<Item = (&'a Place, &'a Fate)>, now: Instant) -> LetGo {
        let mut served = HashMap::new();
        for (place, fate) in fates {
            if matches!(fate, Fate::Served | Fate::Refused) && self.places.remove(place).is_some() {
                served.insert(*place, *fate == Fate::Served);
            }
        }
        if served.is_empty() {
            return LetGo::default();
        }
        let leaving: Vec<_> =
            self.packets.iter().filter_map(|(serial, packet)| Some((*serial, *served.get(&packet.place)?))).collect();
        self.let_go(leaving, now)
    }

    /// Refuses what has waited for too long.
    pub(super) fn expire(&mut self, now: Instant) -> LetGo {
        let due = self.packets.iter().take_while(|(_, packet)| now >= packet.since + self.limits.time);
        let due: Vec<_> = due.map(|(serial, _)| (*serial, false)).collect();
        self.let_go(due, now)
    }

    /// When the next packet has waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.packets.values().next().map(|packet| packet.since + self.limits.time)
    }

    /// The kernel dropped what waited, and all rules are those of now: gives
    /// the packets, and forgets places without a Service. The reports say that
    /// nothing of their Services waits any more; a repetition is told anew.
    pub(super) fn clear(&mut self, now: Instant) -> LetGo {
        let all = self.packets.keys().map(|serial| (*serial, false)).collect();
        let mut lost = self.let_go(all, now);
        for (_, report) in &mut lost.reports {
            // Dropped is not refused: the client repeats its packet.
            report.refused = 0;
        }
        self.places.retain(|_, owner| owner.is_some());
        self.connections.clear();
        self.lines.clear();
        self.bytes = 0;
        lost
    }

    fn let_go(&mut self, serials: Vec<(u64, bool)>, now: Instant) -> LetGo {
        let mut out = LetGo::default();
        let mut reports: BTreeMap<ObjectKey, Released> = BTreeMap::new();
        for (serial, served) in serials {
            let Some(packet) = self.packets.remove(&serial) else { continue };
            if let Some(flow) = self.connections.get_mut(&packet.connection) {
                flow.packets = flow.packets.saturating_sub(1);
                if flow.packets == 0 {
                    self.connections.remove(&packet.connection);
                }
            }
            self.bytes = self.bytes.saturating_sub(packet.bytes);
            let refused = forget(&mut self.lines, &packet);
            out.packets.push((packet.id, packet.mark));
            let Some(owner) = packet.owner else { continue };
            let held = now.saturating_duration_since(packet.since);
            let report = reports.entry(owner).or_insert(Released { packets: 0, refused: 0, first_held: held });
            report.packets += usize::from(served);
            report.refused += usize::from(!served) + refused;
        }
        out.reports = reports.into_iter().collect();
        out
    }
}

/// Takes a packet out of its Service's line; gives how many were refused for
/// lack of room since the last report.
fn forget(lines: &mut HashMap<Option<ObjectKey>, Line>, packet: &Packet) -> usize {
    let Some(line) = lines.get_mut(&packet.owner) else { return 0 };
    line.packets = line.packets.saturating_sub(1);
    line.bytes = line.bytes.saturating_sub(packet.bytes);
    line.told = false;
    let refused = std::mem::take(&mut line.refused);
    if line.packets == 0 {
        lines.remove(&packet.owner);
    }
    refused
}
