//! [`Archive`]: the entries of a tar archive, one after the other.

use std::io::{self, BufRead};

use super::entry::{Attributes, Entry, Kind, Region};
use super::header::{BLOCK, Block, text};
use super::pax::{Pax, check_regions, decimal};
use super::sparse::{self, PaxMap, Sparse};
use super::{LayerError, LayerLimits, Refusal};
use crate::decode::from_read;
use crate::error::{Error, Result};
use crate::limits::Limit;

/// Reads entries and their data from a tar archive.
///
/// After [`Archive::next`] has returned an entry with data, [`Archive::data`] hands it out piece by piece; what is not taken is
/// skipped. The archive ends at two blocks of zeros, or where the stream ends between two entries.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    input: R,
    limits: LayerLimits,
    /// Where we are, for messages.
    offset: u64,
    entries: u64,
    /// What is left of the current entry's data, and of the zeros that fill its last block.
    data: u64,
    padding: u64,
}

/// Extended headers that wait for the entry they belong to.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        matches!(self, Self { pax: None, name: None, link: None })
    }
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(input: R, limits: &LayerLimits) -> Self {
        Self { input, limits: limits.clone(), offset: 0, entries: 0, data: 0, padding: 0 }
    }

    /// The next entry, or `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut pending = Pending::default();
        loop {
            self.skip_data()?;
            let start = self.offset;
            let Some(bytes) = self.header(&pending)? else { return Ok(None) };
            let at = |reason| Error::from(LayerError::Archive { offset: start, reason });
            let block = Block::new(&bytes).map_err(at)?;
            match block.type_flag() {
                b'x' => {
                    let bytes = self.extension(&block)?;
                    let pax = Pax::parse(&bytes, &self.limits).map_err(at)?;
                    once(&mut pending.pax, pax).map_err(at)?;
                }
                b'L' => {
                    let name = long_name(&self.ended_name(&block)?).map_err(at)?;
                    once(&mut pending.name, name).map_err(at)?;
                }
                b'K' => {
                    let name = long_name(&self.ended_name(&block)?).map_err(at)?;
                    once(&mut pending.link, name).map_err(at)?;
                }
                b'g' if pending.is_empty() => {
                    let bytes = self.extension(&block)?;
                    Pax::check_global(&bytes, &self.limits).map_err(at)?;
                }
                // Go and others forget the entry's own headers here, GNU tar and others do not.
                b'g' => return Err(at(Refusal::Because("a global header between an entry and its extended header"))),
                _ => {
                    self.entries += 1;
                    let limit = self.limits.entries;
                    if self.entries > limit {
                        return Err(at(Refusal::Limit { what: Limit::Entries, limit }));
                    }
                    return self.entry(&block, pending).map(Some);
                }
            }
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let offset = self.offset;
        let piece = self.input.fill_buf().map_err(from_read)?;
        if piece.is_empty() {
            return Err(truncated(offset).into());
        }
        let length = usize::try_from(self.data).map_or(piece.len(), |left| left.min(piece.len()));
        Ok(piece.get(..length).unwrap_or_default())
    }

    /// Moves on behind `count` bytes of what [`Archive::data`] has shown.
    pub(crate) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.offset += count as u64;
        self.data = self.data.saturating_sub(count as u64);
    }

    /// Moves on behind the current entry's data without reading it: `skip` does so with the input.
    pub(crate) fn pass_data(&mut self, skip: impl FnOnce(&mut R, u64)) {
        let count = std::mem::take(&mut self.data) + std::mem::take(&mut self.padding);
        skip(&mut self.input, count);
        self.offset += count;
    }

    /// The input, from behind what was read.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// How much of the archive has been read.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    fn skip_data(&mut self) -> Result<()> {
        self.data = self.data.saturating_add(std::mem::take(&mut self.padding));
        while self.data > 0 {
            let count = self.data()?.len();
            self.consume(count);
        }
        Ok(())
    }

    fn set_body(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// A header block; `None` at the end marker or the stream's end.
    fn header(&mut self, pending: &Pending) -> Result<Option<[u8; BLOCK]>> {
        let end = |this: &Self| match pending.is_empty() {
            true => Ok(None),
            false => Err(this.malformed(Refusal::Because("an extended header belongs to no entry"))),
        };
        let Some(first) = self.block()? else { return end(self) };
        if first != [0; BLOCK] {
            return Ok(Some(first));
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK] => {
                Err(self.malformed(Refusal::Because("a block of zeros is followed by data")))
            }
            _ => end(self),
        }
    }

    /// One block; `None` if the stream ends here.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(free) = block.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.input.read(free) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(truncated(self.offset).into()),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(from_read(error)),
            }
        }
        Ok(Some(block))
    }

    /// The data of an extended header, whole. Only its own header's size counts for it.
    fn extension(&mut self, block: &Block<'_>) -> Result<Vec<u8>> {
        let size = block.size().map_err(|reason| self.malformed(reason))?;
        let limit = self.limits.extension_bytes;
        if size > limit {
            return Err(self.malformed(Refusal::Limit { what: Limit::ExtensionBytes, limit }));
        }
        self.set_body(size);
        let mut bytes = Vec::new();
        while self.data > 0 {
            let piece = self.data()?;
            let count = piece.len();
            bytes.extend_from_slice(piece);
            self.consume(count);
        }
        Ok(bytes)
    }

    /// A GNU long name. Some readers go on to the next NUL where its own bytes hold none, and so does whoever fills the block.
    fn ended_name(&mut self, block: &Block<'_>) -> Result<Vec<u8>> {
        let name = self.extension(block)?;
        if !name.contains(&0) && self.padding > 0 && self.input.fill_buf().map_err(from_read)?.first() != Some(&0) {
            return Err(self.malformed(Refusal::Because("a long name goes on behind its end")));
        }
        Ok(name)
    }

    fn entry(&mut self, block: &Block<'_>, pending: Pending) -> Result<Entry> {
        let Pending { pax, name: long_name, link: long_link } = pending;
        let mut pax = pax.unwrap_or_default();
        let shown = pax.path.as_ref().or(long_name.as_ref()).cloned().unwrap_or_else(|| block.name());
        let refuse = |reason| Error::from(LayerError::entry(&shown, reason));
        if (pax.path.is_some() && long_name.is_some()) || (pax.link_path.is_some() && long_link.is_some()) {
            return Err(refuse(Refusal::Because("PAX and GNU both give it a long name")));
        }
        if pax.path.is_none() && long_name.is_none() && block.is_all_prefix() {
            return Err(refuse(Refusal::Because("a name that is nothing but a prefix")));
        }
        let mut name = shown.clone();
        let link = pax.link_path.take().or(long_link).unwrap_or_else(|| block.link_name().to_vec());
        let attributes = attributes(block, &mut pax).map_err(refuse)?;
        let flag = block.type_flag();
        let is_file = matches!(flag, b'0' | b'7' | b'S') || (flag == 0 && !name.ends_with(b"/"));
        let map = pax.sparse.map().map_err(refuse)?;
        if !is_file && map.is_some() {
            return Err(refuse(Refusal::Because("it is sparse, but not a file")));
        }
        if !is_file {
            // It says nothing here, but what is no size makes other readers stop.
            block.size().map_err(refuse)?;
        }
        let kind = match flag {
            _ if is_file => {
                let size = pax.size.map_or_else(|| block.size(), Ok).map_err(refuse)?;
                self.set_body(size);
                let sparse = match (flag, map) {
                    (b'S', None) => Some(self.old_sparse(block).map_err(|error| error.name(&shown))?),
                    (b'S', Some(_)) => return Err(refuse(Refusal::Because("it is sparse in two ways"))),
                    (_, Some(PaxMap::InRecords(sparse))) => Some(sparse),
                    (_, Some(PaxMap::InData { size })) => {
                        Some(Sparse { size, regions: self.data_map().map_err(|error| error.name(&shown))? })
                    }
                    (_, None) => None,
                };
                if let Some(real) = pax.sparse.name {
                    name = real;
                }
                if name.ends_with(b"/") {
                    return Err(refuse(Refusal::Because("a file with the name of a directory")));
                }
                match sparse {
                    None => Kind::File { size, sparse: None },
                    Some(sparse) => {
                        let Sparse { size, regions } = sparse.check(self.data).map_err(refuse)?;
                        Kind::File { size, sparse: Some(regions) }
                    }
                }
            }
            // None of these has data, whatever its size field says (Go: isHeaderOnly).
            b'1' if link.is_empty() => return Err(refuse(Refusal::Because("a hard link without a target"))),
            b'1' => Kind::HardLink(link),
            b'2' if link.is_empty() || link.contains(&0) => {
                return Err(refuse(Refusal::Because("a symlink without a target")));
            }
            b'2' if link.len() > self.limits.path_bytes => {
                return Err(refuse(Refusal::Limit { what: Limit::PathBytes, limit: self.limits.path_bytes as u64 }));
            }
            b'2' => Kind::Symlink(link),
            b'3' => Kind::CharDevice(block.device().map_err(refuse)?),
            b'4' => Kind::BlockDevice(block.device().map_err(refuse)?),
            // The v7 way to write a directory: a file whose name ends in a slash.
            b'5' | 0 => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(refuse(Refusal::Because("an entry of an unknown type"))),
        };
        Ok(Entry { name, kind, attributes })
    }

    /// The old GNU form: four regions in the header, more in blocks before the data, which the size does not count.
    fn old_sparse(&mut self, block: &Block<'_>) -> Result<Sparse, SparseError> {
        const NOT_GNU: Refusal = Refusal::Because("a sparse file in a header that is not GNU's");
        let gnu = block.gnu().ok_or(NOT_GNU)?;
        let size = super::header::unsigned(&gnu.realsize, "the real size is not a number")?;
        let mut regions = Vec::new();
        let fields: Vec<u8> = gnu.sparse.iter().flat_map(|field| [field.offset, field.numbytes].concat()).collect();
        sparse::old_regions(&fields, &mut regions, &self.limits)?;
        let more = |flag: Option<&u8>| match flag {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            _ => Err(Refusal::Because("the sparse map is malformed")),
        };
        let mut extended = more(gnu.isextended.first())?;
        while extended {
            let block = self.block()?.ok_or_else(|| SparseError::Other(truncated(self.offset).into()))?;
            let (fields, rest) = block.split_at(21 * 24);
            sparse::old_regions(fields, &mut regions, &self.limits)?;
            extended = more(rest.first())?;
        }
        Ok(Sparse { size, regions })
    }

    /// The PAX form 1.0: decimal numbers, one a line, fill the first blocks of the data.
    fn data_map(&mut self) -> Result<Vec<Region>, SparseError> {
        const MAP: Refusal = Refusal::Because("the sparse map is malformed");
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut taken = 0_u64;
        loop {
            if self.data < BLOCK as u64 {
                return Err(MAP.into());
            }
            let limit = self.limits.extension_bytes;
            if taken + BLOCK as u64 > limit {
                return Err(Refusal::Limit { what: Limit::ExtensionBytes, limit }.into());
            }
            let block = self.block()?.ok_or_else(|| SparseError::Other(truncated(self.offset).into()))?;
            self.data -= BLOCK as u64;
            taken += BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                numbers.push(decimal(&line, MAP)?);
                line.clear();
                let count = numbers.first().copied().unwrap_or_default();
                check_regions(usize::try_from(count).unwrap_or(usize::MAX), &self.limits)?;
                if numbers.len() as u64 == count * 2 + 1 {
                    return Ok(sparse::pair(numbers.get(1..).unwrap_or_default())?);
                }
            }
        }
    }

    fn malformed(&self, reason: Refusal) -> Error {
        LayerError::Archive { offset: self.offset, reason }.into()
    }
}

