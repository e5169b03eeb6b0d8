//! ID maps as data.

use std::str::FromStr;

use crate::error::{ErrorKind, Fault, Result};

use super::UserNamespaceError;
use super::proc::text;
use super::ranges::{Granted, granted};

/// As many as the kernel takes for one map: user_namespaces(7).
const MAX_RANGES: usize = 340;
/// As much text: less than one page, whatever the size of pages is.
const MAX_TEXT: usize = 4095;

/// Consecutive IDs: `inside`, `inside + 1`… are `outside`, `outside + 1`… in the namespace around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a line of /proc/PID/uid_map has these three fields")]
pub struct IdRange {
    /// The first ID in the namespace.
    pub inside: u32,
    /// What it is outside.
    pub outside: u32,
    /// How many; never 0.
    pub count: u32,
}

/// Which users and groups there are in a user namespace, and who they are outside of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdMaps {
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
}

impl IdRange {
    /// Of three numbers, in this order.
    pub(super) fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [inside, outside, count] = numbers.try_into().ok()?;
        Some(Self { inside, outside, count })
    }
}

impl IdMaps {
    /// Maps of these ranges, for users and for groups.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for what the kernel would refuse: no range, more than 340 or more than a page of text, an empty
    /// one, numbers beyond 2^32 - 2, and ranges that overlap inside or outside.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Result<Self> {
        check(&uids)?;
        check(&gids)?;
        Ok(Self { uids, gids })
    }

    /// The calling user and group, as root and nobody else. Needs no grant, and there is no other owner of a file.
    pub fn single() -> Self {
        let one = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        Self { uids: one(rustix::process::geteuid().as_raw()), gids: one(rustix::process::getegid().as_raw()) }
    }

    /// The calling user and group, as root, and from 1 upwards the subordinate IDs that subuid(5) and subgid(5) grant; which
    /// other rootless tools (podman, Docker's rootless mode) map in the same way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] when no ranges are granted, with the reason.
    pub fn granted() -> Result<Self> {
        let Granted { uids, gids } = granted()?;
        let single = Self::single();
        Ok(Self { uids: extended(&single.uids, &uids), gids: extended(&single.gids, &gids) })
    }

    /// Maps for a namespace inside of one with these, in which root and the user `uid`, and their groups, have traded places, while
    /// all others are who they were. Files that belong to root there belong to that user here.
    #[must_use]
    pub fn keeping(&self, uid: u32, gid: u32) -> Self {
        Self { uids: keeping(size(&self.uids), uid), gids: keeping(size(&self.gids), gid) }
    }

    #[cfg(any(test, feature = "docker"))]
    /// The maps of the calling thread's namespace as it sees those of others with the same: every ID is itself.
    pub(crate) fn seen_from_inside(&self) -> Self {
        let itself = |ranges: &[IdRange]| {
            ranges.iter().map(|range| IdRange { outside: range.inside, ..*range }).collect::<Vec<_>>()
        };
        Self { uids: itself(&self.uids), gids: itself(&self.gids) }
    }

    #[cfg(any(test, feature = "docker"))]
    /// Whether they map the same, however it is written.
    pub(crate) fn maps_as(&self, other: &Self) -> bool {
        joined(&self.uids) == joined(&other.uids) && joined(&self.gids) == joined(&other.gids)
    }

    /// The map of users.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The map of groups.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// One user and one group, who are the caller, whatever they are called inside: the one map that needs no grant.
    pub(super) fn is_single(&self) -> bool {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let is_only = |ranges: &[IdRange], id| matches!(ranges, [one] if one.count == 1 && one.outside == id);
        is_only(&self.uids, uid) && is_only(&self.gids, gid)
    }
}

/// `map:` of the command line: `INSIDE:OUTSIDE:COUNT[,…]`, for users and groups alike, or for users, a slash, and for groups.
impl FromStr for IdMaps {
    type Err = ParseIdMapsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseIdMapsError { text: text.chars().take(200).collect() };
        let ranges = |text: &str| -> Option<Vec<IdRange>> {
            text.split(',').map(|range| IdRange::of_words(range.split(':'))).collect()
        };
        let (uids, gids) = text.split_once('/').unwrap_or((text, text));
        let (uids, gids) = (ranges(uids).ok_or_else(error)?, ranges(gids).ok_or_else(error)?);
        Self::new(uids, gids).map_err(|_| error())
    }
}

