//! Which event is new, which is one more of the same, which is one too many.
//! The rules are those of client-go's EventCorrelator.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

/// Entries of each memory, as upstream's caches.
const MEMORY_ENTRIES: usize = 4096;
/// Different messages after which similar events are combined.
const SIMILAR_EVENTS: usize = 10;
/// Similar events further apart than this are not similar any more.
const SIMILAR_INTERVAL: Duration = Duration::from_secs(600);
/// Events that one source may write about one object at once.
const BURST_EVENTS: f64 = 25.0;
/// Time after which it may write one more.
const REFILL: Duration = Duration::from_secs(300);

/// What becomes of an event.
pub(super) enum Verdict {
    /// Write it.
    Create(Box<Event>),
    /// It is one more of one that was written.
    Count {
        /// Of the written one.
        name: String,
        /// With the new count; to be written if the other has gone.
        event: Box<Event>,
    },
    /// One too many.
    Skip,
}

#[derive(Default)]
pub(super) struct Correlator {
    similar: Recent<Similar>,
    written: Recent<Written>,
    rates: Recent<Rate>,
}

struct Similar {
    messages: HashSet<u64>,
    last: Instant,
}

struct Written {
    /// Empty until the server has it.
    name: String,
    count: i32,
    first: Option<Time>,
}

struct Rate {
    tokens: f64,
    last: Instant,
}

impl Correlator {
    /// The event's key and what to do with it.
    pub(super) fn observe(&mut self, mut event: Event) -> (u64, Verdict) {
        let now = Instant::now();
        let mut key =
            hash(&[&about(&event), text(&event.reason), text(&event.message), text(&event.involved_object.field_path)]);
        let group = hash(&[&about(&event), text(&event.reason)]);
        let similar = self.similar.entry(group, || Similar { messages: HashSet::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(hash(&[text(&event.message)]));
        if similar.messages.len() >= SIMILAR_EVENTS {
            // The set need not grow to know that it is full.
            if let Some(one) = similar.messages.iter().next().copied() {
                similar.messages.remove(&one);
            }
            event.message = Some(format!("(combined from similar events): {}", text(&event.message)));
            key = group;
        }
        let rate_key = hash(&[&about(&event)]);
        let first = event.first_timestamp.clone();
        let written = self.written.entry(key, || Written { name: String::new(), count: 0, first });
        written.count = written.count.saturating_add(1);
        event.count = Some(written.count);
        event.first_timestamp.clone_from(&written.first);
        let name = written.name.clone();
        if !self.rates.entry(rate_key, || Rate { tokens: BURST_EVENTS, last: now }).take(now) {
            return (key, Verdict::Skip);
        }
        let event = Box::new(event);
        (key, if name.is_empty() { Verdict::Create(event) } else { Verdict::Count { name, event } })
    }

    /// The event of this key is on the server under this name.
    pub(super) fn written(&mut self, key: u64, name: String) {
        if let Some(written) = self.written.get(key) {
            written.name = name;
        }
    }
}

impl Rate {
    fn take(&mut self, now: Instant) -> bool {
        let refilled = now.duration_since(self.last).as_secs_f64() / REFILL.as_secs_f64();
        self.tokens = (self.tokens + refilled).min(BURST_EVENTS);
        self.last = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Source, object and type: what limits and groups are about.
fn about(event: &Event) -> String {
    let object = &event.involved_object;
    let source = event.source.as_ref();
    let parts = [
        source.and_then(|source| source.component.as_deref()).unwrap_or_default(),
        source.and_then(|source| source.host.as_deref()).unwrap_or_default(),
        text(&object.kind),
        text(&object.namespace),
        text(&object.name),
        text(&object.uid),
        text(&object.api_version),
        text(&event.type_),
    ];
    parts.join("\n")
}

fn hash(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets what was used longest ago.
struct Recent<V> {
    values: HashMap<u64, (u64, V)>,
    uses: BTreeMap<u64, u64>,
    clock: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), uses: BTreeMap::new(), clock: 0 }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, key: u64) -> Option<&mut V> {
        self.values.get_mut(&key).map(|(_, value)| value)
    }

    fn entry(&mut self, key: u64, new: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if let Some((used, _)) = self.values.get(&key) {
            self.uses.remove(used);
        } else if self.values.len() >= MEMORY_ENTRIES
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.values.remove(&oldest);
        }
        self.uses.insert(self.clock, key);
        let (used, value) = self.values.entry(key).or_insert_with(|| (0, new()));
        *used = self.clock;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, message: &str) -> Event {
        let mut event = Event { reason: Some("Failed".into()), message: Some(message.into()), ..Event::default() };
        event.involved_object.name = Some(name.into());
        event
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_is_counted_under_its_first_name() {
        let mut correlator = Correlator::default();
        let (key, verdict) = correlator.observe(event("a", "x"));
        assert!(matches!(verdict, Verdict::Create(event) if event.count == Some(1)));
        correlator.written(key, "a.1".into());
        let (_, verdict) = correlator.observe(event("a", "x"));
        assert!(matches!(verdict, Verdict::Count { name, event } if name == "a.1" && event.count == Some(2)));
        let (_, verdict) = correlator.observe(event("a", "y"));
        assert!(matches!(verdict, Verdict::Create(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_tenth_similar_message_is_combined() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            let (_, verdict) = correlator.observe(event("a", &n.to_string()));
            assert!(matches!(verdict, Verdict::Create(event) if event.message == Some(n.to_string())));
        }
        let (key, verdict) = correlator.observe(event("a", "10"));
        let combined = "(combined from similar events): 10";
        assert!(matches!(verdict, Verdict::Create(event) if event.message.as_deref() == Some(combined)));
        correlator.written(key, "a.c".into());
        let (_, verdict) = correlator.observe(event("a", "11"));
        assert!(matches!(verdict, Verdict::Count { event, .. } if event.count == Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_gets_25_events_then_one_in_five_minutes() {
        let mut correlator = Correlator::default();
        let mut skipped =
            |n: usize| (0..n).filter(|_| matches!(correlator.observe(event("a", "x")).1, Verdict::Skip)).count();
        assert_eq!(skipped(30), 5);
        tokio::time::advance(REFILL).await;
        assert_eq!(skipped(3), 2);
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut recent = Recent::default();
        for key in 0..MEMORY_ENTRIES as u64 + 10 {
            recent.entry(key, || ());
            recent.entry(0, || ());
        }
        assert_eq!(recent.values.len(), MEMORY_ENTRIES);
        assert_eq!(recent.uses.len(), MEMORY_ENTRIES);
        assert!(recent.get(0).is_some() && recent.get(1).is_none());
    }
}
