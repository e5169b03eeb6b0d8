//! "Did you mean": names close to the one that was not found.

use crate::reference::{DaemonImage, Reference};

const MOST: usize = 3;

/// Up to three of `names` that somebody who mistypes could have meant, the closest first, in the form that people write.
pub(super) fn nearest(wanted: &Reference, names: impl Iterator<Item = String>) -> Vec<String> {
    let (Reference::Name(wanted) | Reference::DockerDaemon(DaemonImage::Name(wanted))) = wanted else {
        return Vec::new();
    };
    let familiar = wanted.familiar();
    // One slip in short names, two or three in long ones.
    let limit = (familiar.chars().count() / 4).clamp(1, 3);
    let mut found: Vec<(usize, String)> = names
        .filter_map(|name| {
            let Ok(Reference::Name(name)) = name.parse() else { return None };
            // The right repository with another tag is what is most often meant, however far apart the tags are.
            let same = name.registry() == wanted.registry() && name.repository() == wanted.repository();
            let name_in_familiar_form = name.familiar();
            let distance = if same { 0 } else { distance(&familiar, &name_in_familiar_form) };
            (distance <= limit).then_some((distance, name_in_familiar_form))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// How many characters must be inserted, removed or replaced (Levenshtein), row by row.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut left = line + 1;
        let mut next = vec![left];
        for (&b, (&diagonal, &above)) in to.iter().zip(row.iter().zip(row.iter().skip(1))) {
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn close_names_come_first() {
        let names = [
            "docker.io/library/ubuntu:24.04",
            "docker.io/library/debian:12",
            "docker.io/library/unbuntu:latest",
            "x y",
        ];
        let near = |wanted: &str| nearest(&wanted.parse().unwrap(), names.iter().map(|&name| name.to_owned()));
        assert_eq!(near("ubuntu"), ["ubuntu:24.04", "unbuntu:latest"]);
        assert_eq!(near("debain:12"), ["debian:12"]);
        assert!(near("fedora").is_empty());
    }
}
