//! Clients that write and watch while the server is killed again and again,
//! and a judge of what they saw: every acknowledged write is there, and every
//! watch shows every change once, in order. Not for the node's part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Api, Client, ClientError, DeleteParams, ListParams, WatchEvent, WatchParams};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::harness::Cluster;

const WRITERS: usize = 64;
/// Objects of one writer.
const OBJECTS: usize = 4;
/// Each of these is watched twice.
const VIEWS: [View; 3] = [View::Namespace, View::Even, View::Cluster];
/// One write in so many, of an object that is there, deletes it.
const DELETE_EVERY: u64 = 7;
/// How long a client may need to get what it waits for.
const LIMIT: Duration = Duration::from_secs(30);
/// Between attempts to reach a server that is down.
const RETRY: Duration = Duration::from_millis(5);
/// The last object: watchers end when they see it.
const END: &str = "end";

type Maps = Api<ConfigMap>;

/// What was done and how it went; a failure is a panic instead.
pub struct Figures {
    /// Writes that the server acknowledged.
    pub acknowledged: u64,
    /// Writes that were cut off by a kill and had been carried out.
    pub unacknowledged: u64,
    /// Acknowledged writes a second while the server was up, over all rounds.
    pub rate: f64,
    /// Events that watchers received.
    pub events: usize,
    /// Watches that went on from the last seen revision.
    pub resumed: usize,
    /// Watches that were told 410 and listed again.
    pub relisted: usize,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { acknowledged, unacknowledged, rate, events, resumed, relisted } = self;
        write!(
            f,
            "{acknowledged} writes acknowledged ({rate:.0}/s) and {unacknowledged} more carried out, none lost; \
             {events} events, {resumed} watches resumed, {relisted} listed again, none missed or doubled"
        )
    }
}

/// What a watcher looks at.
#[derive(Clone, Copy)]
enum View {
    /// The namespace.
    Namespace,
    /// A label that objects of every other writer carry.
    Even,
    /// All namespaces.
    Cluster,
}

/// Kills the server this often while clients write and watch.
pub fn survive(kills: u32) -> Figures {
    let mut cluster = Cluster::start(&["--no-node"]);
    let config = client::kubeconfig::load(&cluster.path("kubeconfig"), None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _context = runtime.enter();
    let stop = CancellationToken::new();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let first = Client::https(&config).unwrap();
    let start = runtime.block_on(first.namespaced::<ConfigMap>("default").list(&ListParams::default())).unwrap();
    let start = revision(start.metadata.resource_version.as_deref());
    let watchers: Vec<_> = [VIEWS, VIEWS]
        .concat()
        .into_iter()
        .map(|view| (view, runtime.spawn(watch(Client::https(&config).unwrap(), view, start))))
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let maps = Client::https(&config).unwrap().namespaced("default");
            let writer = Writer::new(number, maps, Arc::clone(&acknowledged));
            runtime.spawn(writer.run(stop.clone()))
        })
        .collect();
    let mut up = Duration::ZERO;
    for round in 0..=kills {
        let began = Instant::now();
        // Long enough to write, and never the same moment of the log's life.
        std::thread::sleep(Duration::from_millis(400 + u64::from(round) * 7919 % 1200));
        assert!(!writers.iter().any(JoinHandle::is_finished), "a writer failed:\n{}", failures(&runtime, writers));
        up += began.elapsed();
        if round < kills {
            cluster.kill_and_restart();
        }
    }
    stop.cancel();
    let logs = runtime.block_on(futures_util::future::join_all(writers));
    let logs: Vec<Log> = logs.into_iter().map(|log| log.expect("a writer failed")).collect();
    let chains: BTreeMap<String, Vec<Write>> = logs.into_iter().flatten().collect();
    runtime.block_on(first.namespaced("default").create(&object(END, 0, 0))).unwrap();
    let mut figures = Figures {
        acknowledged: acknowledged.load(Ordering::Relaxed),
        unacknowledged: chains.values().flatten().filter(|write| !write.acknowledged).count() as u64,
        rate: 0.0,
        events: 0,
        resumed: 0,
        relisted: 0,
    };
    figures.rate = figures.acknowledged as f64 / up.as_secs_f64();
    for (view, watcher) in watchers {
        let seen = runtime.block_on(watcher).expect("a watcher failed");
        judge(view, &chains, &seen);
        figures.events += seen.iter().filter(|seen| matches!(seen, Seen::Event { .. })).count();
        figures.resumed += seen.iter().filter(|seen| matches!(seen, Seen::Resumed)).count();
        figures.relisted += seen.iter().filter(|seen| matches!(seen, Seen::Listed { .. })).count();
    }
    figures
}

