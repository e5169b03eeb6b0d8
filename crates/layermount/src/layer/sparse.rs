//! GNU sparse files: the old `S` header, and the PAX forms 0.0, 0.1 and 1.0.

use super::entry::Region;
use super::header::unsigned;
use super::pax::{SparseRecords, check_regions};
use super::{LayerLimits, Refusal};

const MAP: Refusal = Refusal::Because("the sparse map is malformed");

/// A sparse file as it will be: its real size and where the data goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) size: u64,
    pub(super) regions: Vec<Region>,
}

/// Where the map of a PAX sparse file stands.
pub(super) enum PaxMap {
    /// In the records (0.0 and 0.1).
    InRecords(Sparse),
    /// At the start of the entry's data (1.0); only the real size is known so far.
    InData { size: u64 },
}

impl SparseRecords {
    /// What the records say; `None` if there are none. Records that make no sparse file would let two readers see two names.
    pub(super) fn map(&self) -> Result<Option<PaxMap>, Refusal> {
        if !self.present {
            return Ok(None);
        }
        let size = self.size.ok_or(Refusal::Because("GNU.sparse records without a size"))?;
        match self.version {
            (Some(1), Some(0)) if self.numbers.is_empty() => Ok(Some(PaxMap::InData { size })),
            // A map of nothing would be no map to other readers; GNU tar writes one region at least.
            (None, None) | (Some(0), Some(0 | 1)) if !self.numbers.is_empty() => {
                let regions = pair(&self.numbers)?;
                if self.count.is_some_and(|count| count != regions.len() as u64) {
                    return Err(MAP);
                }
                Ok(Some(PaxMap::InRecords(Sparse { size, regions })))
            }
            _ => Err(Refusal::Because("GNU.sparse records of an unknown version")),
        }
    }
}

/// Collects the regions of an old GNU header and of its continuation blocks: 12 bytes of offset, 12 of length each.
pub(super) fn old_regions(fields: &[u8], regions: &mut Vec<Region>, limits: &LayerLimits) -> Result<(), Refusal> {
    for field in fields.chunks_exact(24) {
        let (offset, length) = field.split_at(12);
        match (offset.starts_with(&[0]), length.starts_with(&[0])) {
            (true, true) => break,
            (false, false) => {}
            // GNU tar ends the map at a length that is missing, Go at an offset.
            _ => return Err(MAP),
        }
        let number = |field| unsigned(field, "the sparse map is malformed");
        regions.push(Region { offset: number(offset)?, length: number(length)? });
        check_regions(regions.len(), limits)?;
    }
    Ok(())
}

pub(super) fn pair(numbers: &[u64]) -> Result<Vec<Region>, Refusal> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(MAP);
    }
    Ok(pairs
        .filter_map(|pair| <[u64; 2]>::try_from(pair).ok())
        .map(|[offset, length]| Region { offset, length })
        .collect())
}

impl Sparse {
    /// Ascending, disjoint, within the file, and exactly as long as the data that is there.
    pub(super) fn check(mut self, data: u64) -> Result<Self, Refusal> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for Region { offset, length } in &self.regions {
            if *offset < end {
                return Err(MAP);
            }
            end = offset.checked_add(*length).filter(|end| *end <= self.size).ok_or(MAP)?;
            sum += length;
        }
        if sum != data || i64::try_from(self.size).is_err() {
            return Err(Refusal::Because("the sparse map does not fit the entry's data"));
        }
        // GNU tar ends its maps with an empty region at the file's end.
        self.regions.retain(|region| region.length > 0);
        Ok(self)
    }
}
