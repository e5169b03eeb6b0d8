//! Which bytes of the metadata are whose: nobody may have what is another's.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Wrong;

#[derive(Debug)]
pub(super) struct Claims {
    all: Range<u64>,
    /// Ends by starts.
    taken: BTreeMap<u64, u64>,
}

impl Claims {
    pub(super) fn new(all: Range<u64>) -> Self {
        Self { all, taken: BTreeMap::new() }
    }

    /// Takes a piece of which nothing was taken before.
    pub(super) fn claim(&mut self, start: u64, length: u64) -> Result<(), Wrong> {
        if length == 0 {
            return Ok(());
        }
        let end = start.checked_add(length).ok_or(Wrong("metadata lies behind all addresses"))?;
        if start < self.all.start || end > self.all.end {
            return Err(Wrong("metadata lies outside of where it should"));
        }
        if !self.leave_free(&(start..end)) {
            return Err(Wrong("two things lie in one place"));
        }
        self.taken.insert(start, end);
        Ok(())
    }

    /// Whether nothing of a range is taken.
    pub(super) fn leave_free(&self, range: &Range<u64>) -> bool {
        let before = self.taken.range(..range.end).next_back();
        before.is_none_or(|(_, end)| *end <= range.start)
    }

    /// What nobody has.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Range<u64>> {
        let starts = std::iter::once(self.all.start).chain(self.taken.values().copied());
        let ends = self.taken.keys().copied().chain([self.all.end]);
        starts.zip(ends).map(|(start, end)| start..end)
    }
}
