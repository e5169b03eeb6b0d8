//! Users and groups as an image's own `/etc/passwd` and `/etc/group` define them.
//!
//! Both files come from strangers. They are read after `pivot_root`, in a child that must not allocate: so this is a search in
//! bytes, line by line, and lines that are not of the documented form (passwd(5), group(5)) are passed over.

use rustix::fs::Gid;

/// `user[:group]`, by name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserSpec {
    pub(super) user: Id,
    pub(super) group: Option<Id>,
}

/// A user or group. What is written as a number is one: a name that looks like a number is never looked up, or
/// an image could make "1000" root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Id {
    Number(u32),
    Name(Box<[u8]>),
}

impl UserSpec {
    /// `None` for what is not of the form. An empty text is root, as in an image's config.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, "")) => (user, None),
            Some((user, group)) => (user, Some(Id::parse(group)?)),
            None => (text, None),
        };
        let user = if user.is_empty() { Id::Number(0) } else { Id::parse(user)? };
        Some(Self { user, group })
    }
}

impl Id {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return number(text.as_bytes()).map(Self::Number);
        }
        let odd = |byte: u8| byte == b':' || byte == b',' || byte.is_ascii_control();
        (!text.bytes().any(odd)).then(|| Self::Name(text.as_bytes().into()))
    }
}

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User<'a> {
    pub(super) name: &'a [u8],
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a [u8],
}

/// The first line that fits.
pub(super) fn find_user<'a>(passwd: &'a [u8], wanted: &Id) -> Option<User<'a>> {
    lines(passwd).find_map(|line| {
        let [name, _password, uid, gid, _comment, home] = fields(line)?;
        let user = User { name, uid: number(uid)?, gid: number(gid)?, home };
        matches(wanted, name, user.uid).then_some(user)
    })
}

/// The number of the first group that fits.
pub(super) fn find_group(group: &[u8], wanted: &Id) -> Option<u32> {
    lines(group).find_map(|line| {
        let [name, _password, gid] = fields(line)?;
        let gid = number(gid)?;
        matches(wanted, name, gid).then_some(gid)
    })
}

/// Adds the groups that list `user` as a member, as far as `groups` has room; false when there are more.
pub(super) fn add_groups_of(group: &[u8], user: &[u8], groups: &mut Vec<Gid>) -> bool {
    for line in lines(group) {
        let Some([_name, _password, gid, members]) = fields(line) else { continue };
        let Some(gid) = number(gid).map(Gid::from_raw) else { continue };
        if user.is_empty() || !members.split(|byte| *byte == b',').any(|member| member == user) || groups.contains(&gid)
        {
            continue;
        }
        if groups.len() == groups.capacity() {
            return false;
        }
        groups.push(gid);
    }
    true
}

fn matches(wanted: &Id, name: &[u8], id: u32) -> bool {
    match wanted {
        Id::Number(number) => *number == id,
        Id::Name(wanted) => !name.is_empty() && **wanted == *name,
    }
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
}

/// The first `N` fields of a line that has at least as many.
fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut fields: [&[u8]; N] = [&[]; N];
    let mut found = line.split(|byte| *byte == b':');
    for field in &mut fields {
        *field = found.next()?;
    }
    Some(fields)
}

/// Decimal digits only. The largest number means "unchanged" to the kernel, and is nobody's.
fn number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
    })?;
    (value != u32::MAX).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"# comment\nroot:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/evil:/bin/sh\n\napp:x:1000:100:App:/home/app:/bin/sh\nshort:x:1\nbig:x:4294967295:0::/:/\nneg:x:-1:0::/:/\nwrap:x:4294967296:0::/:/\nnul\0:x:5:5::/:/";
    const GROUP: &[u8] = b"root:x:0:\nusers:x:100:app\nwww:x:33:a,app\nbad:x:y:app\nagain:x:33:app\nx:x:7";

    fn name(name: &str) -> Id {
        Id::Name(name.as_bytes().into())
    }

    #[test]
    fn specs_are_names_or_numbers() {
        let spec = |text| UserSpec::parse(text);
        assert_eq!(spec(""), Some(UserSpec { user: Id::Number(0), group: None }));
        assert_eq!(spec("app"), Some(UserSpec { user: name("app"), group: None }));
        assert_eq!(spec("1:2"), Some(UserSpec { user: Id::Number(1), group: Some(Id::Number(2)) }));
        assert_eq!(spec("app:"), spec("app"));
        assert_eq!(spec(":app").unwrap().user, Id::Number(0));
        for bad in ["4294967295", "99999999999999999999", "a:b:c", "a\nb", "a:4294967296", "a,b"] {
            assert_eq!(spec(bad), None, "{bad}");
        }
    }

    #[test]
    fn users_are_found_and_numbers_are_never_names() {
        assert_eq!(
            find_user(PASSWD, &name("app")).map(|user| (user.uid, user.gid, user.home)),
            Some((1000, 100, &b"/home/app"[..]))
        );
        assert_eq!(find_user(PASSWD, &Id::Number(1000)).unwrap().name, b"app");
        for absent in ["short", "big", "neg", "wrap", "", "nobody", "app:x"] {
            assert_eq!(find_user(PASSWD, &name(absent)), None, "{absent}");
        }
        assert_eq!(find_user(b"", &name("x")), None);
        assert_eq!(find_user(&b":".repeat(100_000), &name("x")), None);
    }

    #[test]
    fn groups_are_found_once_and_bounded() {
        assert_eq!(find_group(GROUP, &name("www")), Some(33));
        assert_eq!(find_group(GROUP, &name("bad")), None);
        assert_eq!(find_group(GROUP, &Id::Number(7)), Some(7));
        let mut groups = Vec::with_capacity(4);
        assert!(add_groups_of(GROUP, b"app", &mut groups));
        assert_eq!(groups, [Gid::from_raw(100), Gid::from_raw(33)]);
        assert!(add_groups_of(GROUP, b"", &mut groups));
        let many: Vec<u8> = (0..100).flat_map(|gid| format!("g{gid}:x:{gid}:app\n").into_bytes()).collect();
        assert!(!add_groups_of(&many, b"app", &mut groups));
        assert_eq!(groups.len(), groups.capacity());
    }
}
