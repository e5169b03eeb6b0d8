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
/// Where each mount is, what it is, and its options; files of `/etc` are in memory here, and there on the daemon's disk.
const MOUNTS: &[&str] = &[
    "awk '{split($0, s, \" - \"); split(s[2], f, \" \"); print $5, $6, f[1]}' /proc/self/mountinfo | grep -v '^/ ' | grep -vE '^/(proc|sys|etc)/' | sed s/,relatime//",
];
const MASKS: &[&str] =
    &["awk '{print $5}' /proc/self/mountinfo | grep -E '^/(proc|sys/firmware)/?' | grep -v /proc/interrupts | sort"];
/// The files that programs look into for their limits, and what `ulimit` says.
const LIMITS: &[&str] = &[
    "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
     cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus pids/pids.max memory.max memory.swap.max cpu.max \
     cpuset.cpus pids.max; do test -e $f && echo $f && cat $f; done; ulimit -n; ulimit -Hn; ulimit -c",
];
/// Mounts at and below /data.
const DATA: &[&str] = &[
    "awk '{split($0, s, \" - \"); split(s[2], f, \" \"); split(f[3], o, \",\"); if ($5 ~ \"^/data\") print $5, $6, f[1]}' \
     /proc/self/mountinfo; ls -ld /data* | cut -c1-10; ls /data* 2>&1; touch /data/x 2>&1; id -u",
];
const ROOT: &[&str] =
    &["touch /new; echo $?; touch /tmp/new 2>&1; awk '$5 == \"/\" {print substr($6, 1, 2)}' /proc/self/mountinfo"];