/// Two extended headers of one kind before one entry: readers disagree about which counts.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Because("two extended headers of one kind for one entry")),
    }
}

/// A GNU long name or link target.
fn long_name(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    match text(bytes) {
        // Some readers then take the header's own name.
        [] => Err(Refusal::Because("a long name is empty")),
        name => Ok(name.to_vec()),
    }
}

fn attributes(block: &Block<'_>, pax: &mut Pax) -> Result<Attributes, Refusal> {
    Ok(Attributes {
        mode: block.mode()?,
        uid: pax.uid.map_or_else(|| block.uid(), Ok)?,
        gid: pax.gid.map_or_else(|| block.gid(), Ok)?,
        mtime: pax.mtime.map_or_else(|| block.mtime().map(|seconds| (seconds, 0)), Ok)?,
        xattrs: std::mem::take(&mut pax.xattrs),
    })
}

fn truncated(offset: u64) -> LayerError {
    LayerError::Archive { offset, reason: Refusal::Because("it ends in the middle of an entry") }
}

/// A refusal that does not know its entry yet, or another failure.
enum SparseError {
    Refused(Refusal),
    Other(Error),
}

impl SparseError {
    fn name(self, entry: &[u8]) -> Error {
        match self {
            Self::Refused(reason) => LayerError::entry(entry, reason).into(),
            Self::Other(error) => error,
        }
    }
}

impl From<Refusal> for SparseError {
    fn from(reason: Refusal) -> Self {
        Self::Refused(reason)
    }
}

impl From<Error> for SparseError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}
