//! A set of nodes, one bit each.

/// Nodes by their number; grows as needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet {
    words: Vec<u64>,
    len: usize,
}

impl NodeSet {
    /// Adds or removes a node; true if that changed anything.
    pub fn set(&mut self, node: usize, present: bool) -> bool {
        let (word, bit) = (node / 64, 1_u64 << (node % 64));
        if word >= self.words.len() {
            if !present {
                return false;
            }
            self.words.resize(word + 1, 0);
        }
        let was = self.words[word] & bit != 0;
        if was == present {
            return false;
        }
        self.words[word] ^= bit;
        if present {
            self.len += 1;
        } else {
            self.len -= 1;
        }
        true
    }

    /// True if the node is in the set.
    pub fn contains(&self, node: usize) -> bool {
        self.words.get(node / 64).is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// Nodes in the set.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no node is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The nodes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_out_in_order_and_are_counted() {
        let mut set = NodeSet::default();
        for node in [130, 0, 63, 64] {
            assert!(set.set(node, true));
        }
        assert!(!set.set(64, true));
        assert!(set.set(63, false));
        assert!(!set.set(5000, false));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 130]);
        assert_eq!(set.len(), 3);
    }
}