/// Flags that docker has not, or not as an option of `run`, or that ask for what docker's daemon decides. What they do is told by tests
/// of their own.
pub(crate) const NOT_DOCKERS: &[&str] = &[
    "--help",
    "--upper",
    "--upper-size",
    "--image-volume",
    "--bind",
    "--bind-ro",
    "--directory",
    "--template",
    "--ephemeral",
    "--host",
    "--pin",
    "--backing",
    "--limit",
    "--durable",
    "--pidfile",
    "--die-with-parent",
    "--preserve-fds",
    "--listen",
    "--store",
    "--verbose",
    "--quiet",
    "--log-format",
    "--config",
    "--runtime",
    // The network that it leads into is docker's bridge there and pasta's here.
    "--publish",
    // For images of other machines there is nothing to run them with.
    "--platform",
    // Its place is below layermount's own cgroup here.
    "--cgroup-parent",
    // Docker takes no host, and no process of the host's.
    "--userns",
];

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
    differs("what is no hostname may be another line of /etc/hosts", &["--hostname", "bad name"], &["true"]),
    row(&["--uts", "host"], &["hostname"]),
    // Writing.
    row(&["--user", "0"], ROOT),
    row(&["--read-only", "--user", "0"], ROOT),
    // Namespaces.
    row(&["--pid", "host"], &["test $$ -gt 1 && echo outside"]),
    row(&["--ipc", "host"], &["ls -d /dev/shm /dev/mqueue; cat /proc/self/mountinfo | grep -c /dev/mqueue"]),
    // Privileges.
    row(&["--security-opt", "no-new-privileges", "--user", "0"], WHO),
    ends(&["--security-opt", "nonsense=x"], &["true"]),
    row(&["--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--user", "0"], WHO),
    row(&["--cap-drop", "ALL", "--cap-add", "KILL", "--user", "0"], WHO),
    row(&["--cap-add", "ALL", "--user", "0"], WHO),
    row(&["--cap-drop", "all", "--security-opt", "no-new-privileges"], WHO),
    row(&["--security-opt", "seccomp=unconfined", "--user", "0"], WHO),
    row(&["--privileged", "--user", "0"], WHO),
    row(&["--privileged", "--user", "0"], MASKS),
    ends(&["--cap-add", "NONSENSE"], &["true"]),
    // Limits.
    row(
        &["-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "20", "--ulimit", "nofile=100:200"],
        LIMITS,
    ),
    row(&["--memory", "64m", "--memory-reservation", "32m", "--ulimit", "nofile=64", "--ulimit", "core=0"], LIMITS),
    row(
        &[
            "--memory",
            "64m",
            "--memory-swap",
            "-1",
            "--cpu-shares",
            "512",
            "--cpuset-cpus",
            "0",
            "--ulimit",
            "nofile=64",
            "--ulimit",
            "core=0",
        ],
        LIMITS,
    ),
    row(&["--pids-limit", "-1", "--ulimit", "nofile=64:64", "--ulimit", "core=0"], &["ulimit -n; ulimit -c"]),
    ends(&["-m", "64m", "--memory-swap", "32m"], &["true"]),
    ends(&["-m", "1"], &["true"]),
    ends(&["-m", "x"], &["true"]),
    ends(&["--memory-swap", "1g"], &["true"]),
    ends(&["--cpus", "-1"], &["true"]),
    ends(&["--ulimit", "nofile=2:1"], &["true"]),
    ends(&["--ulimit", "nonsense=1"], &["true"]),
    ends(
        &["-m", "32m", "--memory-swap", "32m", "--user", "0"],
        &["busybox dd if=/dev/zero of=/dev/null bs=100M count=1"],
    ),
    // Names and addresses.
    row(
        &["--dns", "192.0.2.1", "--dns", "2001:db8::1", "--dns-search", "example.org", "--dns-option", "ndots:3"],
        &["grep -v ^# /etc/resolv.conf"],
    ),
    ends(&["--dns", "nonsense"], &["true"]),
    ends(&["--add-host", "a"], &["true"]),
    ends(&["--add-host", "a:nonsense"], &["true"]),
    row(&["--network", "none"], &["ls /sys/class/net; cat /sys/class/net/lo/operstate; grep -c : /proc/net/dev"]),
    row(
        &["--network", "none", "--add-host", "a.b:192.0.2.7", "--add-host", "c:2001:db8::1"],
        &["grep -E '192.0.2.7|db8' /etc/hosts"],
    ),
    row(&["--network", "host"], &["cat /proc/net/dev | grep -c :"]),
    ends(&["--network", "no-such"], &["true"]),
    // Life.
    row(&["--init"], &["test $$ -gt 1 && echo a child; test -d /proc/1 && echo of an init; exit 7"]),
    ends(&["--init"], &["kill -9 $$"]),
    ends(&["--init"], &["kill -TERM $$"]),
    row(&["--stop-signal", "SIGUSR1", "--stop-timeout", "3"], &["echo x"]),
    ends(&["--stop-signal", "SIGNONSENSE"], &["true"]),
    row(
        &["-t"],
        &["tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console | cut -c1-10; echo $TERM | wc -l"],
    ),
    row(&["--tty", "--user", "0"], &["tty; stat -c '%a %u %g' /dev/pts/0; exit 4"]),
    row(&["--cidfile", "@/SIDE-cid"], &["echo ran"]),
    ends(&["--cidfile", "@/dir/file"], &["true"]),
    // Groups, devices, memory.
    row(&["--group-add", "27", "--group-add", "guest", "-u", "0"], WHO),
    ends(&["--group-add", "no-such"], WHO),
    row(
        &["--device", "/dev/fuse", "--user", "0"],
        &["stat -c '%F %a %u %g %t:%T' /dev/fuse; : </dev/fuse && echo opened"],
    ),
    row(
        &["--device", "/dev/null:/dev/nothing", "--user", "0"],
        &["echo x >/dev/nothing; stat -c '%F %t:%T' /dev/nothing"],
    ),
    differs("127 says that the program was not found", &["--device", "/dev/no-such"], &["true"]),
    row(&["--shm-size", "1m"], &["df -k /dev/shm | tail -n 1 | awk '{print $2, $6}'"]),
    row(&["--tmpfs", "/data"], DATA),
    row(&["--tmpfs", "/data:size=1m,exec,mode=1770", "-u", "0"], DATA),
    row(&["--tmpfs", "/data:ro", "-u", "0"], DATA),
    ends(&["--tmpfs", "data"], &["true"]),
    ends(&["--tmpfs", "/data:nonsense"], &["true"]),
    row(&["--mount", "type=bind,src=@/dir,dst=/data,readonly", "-u", "0"], &["cat /data/file; touch /data/x 2>&1"]),
    row(&["--mount", "type=tmpfs,dst=/data,tmpfs-size=1m,tmpfs-mode=700", "-u", "0"], DATA),
    ends(&["--mount", "type=bind,src=@/no-such,dst=/data"], &["true"]),
    ends(&["--mount", "type=nonsense,dst=/data"], &["true"]),
    ends(&["--mount", "type=tmpfs,dst=/data,nonsense=1"], &["true"]),
    differs(
        "what is said twice is a mistake, also if it is the same",
        &["-v", "@/dir:/data", "-v", "@/dir:/data"],
        &["true"],
    ),
    ends(&["-v", "@/dir:/data", "-v", "@:/data"], &["true"]),
    ends(&["-v", "@/dir:/"], &["true"]),
    row(
        &["-v", "@/dir:/data/a/b", "-v", "@/dir:/data/a", "--tmpfs", "/data", "-u", "0"],
        &["ls /data /data/a; cat /data/a/file"],
    ),
    // Volumes.
    row(&["-v", "@/dir:/data"], &["cat /data/file"]),
    differs(
        "there is no cgroup that tells devices apart",
        &["-v", "@/dir:/data"],
        &["awk '$5 == \"/data\" {print $6}' /proc/self/mountinfo"],
    ),
    row(
        &["--volume", "@/dir:/data/deep:ro", "-u", "0"],
        &["cat /data/deep/file; touch /data/deep/x 2>&1; ls -ld /data | cut -c1-10"],
    ),
    row(&["-v", "@/dir/file:/etc/motd:ro"], &["cat /etc/motd"]),
    ends(&["-v", "relative:data"], &["true"]),
    ends(&["-v", "@/dir:/data:nonsense"], &["true"]),
];
