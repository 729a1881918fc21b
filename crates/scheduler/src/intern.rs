//! Strings as small numbers, so that columns compare and index by `u32`.
//!
//! Entries are counted and freed: names of nodes that are gone do not pile up.
//! Pods' labels are not interned, they live in their class.

use std::collections::HashMap;
use std::sync::Arc;

/// An interned string. Valid while its owner holds the reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Symbol(u32);

impl Symbol {
    /// Equal to no interned string: an absent value in a column.
    pub const NONE: Self = Self(u32::MAX);
}

/// Table of interned strings with reference counts.
#[derive(Debug, Default)]
pub struct Interner {
    symbols: HashMap<Arc<str>, Symbol>,
    slots: Vec<(Arc<str>, u32)>,
    free: Vec<Symbol>,
}

impl Interner {
    /// The symbol of a text, made if new; holds one more reference to it.
    pub fn acquire(&mut self, text: &str) -> Symbol {
        if let Some(&symbol) = self.symbols.get(text) {
            self.slots[symbol.0 as usize].1 += 1;
            return symbol;
        }
        let text: Arc<str> = text.into();
        let symbol = match self.free.pop() {
            Some(symbol) => {
                self.slots[symbol.0 as usize] = (text.clone(), 1);
                symbol
            }
            None => {
                self.slots.push((text.clone(), 1));
                Symbol((self.slots.len() - 1) as u32)
            }
        };
        self.symbols.insert(text, symbol);
        symbol
    }

    /// Gives one reference back; the last one frees the entry.
    pub fn release(&mut self, symbol: Symbol) {
        let slot = &mut self.slots[symbol.0 as usize];
        slot.1 -= 1;
        if slot.1 == 0 {
            let text = std::mem::replace(&mut slot.0, "".into());
            self.symbols.remove(&text);
            self.free.push(symbol);
        }
    }

    /// The symbol of a text that somebody holds, [`Symbol::NONE`] otherwise.
    pub fn find(&self, text: &str) -> Symbol {
        self.symbols.get(text).copied().unwrap_or(Symbol::NONE)
    }

    /// The text of a held symbol; empty for [`Symbol::NONE`].
    pub fn text(&self, symbol: Symbol) -> &str {
        self.slots.get(symbol.0 as usize).map_or("", |slot| &slot.0)
    }

    /// Distinct strings held.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// True if no string is held.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_freed_with_its_last_reference_and_its_number_reused() {
        let mut interner = Interner::default();
        let zone = interner.acquire("zone");
        assert_eq!(interner.acquire("zone"), zone);
        interner.release(zone);
        assert_eq!(interner.find("zone"), zone);
        interner.release(zone);
        assert_eq!(interner.find("zone"), Symbol::NONE);
        assert_eq!(interner.acquire("host"), zone);
        assert_eq!(interner.text(zone), "host");
        assert_eq!(interner.len(), 1);
    }
}
