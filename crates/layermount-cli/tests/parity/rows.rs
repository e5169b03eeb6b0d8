//! The rows.

/// A command line, and how what it prints is compared.
pub(crate) struct Row {
    /// `@` stands for a directory of the test.
    pub(crate) flags: &'static [&'static str],
    /// Behind the image: what its entrypoint, `sh -c`, is given.
    pub(crate) words: &'static [&'static str],
    pub(crate) shown: Shown,
    /// Why it is not as docker's.
    pub(crate) differs: Option<&'static str>,
}

/// What is compared of the output.
#[derive(Clone, Copy)]
pub(crate) enum Shown {
    All,
    /// Lines in any order.
    Sorted,
    /// How it ends alone.
    Nothing,
}

const fn row(flags: &'static [&'static str], words: &'static [&'static str]) -> Row {
    Row { flags, words, shown: Shown::All, differs: None }
}

const fn sorted(flags: &'static [&'static str], words: &'static [&'static str]) -> Row {
    Row { shown: Shown::Sorted, ..row(flags, words) }
}

/// The exit status alone.
const fn ends(flags: &'static [&'static str], words: &'static [&'static str]) -> Row {
    Row { shown: Shown::Nothing, ..row(flags, words) }
}

const fn differs(why: &'static str, flags: &'static [&'static str], words: &'static [&'static str]) -> Row {
    Row { differs: Some(why), ..row(flags, words) }
}

const ENVIRONMENT: &[&str] = &["env | grep -v ^HOSTNAME= | sort"];
/// User, groups, and what they may.
const WHO: &[&str] =
    &["id; echo $HOME; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s ' \t' ' '"];
/// Where each mount is, what it is, and its options.
const MOUNTS: &[&str] = &[
    "awk '{split($0, s, \" - \"); split(s[2], f, \" \"); print $5, $6, f[1]}' /proc/self/mountinfo | grep -v '^/ ' | grep -vE '^/(proc|sys)/'",
];
const MASKS: &[&str] =
    &["awk '{print $5}' /proc/self/mountinfo | grep -E '^/(proc|sys/firmware)/?' | grep -v /proc/interrupts | sort"];
const ROOT: &[&str] =
    &["touch /new; echo $?; touch /tmp/new 2>&1; awk '$5 == \"/\" {print substr($6, 1, 2)}' /proc/self/mountinfo"];

/// Flags that docker has not.
pub(crate) const NOT_DOCKERS: &[&str] = &["--help"];

pub(crate) const ROWS: &[Row] = &[
    // What the image says.
    row(&[], &[]),
    row(&[], &["pwd; id -u; echo $GREETING; umask; cat /etc/motd"]),
    row(&[], ENVIRONMENT),
    row(&[], WHO),
    row(&["--user", "0"], MASKS),
    sorted(&["--user", "0"], MOUNTS),
    row(&[], &["ls -l /dev | awk '{print $1, $3, $4, $NF}' | sort; cat /proc/1/comm; echo $$"]),
    row(&["--rm", "-i"], &["cat"]),
    // Environment.
    row(&["-e", "A=1", "--env", "GREETING=x=y", "-e", "ALSO", "-e", "UNSET"], ENVIRONMENT),
    row(&["-e", "PATH=/nowhere:/bin"], ENVIRONMENT),
    row(&["-e", "HOME=/elsewhere", "-e", "EMPTY="], ENVIRONMENT),
    row(&["--env-file", "@/env", "-e", "ALSO=1"], ENVIRONMENT),
    // Users.
    row(&["--user", "0"], WHO),
    row(&["--user", "guest:0"], WHO),
    row(&["-u", "1234"], WHO),
    row(&["-u", "1234:guest"], WHO),
    row(&["-u", "0:5"], WHO),
    ends(&["-u", "nobody-here"], WHO),
    ends(&["-u", "0:nobody-here"], WHO),
    ends(&["-u", "4294967296"], WHO),
    ends(&["-u", "-1"], WHO),
    // Where it starts.
    row(&["-w", "/new/dir"], &["pwd; ls -ld . | cut -c1-10; stat -c %u:%g ."]),
    row(&["--workdir", "/etc/motd"], &["pwd"]),
    ends(&["--workdir", "relative"], &["pwd"]),
    // What is run.
    row(&["--entrypoint", "/bin/busybox"], &["echo", "a  b", "$HOME"]),
    row(&["--entrypoint", "id"], &[]),
    row(&["--entrypoint", ""], &["/bin/busybox", "echo", "x"]),
    ends(&[], &["exit 3"]),
    ends(&[], &["exit 255"]),
    ends(&["--entrypoint", "/no/such"], &[]),
    ends(&["--entrypoint", "nosuch"], &[]),
    ends(&["--entrypoint", "/etc/motd"], &[]),
    ends(&["--entrypoint", "/etc"], &[]),
    ends(&[], &["sh -c 'kill -9 $$'"]),
    // Names.
    row(&["-h", "name.example"], &["hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname"]),
    row(&["--hostname", "a"], &["uname -n"]),
    ends(&["--hostname", "bad name"], &["true"]),
    row(&["--uts", "host"], &["hostname"]),
    // Writing.
    row(&["--user", "0"], ROOT),
    row(&["--read-only", "--user", "0"], ROOT),
    // Namespaces.
    row(&["--pid", "host"], &["test $$ -gt 1 && echo outside"]),
    row(&["--ipc", "host"], &["ls -d /dev/shm /dev/mqueue; cat /proc/self/mountinfo | grep -c /dev/mqueue"]),
    // Privileges.
    row(&["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--user", "0"], WHO),
    row(&["--cap-drop", "ALL", "--cap-add", "KILL", "--user", "0"], WHO),
    row(&["--cap-add", "ALL", "--user", "0"], WHO),
    row(&["--cap-drop", "all", "--security-opt", "no-new-privileges"], WHO),
    row(&["--security-opt", "seccomp=unconfined", "--user", "0"], WHO),
    row(&["--privileged", "--user", "0"], WHO),
    row(&["--privileged", "--user", "0"], MASKS),
    ends(&["--cap-add", "NONSENSE"], &["true"]),
    // Volumes.
    row(&["-v", "@/dir:/data"], &["cat /data/file; awk '$5 == \"/data\" {print $6}' /proc/self/mountinfo"]),
    row(
        &["--volume", "@/dir:/data/deep:ro", "-u", "0"],
        &["cat /data/deep/file; touch /data/deep/x 2>&1; ls -ld /data"],
    ),
    row(&["-v", "@/dir/file:/etc/motd:ro"], &["cat /etc/motd"]),
    ends(&["-v", "relative:data"], &["true"]),
    ends(&["-v", "@/dir:/data:nonsense"], &["true"]),
];