/// Not ID maps.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not INSIDE:OUTSIDE:COUNT[,...], numbers that do not overlap, such as 0:1000:1,1:100000:65536")]
pub struct ParseIdMapsError {
    text: String,
}

impl Fault for ParseIdMapsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

fn check(ranges: &[IdRange]) -> Result<(), UserNamespaceError> {
    let ends = |first: u32, count: u32| first.checked_add(count);
    let sound = |range: &IdRange| {
        range.count > 0 && ends(range.inside, range.count).is_some() && ends(range.outside, range.count).is_some()
    };
    let overlap = |a: u32, a_count: u32, b: u32, b_count: u32| a < b + b_count && b < a + a_count;
    if ranges.is_empty() || ranges.len() > MAX_RANGES || text(ranges).len() > MAX_TEXT || !ranges.iter().all(sound) {
        return Err(UserNamespaceError::Ranges);
    }
    let apart = |a: &IdRange, b: &IdRange| {
        !overlap(a.inside, a.count, b.inside, b.count) && !overlap(a.outside, a.count, b.outside, b.count)
    };
    let all_apart = ranges.iter().enumerate().all(|(at, a)| ranges.iter().skip(at + 1).all(|b| apart(a, b)));
    if all_apart { Ok(()) } else { Err(UserNamespaceError::Ranges) }
}

/// Adds ranges of the host, one after the other inside.
fn extended(own: &[IdRange], granted: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = own.to_vec();
    let mut inside = size(own);
    let mut length = text(own).len();
    for &(outside, count) in granted.iter().take(MAX_RANGES - own.len()) {
        // 2^32 - 1 stands for "no ID".
        let count = count.min((u32::MAX - 1).saturating_sub(inside));
        length += text(&[IdRange { inside, outside, count }]).len();
        if length > MAX_TEXT {
            break;
        }
        if count > 0 {
            map.push(IdRange { inside, outside, count });
            inside += count;
        }
    }
    map
}

#[cfg(any(test, feature = "docker"))]
/// In order, and what continues a range as one with it.
fn joined(ranges: &[IdRange]) -> Vec<IdRange> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(|range| range.inside);
    let mut joined: Vec<IdRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let follows = |last: &IdRange| {
            last.inside.checked_add(last.count) == Some(range.inside)
                && last.outside.checked_add(last.count) == Some(range.outside)
        };
        match joined.last_mut() {
            Some(last) if follows(last) => last.count = last.count.saturating_add(range.count),
            _ => joined.push(range),
        }
    }
    joined
}

/// How many IDs a map has.
pub(crate) fn size(map: &[IdRange]) -> u32 {
    map.iter().fold(0, |size, range| size.saturating_add(range.count))
}

