//! What to change where a user namespace is refused: sysctl(8), apparmor.d(5), and what starts this process.

use std::path::Path;

use super::Obstacle;

impl Obstacle {
    /// What a person has to change, in lines.
    pub(crate) fn remedy(&self) -> String {
        match self {
            Self::NoneAllowed => set("user.max_user_namespaces", "15000"),
            Self::TooMany { .. } => format!(
                "end programs that have some, or {}; in a container, that is for the machine around it",
                set("user.max_user_namespaces", "100000")
            ),
            Self::UnprivilegedClone => set("kernel.unprivileged_userns_clone", "1"),
            Self::AppArmorRestriction { program } => format!(
                "let this program alone use them: as root, write to /etc/apparmor.d/{name} what follows, and run \
                 'apparmor_parser -r /etc/apparmor.d/{name}'\n{profile}or let all programs: {sysctl}",
                name = profile_name(program),
                profile = profile(program),
                sysctl = set("kernel.apparmor_restrict_unprivileged_userns", "0"),
            ),
            Self::Profile { .. } => {
                "in Docker: --security-opt apparmor=unconfined; elsewhere, add 'userns,' and 'mount,' \
                 to that profile"
                    .to_owned()
            }
            Self::Seccomp => "in Docker: --security-opt seccomp=unconfined, or --privileged; in a systemd unit: \
                 RestrictNamespaces=no and no SystemCallFilter= that lacks @mount"
                .to_owned(),
            Self::Chroot | Self::ProbablyChroot => {
                "leave the chroot, or enter the tree by pivot_root in place of chroot, \
                 as systemd-nspawn, bwrap and unshare(1) with pivot_root(8) do"
                    .to_owned()
            }
            Self::Unmapped => {
                "map this user and group in the namespace that this process is in, or become one of those \
                 that are mapped"
                    .to_owned()
            }
            Self::NotBuiltIn => "run as root, or boot a kernel that was built with CONFIG_USER_NS".to_owned(),
            Self::NoProc => "as root: mount -t proc proc /proc".to_owned(),
            Self::Unknown => "run as root, or let unprivileged users make user namespaces: sysctl \
                 user.max_user_namespaces above 0, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu, \
                 kernel.unprivileged_userns_clone=1 on old Debian; a security module may have a say, too"
                .to_owned(),
        }
    }
}

/// How to set a sysctl, for now and for good.
fn set(name: &str, value: &str) -> String {
    format!(
        "as root: sysctl -w {name}={value} (and to keep it, the line '{name} = {value}' in /etc/sysctl.d/layermount.conf)"
    )
}

/// A profile that confines nothing, and lets its program use user namespaces.
fn profile(program: &Path) -> String {
    let (name, path) = (profile_name(program), profile_path(program));
    format!(
        "  abi <abi/4.0>,\n  include <tunables/global>\n  profile {name} {path} flags=(unconfined) {{\n    userns,\n  }}\n"
    )
}

/// The file name, as far as a profile can be called so.
fn profile_name(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    if plain.trim_matches('.').is_empty() { "layermount".to_owned() } else { plain }
}

/// As apparmor.d(5) wants paths: quoted, and without what would be a pattern.
fn profile_path(program: &Path) -> String {
    let mut quoted = String::from('"');
    for c in program.to_string_lossy().chars() {
        if r#"\"*?[]{}^,@"#.contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_name_the_program_and_nothing_else() {
        let remedy = Obstacle::AppArmorRestriction { program: "/opt/my app/{x}*".into() }.remedy();
        assert!(remedy.contains(r#"profile x "/opt/my app/\{x\}\*" flags=(unconfined) {"#), "{remedy}");
        assert!(remedy.contains("/etc/apparmor.d/x "), "{remedy}");
        assert!(remedy.contains("\n    userns,\n"), "{remedy}");
        assert!(remedy.ends_with("/etc/sysctl.d/layermount.conf)"), "{remedy}");
        assert_eq!(profile_name(Path::new("/x/..")), "layermount");
    }
}
