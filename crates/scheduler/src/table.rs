//! Equal values stored once, each with a number of its own. Pods of one
//! workload share their shape and class through this.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A table sweeps its unused entries when it has grown to twice what was left
/// by the last sweep, and not below this many.
const FIRST_SWEEP: usize = 256;

/// A shared value and its number. Numbers are never used again.
#[derive(Debug)]
pub struct Entry<T> {
    /// Unique within the table.
    pub id: u64,
    value: T,
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The set of values in use.
#[derive(Debug)]
pub struct Table<T: Eq + Hash> {
    entries: HashSet<Key<T>>,
    next_id: u64,
    sweep_at: usize,
}

#[derive(Debug)]
struct Key<T>(Arc<Entry<T>>);

impl<T: Hash> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.value.hash(state);
    }
}

impl<T: PartialEq> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.value == other.0.value
    }
}

impl<T: Eq> Eq for Key<T> {}

impl<T> Borrow<T> for Key<T> {
    fn borrow(&self) -> &T {
        &self.0.value
    }
}

impl<T: Eq + Hash> Default for Table<T> {
    fn default() -> Self {
        Self { entries: HashSet::new(), next_id: 0, sweep_at: FIRST_SWEEP }
    }
}

impl<T: Eq + Hash> Table<T> {
    /// The entry that equals `value`, made if new. It stays as long as
    /// somebody else holds it.
    pub fn intern(&mut self, value: T) -> Arc<Entry<T>> {
        if let Some(key) = self.entries.get(&value) {
            return key.0.clone();
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|key| Arc::strong_count(&key.0) > 1);
            self.sweep_at = (self.entries.len() * 2).max(FIRST_SWEEP);
        }
        let entry = Arc::new(Entry { id: self.next_id, value });
        self.next_id += 1;
        self.entries.insert(Key(entry.clone()));
        entry
    }

    /// Entries, unused ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_one_entry_and_unused_ones_are_swept() {
        let mut table = Table::default();
        let one = table.intern("one".to_owned());
        assert!(Arc::ptr_eq(&one, &table.intern("one".to_owned())));
        for number in 0..10 * FIRST_SWEEP {
            table.intern(number.to_string());
        }
        assert!(table.len() <= FIRST_SWEEP + 1);
        assert!(Arc::ptr_eq(&one, &table.intern("one".to_owned())));
    }
}