fn failures(runtime: &tokio::runtime::Runtime, writers: Vec<JoinHandle<Log>>) -> String {
    let ended = writers.into_iter().filter(JoinHandle::is_finished);
    ended.filter_map(|writer| runtime.block_on(writer).err()).map(|error| format!("{error}\n")).collect()
}

/// One change of an object that the server has carried out.
#[derive(Debug)]
struct Write {
    /// The number in it; absent: deleted.
    content: Option<u64>,
    /// Absent for deletions: their answer does not say.
    revision: Option<u64>,
    acknowledged: bool,
}

/// All changes of each object, in order.
type Log = BTreeMap<String, Vec<Write>>;

/// A client that writes to objects of its own, one after the other.
struct Writer {
    number: usize,
    maps: Maps,
    acknowledged: Arc<AtomicU64>,
    log: Log,
    written: u64,
}

impl Writer {
    fn new(number: usize, maps: Maps, acknowledged: Arc<AtomicU64>) -> Self {
        let log = (0..OBJECTS).map(|object| (format!("w{number}-{object}"), Vec::new())).collect();
        Self { number, maps, acknowledged, log, written: 0 }
    }

    async fn run(mut self, stop: CancellationToken) -> Log {
        let names: Vec<String> = self.log.keys().cloned().collect();
        while !stop.is_cancelled() {
            for name in &names {
                self.written += 1;
                self.write(name).await;
            }
        }
        self.compare(None).await;
        self.log
    }

    /// The object's content and revision as last known.
    fn known(&self, name: &str) -> Option<(u64, u64)> {
        let last = self.log[name].last()?;
        last.content.zip(last.revision)
    }

    async fn write(&mut self, name: &str) {
        let known = self.known(name);
        let (content, result) = match known {
            Some(_) if self.written.is_multiple_of(DELETE_EVERY) => {
                (None, self.maps.delete(name, &DeleteParams::default()).await.map(|()| None))
            }
            Some((_, revision)) => {
                let object = object(name, self.number, self.written);
                let object = with_revision(object, revision);
                (Some(self.written), self.maps.replace(name, &object).await.map(Some))
            }
            None => {
                let object = object(name, self.number, self.written);
                (Some(self.written), self.maps.create(&object).await.map(Some))
            }
        };
        match result {
            Ok(object) => {
                let revision = object.map(|object| revision(object.metadata.resource_version.as_deref()));
                assert!(
                    revision.zip(known).is_none_or(|(now, (_, before))| now > before),
                    "{name}: {revision:?} after {known:?}"
                );
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.enter(name, Write { content, revision, acknowledged: true });
            }
            Err(error) => self.compare(Some((name, content, error))).await,
        }
    }

    fn enter(&mut self, name: &str, write: Write) {
        self.log.get_mut(name).expect("a name of ours").push(write);
    }

    /// Holds all objects against what was acknowledged. A write that was cut
    /// off may have been carried out or not; one that was refused must have
    /// been carried out by an attempt whose answer was lost.
    async fn compare(&mut self, unclear: Option<(&str, Option<u64>, ClientError)>) {
        let params = ListParams { label_selector: Some(format!("writer=w{}", self.number)), ..ListParams::default() };
        let list = retry(|| self.maps.list(&params)).await;
        let found: BTreeMap<String, (u64, u64)> = list.items.iter().map(contents).collect();
        for name in self.log.keys().cloned().collect::<Vec<_>>() {
            let (known, found) = (self.known(&name), found.get(&name).copied());
            match &unclear {
                Some((cut, content, _)) if *cut == name && found != known => {
                    assert_eq!(found.map(|(content, _)| content), *content, "{name}: acknowledged was {known:?}");
                    let revision = found.map(|(_, revision)| revision);
                    self.enter(&name, Write { content: *content, revision, acknowledged: false });
                }
                Some((cut, _, error)) if *cut == name => {
                    let transient = error.code().is_none_or(|code| code == 429 || code >= 500);
                    assert!(transient, "{name}, known as {known:?}: {}", api::error::Chain(error));
                }
                _ => assert_eq!(found, known, "an acknowledged write of {name} is lost"),
            }
        }
    }
}

