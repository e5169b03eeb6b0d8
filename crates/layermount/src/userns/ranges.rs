//! The IDs that subuid(5) and subgid(5) grant to the calling user.

use std::process::{Command, Stdio};

use nix::unistd::User;

use super::UserNamespaceError;

/// Ranges of the host's IDs: first and count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) uids: Vec<(u32, u32)>,
    pub(crate) gids: Vec<(u32, u32)>,
}

/// What the machine grants to the calling user.
pub(crate) fn granted() -> Result<Granted, UserNamespaceError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let user = user_name(uid);
    // Whatever is in a line about somebody else, such as another encoding, is no reason to grant nothing.
    let file = |path: &'static str| {
        let text = std::fs::read(path).unwrap_or_default();
        String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    };
    let ranges = |path, flags: &[&str], own| {
        let mut ranges = ranges_of(&file(path), user.as_deref(), uid);
        // Where another service than the files answers, subid(3) is the way to ask it.
        if ranges.is_empty() && names_a_service(&file("/etc/nsswitch.conf")) {
            ranges = user.as_deref().map(|user| ask(flags, user)).unwrap_or_default();
        }
        disjoint(ranges, own)
    };
    let granted = Granted { uids: ranges("/etc/subuid", &[], uid), gids: ranges("/etc/subgid", &["-g"], gid) };
    let missing = match (granted.uids.is_empty(), granted.gids.is_empty()) {
        (false, false) => return Ok(granted),
        (true, _) => "/etc/subuid",
        (false, true) => "/etc/subgid",
    };
    Err(UserNamespaceError::NotGranted { file: missing, user: user.unwrap_or_else(|| uid.to_string()) })
}

/// The name of a user: from the file where it is, because the C library's way loads whatever else may know.
fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let local = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    // A C library that is linked in (musl's) knows no other place; getent(1) is of the system's.
    local.or_else(|| User::from_uid(uid.into()).ok().flatten().map(|user| user.name)).or_else(|| ask_for_name(uid))
}

fn ask_for_name(uid: u32) -> Option<String> {
    if cfg!(not(target_env = "musl")) {
        return None;
    }
    let output = Command::new("getent").args(["passwd", &uid.to_string()]).stderr(Stdio::null()).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    line.split(':').next().filter(|name| output.status.success() && !name.is_empty()).map(str::to_owned)
}

/// Lines `NAME:FIRST:COUNT`, where NAME may be a number.
fn ranges_of(file: &str, user: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let is_ours = |name: &str| Some(name) == user || name.parse() == Ok(uid);
    file.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
            is_ours(name).then_some((first.parse().ok()?, count.parse().ok()?))
        })
        .collect()
}

/// Whether `subid:` in nsswitch.conf names anything but the files.
fn names_a_service(nsswitch: &str) -> bool {
    nsswitch
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().strip_prefix("subid:"))
        .any(|services| services.split_whitespace().any(|service| service != "files"))
}

/// Lines `0: NAME FIRST COUNT`: getsubids(1).
fn ask(flags: &[&str], user: &str) -> Vec<(u32, u32)> {
    let output = Command::new("getsubids").args(flags).arg(user).output().map(|output| output.stdout);
    let output = String::from_utf8(output.unwrap_or_default()).unwrap_or_default();
    output
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect()
}

/// Without what the kernel would refuse: the caller's own ID, and what was granted twice.
fn disjoint(ranges: Vec<(u32, u32)>, own: u32) -> Vec<(u32, u32)> {
    let mut kept: Vec<(u32, u32)> = Vec::new();
    for (first, count) in ranges {
        let Some(end) = first.checked_add(count) else { continue };
        let meets = |&(other, count): &(u32, u32)| first < other + count && other < end;
        if count > 0 && !kept.iter().any(meets) && !(first..end).contains(&own) {
            kept.push((first, count));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let file =
            "# comment\nalice:100000:65536\nbob:165536:65536\n1000:300000:10\nalice:400000:5\nalice:x:1\nalice\n";
        assert_eq!(ranges_of(file, Some("alice"), 1000), [(100_000, 65536), (300_000, 10), (400_000, 5)]);
        assert_eq!(ranges_of(file, Some("bob"), 1001), [(165_536, 65536)]);
        assert_eq!(ranges_of(file, None, 1000), [(300_000, 10)]);
        assert!(ranges_of(file, Some("carol"), 1002).is_empty());
        assert!(ranges_of("", Some("alice"), 1000).is_empty());
    }

    #[test]
    fn only_disjoint_ranges_are_kept() {
        assert_eq!(disjoint(vec![(100, 10), (105, 10), (110, 5), (200, 0)], 1), [(100, 10), (110, 5)]);
        assert_eq!(disjoint(vec![(0, 65536), (100_000, 1)], 1000), [(100_000, 1)]);
        assert!(disjoint(vec![(u32::MAX, 2)], 1).is_empty());
    }

    #[test]
    fn services_are_asked_when_they_are_named() {
        assert!(!names_a_service("passwd: files sss\nsubid: files # sss\n"));
        assert!(!names_a_service(""));
        assert!(names_a_service("subid: files sss\n"));
    }

    #[test]
    fn root_has_a_name() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
    }
}
