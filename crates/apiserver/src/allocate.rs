//! A pool of numbered slots: which are taken, and which to hand out next. Does
//! not know what a slot stands for.

/// A bitmap. Slots handed out unasked come from the upper band first, so that
/// those that people choose by hand (low ones) stay free.
pub(crate) struct Slots {
    words: Vec<u64>,
    size: u32,
    reserved: u32,
    taken: u32,
}

/// Why a slot was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// Somebody has it.
    Taken,
    /// There is no such slot.
    OutOfRange,
}

impl Slots {
    /// `size` free slots, the first `reserved` of which are handed out last.
    pub(crate) fn new(size: u32, reserved: u32) -> Self {
        Self { words: vec![0; size.div_ceil(64) as usize], size, reserved: reserved.min(size), taken: 0 }
    }

    fn is_taken(&self, slot: u32) -> bool {
        self.words[(slot / 64) as usize] & (1 << (slot % 64)) != 0
    }

    /// Takes this slot.
    pub(crate) fn take(&mut self, slot: u32) -> Result<(), Refused> {
        if slot >= self.size {
            return Err(Refused::OutOfRange);
        }
        if self.is_taken(slot) {
            return Err(Refused::Taken);
        }
        self.words[(slot / 64) as usize] |= 1 << (slot % 64);
        self.taken += 1;
        Ok(())
    }

    /// Takes any slot: from a random place on, the upper band first. `below`
    /// gives a random number below its argument.
    pub(crate) fn take_any(&mut self, below: impl Fn(u64) -> u64) -> Option<u32> {
        if self.taken >= self.size {
            return None;
        }
        let upper = self.size - self.reserved;
        for (start, length) in [(self.reserved, upper), (0, self.reserved)] {
            if length == 0 {
                continue;
            }
            let offset = below(u64::from(length)) as u32;
            let free = (0..length).map(|step| start + (offset + step) % length).find(|slot| !self.is_taken(*slot));
            if let Some(slot) = free {
                return self.take(slot).ok().map(|()| slot);
            }
        }
        None
    }

    /// Gives a slot back; a free one stays free.
    pub(crate) fn release(&mut self, slot: u32) {
        if slot < self.size && self.is_taken(slot) {
            self.words[(slot / 64) as usize] &= !(1 << (slot % 64));
            self.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_handed_out_once_and_the_low_ones_last() {
        let mut slots = Slots::new(100, 16);
        let order: Vec<u32> = std::iter::from_fn(|| slots.take_any(|_| 0)).collect();
        assert_eq!(order.len(), 100);
        assert_eq!(order[0], 16);
        assert!(order[84..].iter().all(|slot| *slot < 16));
        assert_eq!(slots.take(5), Err(Refused::Taken));
        slots.release(5);
        assert_eq!(slots.take(5), Ok(()));
        assert_eq!(slots.take(100), Err(Refused::OutOfRange));
    }
}