/// Asks until the server answers.
async fn retry<T, F: Future<Output = Result<T, ClientError>>>(ask: impl Fn() -> F) -> T {
    let attempts = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    };
    tokio::time::timeout(LIMIT, attempts).await.expect("the server answers again")
}

fn object(name: &str, writer: usize, content: u64) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    let parity = if writer.is_multiple_of(2) { "even" } else { "odd" };
    let labels = [("writer", format!("w{writer}")), ("parity", parity.to_owned())];
    map.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).into());
    map.data = Some([("content".to_owned(), content.to_string())].into());
    map
}

fn with_revision(mut map: ConfigMap, revision: u64) -> ConfigMap {
    map.metadata.resource_version = Some(revision.to_string());
    map
}

fn revision(text: Option<&str>) -> u64 {
    text.expect("a revision").parse().expect("revisions are numbers here")
}

/// Name, content and revision.
fn contents(map: &ConfigMap) -> (String, (u64, u64)) {
    let content = map.data.as_ref().and_then(|data| data.get("content")?.parse().ok()).unwrap_or_default();
    (map.metadata.name.clone().expect("a name"), (content, revision(map.metadata.resource_version.as_deref())))
}

/// What a watcher saw.
#[derive(Debug)]
enum Seen {
    /// A change.
    Event { kind: &'static str, name: String, content: u64, revision: u64 },
    /// That there is nothing else up to here.
    Bookmark(u64),
    /// The watch broke and went on.
    Resumed,
    /// The history was gone; this was there instead.
    Listed { revision: u64, objects: BTreeMap<String, (u64, u64)> },
}

impl View {
    fn of(self, client: &Client) -> Maps {
        match self {
            Self::Cluster => client.all(),
            Self::Namespace | Self::Even => client.namespaced("default"),
        }
    }

    fn selector(self) -> Option<String> {
        matches!(self, Self::Even).then(|| "parity=even".to_owned())
    }