fn keeping(size: u32, id: u32) -> Vec<IdRange> {
    if id == 0 {
        return vec![IdRange { inside: 0, outside: 0, count: size }];
    }
    let ranges = [
        IdRange { inside: 0, outside: id, count: u32::from(id < size) },
        IdRange { inside: 1, outside: 1, count: id.min(size).saturating_sub(1) },
        IdRange { inside: id, outside: 0, count: 1 },
        IdRange {
            inside: id.saturating_add(1),
            outside: id.saturating_add(1),
            count: size.saturating_sub(id.saturating_add(1)),
        },
    ];
    ranges.into_iter().filter(|range| range.count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ranges: &[(u32, u32, u32)]) -> Vec<IdRange> {
        ranges.iter().map(|&(inside, outside, count)| IdRange { inside, outside, count }).collect()
    }

    #[test]
    fn maps_are_what_the_kernel_takes() {
        let good = ranges(&[(0, 1000, 1), (1, 100_000, 65536)]);
        assert!(IdMaps::new(good.clone(), good.clone()).is_ok());
        for bad in [
            &[][..],
            &[(0, 0, 0)],
            &[(0, u32::MAX, 1)],
            &[(u32::MAX, 0, 1)],
            &[(0, 1000, 2), (1, 5, 1)],
            &[(0, 1000, 2), (5, 1001, 1)],
        ] {
            let error = IdMaps::new(ranges(bad), good.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
        let long = ranges(&(0..340).map(|id| (id, 1_000_000 + 2 * id, 1)).collect::<Vec<_>>());
        assert!(IdMaps::new(long, good.clone()).is_err(), "more than a page");
        assert!(IdMaps::new(ranges(&(0..341).map(|id| (id, id, 1)).collect::<Vec<_>>()), good).is_err());
    }

    #[test]
    fn maps_are_read() {
        let maps: IdMaps = "0:1000:1,1:100000:65536/0:100:1".parse().unwrap();
        assert_eq!(maps.uids(), ranges(&[(0, 1000, 1), (1, 100_000, 65536)]));
        assert_eq!(maps.gids(), ranges(&[(0, 100, 1)]));
        assert_eq!("0:1:1".parse::<IdMaps>().unwrap().gids(), ranges(&[(0, 1, 1)]));
        for bad in ["", "0", "0:1", "0:1:0", "0:1:1:1", "0:1:1,", "0:1:-1", "0:1:4294967296", "0:1:1/", "a:b:c"] {
            assert!(bad.parse::<IdMaps>().is_err(), "{bad}");
        }
    }

    #[test]
    fn granted_ranges_follow_each_other_inside() {
        let own = ranges(&[(0, 1000, 1)]);
        let map = extended(&own, &[(100_000, 65536), (300_000, 10)]);
        assert_eq!(map, ranges(&[(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, 10)]));
        assert_eq!(extended(&own, &[]), own);
        let many: Vec<_> = (0..400).map(|at| (100_000 + 10 * at, 5)).collect();
        let map = extended(&own, &many);
        assert!(map.len() > 200 && check(&map).is_ok(), "{}", map.len());
        let huge = extended(&own, &[(2000, u32::MAX - 2001)]);
        assert!(check(&huge).is_ok(), "{huge:?}");
    }

    #[test]
    fn a_kept_user_trades_places_with_root() {
        assert_eq!(keeping(1, 1000), ranges(&[(1000, 0, 1)]));
        assert_eq!(keeping(65537, 0), ranges(&[(0, 0, 65537)]));
        assert_eq!(keeping(65537, 1), ranges(&[(0, 1, 1), (1, 0, 1), (2, 2, 65535)]));
        assert_eq!(keeping(65537, 1000), ranges(&[(0, 1000, 1), (1, 1, 999), (1000, 0, 1), (1001, 1001, 64536)]));
        assert_eq!(keeping(65537, 65536), ranges(&[(0, 65536, 1), (1, 1, 65535), (65536, 0, 1)]));
        assert_eq!(keeping(65537, 100_000), ranges(&[(1, 1, 65536), (100_000, 0, 1)]));
        for id in [0, 1, 1000, 65536, 65537, 4_000_000_000] {
            assert!(check(&keeping(65537, id)).is_ok(), "{id}");
        }
    }

    #[test]
    fn maps_are_the_same_however_they_are_written() {
        let maps = |uids: &str| -> IdMaps { format!("{uids}/0:0:1").parse().unwrap() };
        assert!(maps("0:1000:1,1:100000:65536").maps_as(&maps("1:100000:65536,0:1000:1")));
        assert!(maps("0:100000:10,10:100010:10").maps_as(&maps("0:100000:20")));
        assert!(!maps("0:1000:1,1:100000:65536").maps_as(&maps("0:1000:1,1:200000:65536")));
        assert!(!maps("0:1000:1").maps_as(&maps("0:1000:1,1:2000:1")));
        let inside = maps("0:1000:1,1:100000:65536").seen_from_inside();
        assert!(inside.maps_as(&maps("0:0:65537")));
    }

    #[test]
    fn the_callers_own_map_is_the_single_one() {
        assert!(IdMaps::single().is_single());
        let uid = rustix::process::geteuid().as_raw();
        let more = vec![IdRange { inside: 0, outside: uid, count: 2 }];
        assert!(!IdMaps::new(more.clone(), more).unwrap().is_single());
    }
}
