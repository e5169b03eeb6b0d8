//! Archives that other projects keep as examples of odd and hostile ones. They have licences of their own and are not kept
//! here: `../shared/cases/archives` beside the repository, or `LAYERMOUNT_CORPORA`.

use std::io::Read;

use super::*;
use crate::decode::{DecodeLimits, Decoder};
use crate::layer::Kind;

#[test]
fn archives_of_other_projects() {
    let Some(place) = corpora() else {
        return skip("corpora", "the archives of other projects are not here");
    };
    let table = fs::read_to_string(place.join("ALL.tsv")).unwrap();
    let mut failures = Vec::new();
    let mut ran = 0;
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [file, _, digest, _, _, wanted, listing, ..] = columns[..] else { panic!("{row:?}") };
        let bytes = fs::read(place.join(file)).unwrap();
        assert_eq!(crate::digest::Digest::sha256(&bytes).hex(), digest, "{file}");
        ran += 1;
        let mut stack = Stack::new(options(OverlayXattrs::Trusted));
        let read = decode(&bytes).and_then(|tar| Ok((list(&tar)?, stack.push(&tar)?)));
        match (wanted, read) {
            ("reject" | "either", Err(error)) if error.kind() == ErrorKind::InvalidLayer => {}
            ("accept" | "either", Ok((found, _))) => {
                if !listing.is_empty() && listing != "(none)" && !matches(listing, &found) {
                    failures.push(format!("{file}: {found:?} is not {listing}"));
                }
            }
            (_, Ok(_)) => failures.push(format!("{file}: accepted")),
            (_, Err(error)) => failures.push(format!("{file}: {error:#}")),
        }
    }
    eprintln!("{ran} archives read");
    assert!(ran > 30 && failures.is_empty(), "{ran} run:\n{}", failures.join("\n"));
}

/// Where the archives are, if they are here.
pub(super) fn corpora() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases/archives");
    let place = std::env::var_os("LAYERMOUNT_CORPORA").map_or(beside, PathBuf::from);
    place.join("ALL.tsv").exists().then_some(place)
}

/// The archive in a layer that may be compressed.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new(bytes, None, &DecodeLimits::default())?;
    let mut tar = Vec::new();
    decoder.read_to_end(&mut tar).map_err(crate::decode::from_read)?;
    decoder.finish()?;
    Ok(tar)
}

/// Entries as the table writes them: `f:name:size`, `l:name->target`.
fn list(tar: &[u8]) -> Result<Vec<String>> {
    let mut archive = Archive::new(tar, &LayerLimits::default());
    let mut found = Vec::new();
    while let Some(entry) = archive.next()? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let link = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
        found.push(match &entry.kind {
            Kind::File { size, sparse: None } => format!("f:{name}:{size}"),
            Kind::File { size, sparse: Some(_) } => format!("S:{name}:{size}"),
            Kind::Directory => format!("d:{}", name.trim_end_matches('/')),
            Kind::Symlink(target) => format!("l:{name}->{}", link(target)),
            Kind::HardLink(target) => format!("h:{name}->{}", link(target)),
            Kind::CharDevice(_) => format!("c:{name}"),
            Kind::BlockDevice(_) => format!("b:{name}"),
            Kind::Fifo => format!("p:{name}"),
        });
    }
    Ok(found)
}

/// The table abbreviates long names as `start...(length)`, long link targets without a mark, and adds remarks behind a blank.
fn matches(wanted: &str, found: &[String]) -> bool {
    let wanted: Vec<&str> = wanted.split('|').collect();
    wanted.len() <= found.len()
        && wanted.iter().zip(found).all(|(wanted, found)| {
            let wanted = wanted.split(" (").next().unwrap_or(wanted);
            if wanted.contains("a*97") {
                return *found == format!("f:{}/foo:0", "a".repeat(97));
            }
            match wanted.split_once("...(") {
                Some((start, rest)) => {
                    let size = rest.rsplit_once("):").map(|(_, size)| format!(":{size}")).unwrap_or_default();
                    found.starts_with(start) && found.ends_with(&size)
                }
                None if wanted.contains("->") => found.starts_with(wanted),
                None => found == wanted.trim_end_matches('/'),
            }
        })
}