    fn shows(self, name: &str) -> bool {
        let writer = name.strip_prefix('w').and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
        writer.is_some_and(|writer| !matches!(self, Self::Even) || writer.is_multiple_of(2))
    }
}

/// Follows from this revision until the last object appears.
async fn watch(client: Client, view: View, mut from: u64) -> Vec<Seen> {
    let maps = view.of(&client);
    let mut seen = Vec::new();
    loop {
        let params = WatchParams {
            label_selector: view.selector(),
            resource_version: Some(from.to_string()),
            ..WatchParams::default()
        };
        let error = match maps.watch(&params).await {
            Ok(mut events) => loop {
                match tokio::time::timeout(LIMIT, events.next()).await.expect("the watch shows what is written") {
                    Some(Ok(event)) => {
                        let Some(entry) = entry(event) else { return seen };
                        from = match &entry {
                            Seen::Event { revision, .. } | Seen::Bookmark(revision) => *revision,
                            Seen::Resumed | Seen::Listed { .. } => from,
                        };
                        seen.push(entry);
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        match error {
            Some(error) if error.is_gone() => {
                let params = ListParams { label_selector: view.selector(), ..ListParams::default() };
                let list = retry(|| maps.list(&params)).await;
                let objects: BTreeMap<_, _> = list.items.iter().map(contents).collect();
                let ended = objects.contains_key(END);
                from = revision(list.metadata.resource_version.as_deref());
                seen.push(Seen::Listed { revision: from, objects });
                if ended {
                    return seen;
                }
            }
            Some(error) => {
                let refused = error.code().is_some_and(|code| code != 429 && code < 500);
                assert!(!refused, "a watch from {from}: {}", api::error::Chain(&error));
                tokio::time::sleep(RETRY).await;
                if !matches!(seen.last(), Some(Seen::Resumed)) {
                    seen.push(Seen::Resumed);
                }
            }
            None => seen.push(Seen::Resumed),
        }
    }
}

/// `None` at the last object.
fn entry(event: WatchEvent<ConfigMap>) -> Option<Seen> {
    let (kind, map) = match event {
        WatchEvent::Added(map) => ("added", map),
        WatchEvent::Modified(map) => ("modified", map),
        WatchEvent::Deleted(map) => ("deleted", map),
        WatchEvent::Bookmark { resource_version, .. } => {
            return Some(Seen::Bookmark(revision(Some(&resource_version))));
        }
    };
    let (name, (content, revision)) = contents(&map);
    (name != END).then_some(Seen::Event { kind, name, content, revision })
}

/// Holds what a watcher saw against what was written.
fn judge(view: View, chains: &BTreeMap<String, Vec<Write>>, seen: &[Seen]) {
    let mut last = 0;
    for entry in seen {
        let (revision, least) = match entry {
            Seen::Event { revision, .. } => (*revision, last + 1),
            Seen::Bookmark(revision) | Seen::Listed { revision, .. } => (*revision, last),
            Seen::Resumed => continue,
        };
        assert!(revision >= least, "out of order or twice: {entry:?} after {last}");
        last = revision;
    }
    for (name, chain) in chains.iter().filter(|(name, _)| view.shows(name)) {
        let mut place = Place { name, chain, next: 0, searching: false };
        for entry in seen {
            match entry {
                Seen::Event { kind, name: of, content, revision } if of == name => {
                    place.event(kind, *content, *revision);
                }
                Seen::Listed { objects, .. } => place.listed(objects.get(name).copied()),
                _ => {}
            }
        }
        let rest = &chain[place.next..];
        let hidden = place.searching && chain.last().is_none_or(|write| write.content.is_none());
        assert!(rest.is_empty() || hidden, "{name}: events missed at the end: {rest:?}");
    }
}

/// How far in an object's changes a watcher is.
struct Place<'a> {
    name: &'a str,
    chain: &'a [Write],
    next: usize,
    /// After a list without the object: any deletion may be the last one.
    searching: bool,
}

impl Place<'_> {
    fn event(&mut self, kind: &str, content: u64, revision: u64) {
        let name = self.name;
        if std::mem::take(&mut self.searching) {
            let ahead = self.chain[self.next..].iter().position(|write| write.content == Some(content));
            self.next += ahead.unwrap_or_else(|| panic!("{name}: {kind} {content} at {revision} was never written"));
        }
        let Some(write) = self.chain.get(self.next) else {
            panic!("{name}: {kind} {content} at {revision} was never written");
        };
        let before = self.next.checked_sub(1).and_then(|before| self.chain[before].content);
        let (expected, shown) = match (before, write.content) {
            (Some(before), None) => ("deleted", before),
            (None, Some(now)) => ("added", now),
            (_, Some(now)) => ("modified", now),
            (None, None) => unreachable!("writers delete only what is there"),
        };
        assert_eq!((kind, content), (expected, shown), "{name} at {revision}: an event was missed, doubled or wrong");
        assert!(write.revision.is_none_or(|known| known == revision), "{name}: {revision} for {write:?}");
        self.next += 1;
    }

    fn listed(&mut self, found: Option<(u64, u64)>) {
        let rest = &self.chain[self.next..];
        match found {
            None => {
                let alive = self.next.checked_sub(1).is_some_and(|before| self.chain[before].content.is_some());
                assert!(!alive || rest.iter().any(|write| write.content.is_none()), "{}: lost from a list", self.name);
                self.searching = true;
            }
            Some((content, revision)) => {
                let from = self.next.saturating_sub(1);
                let at = self.chain[from..]
                    .iter()
                    .position(|write| write.content == Some(content) && write.revision == Some(revision));
                self.next = from + 1 + at.unwrap_or_else(|| panic!("{}: {content} in a list is old", self.name));
                self.searching = false;
            }
        }
    }
}
