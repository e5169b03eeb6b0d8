//! The default compared with moby's default profile, call by call: `seccomp/default.json` of moby/profiles as of 2026 (of moby 28,
//! `profiles/seccomp/default.json`, which differs in the families of sockets and the newest calls alone).

use nix::libc;

use super::abi::Abi;
use super::assemble::tests::answer_to;
use super::calls::{CALLS, number_of};
use super::default::{OldSockets, rules};
use super::{Action, number};
use crate::capabilities::Capabilities;
use crate::sys::confine::Filter;

/// What moby allows whatever the capabilities and arguments.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64
    clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32
    getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat
    llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit
    set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// What moby allows with any of these capabilities.
const WITH: [(&str, &str); 14] = [
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
        lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
        sethostname setns syslog umount umount2 unshare",
    ),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// Linux 4.8 and newer, which all of layermount needs.
const SINCE_4_8: &str = "process_vm_readv process_vm_writev ptrace";

/// Of the architectures here.
const ON_X86: &str = "arch_prctl modify_ldt";

/// Where the two differ: ours are these, with the reason.
fn differs(name: &str, capabilities: Capabilities) -> Option<Action> {
    let if_admin = match capabilities.contains(Capabilities::SYS_ADMIN) {
        true => Action::ALLOW,
        false => Action::REFUSE,
    };
    match name {
        // Newer than the profile, whose runtime would answer ENOSYS: what fchmodat and ioctls do as well; what open_tree needs.
        "file_getattr" | "file_setattr" => Some(Action::ALLOW),
        "open_tree_attr" => Some(if_admin),
        // Who may mount may do this, too.
        "pivot_root" => Some(if_admin),
        _ => None,
    }
}

fn has(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|known| known == name)
}

/// What moby's profile says when the arguments are zero.
fn expected(name: &str, abi: Abi, capabilities: Capabilities) -> Action {
    let with =
        |(capability, list): &(&str, &str)| capabilities.contains(capability.parse().unwrap()) && has(list, name);
    let by_argument = ["clone", "personality", "socket", "mknod", "mknodat"].contains(&name);
    let on_x86 = abi != Abi::Aarch64 && has(ON_X86, name) && (abi, name) != (Abi::I386, "arch_prctl");
    match name {
        _ if by_argument || on_x86 || has(ALWAYS, name) || has(SINCE_4_8, name) || WITH.iter().any(with) => {
            Action::ALLOW
        }
        "clone3" => Action::UNKNOWN,
        _ => Action::REFUSE,
    }
}

fn filter(capabilities: Capabilities) -> Filter {
    rules(capabilities, OldSockets::Refused).assemble().unwrap()
}

#[test]
fn calls_are_allowed_as_mobys_profile_does() {
    let single = (0..41).map(|bit| Capabilities::ALL.to_string().split(',').nth(bit).unwrap().parse().unwrap());
    let sets = [Capabilities::CONTAINER, Capabilities::empty(), Capabilities::ALL].into_iter().chain(single);
    let mut compared = 0;
    for capabilities in sets {
        let filter = filter(capabilities);
        for (call, abi) in CALLS.iter().flat_map(|call| Abi::HERE.iter().map(move |abi| (call, *abi))) {
            let Some(number) = number_of(call, abi) else { continue };
            let ours = answer_to(&filter, abi.audit_number(), number, [0; 6]);
            // moby names it for x86-64 alone, and a program that has no such call asks in vain.
            if (abi, call.0) == (Abi::I386, "arch_prctl") {
                continue;
            }
            let wanted = differs(call.0, capabilities).unwrap_or_else(|| expected(call.0, abi, capabilities));
            assert_eq!(ours, wanted, "{} {abi:?} {capabilities}", call.0);
            compared += 1;
        }
    }
    assert!(compared > 300 * 44, "{compared}");
}

#[test]
fn all_that_moby_allows_is_known() {
    // Of other architectures, and what no kernel has on these.
    let elsewhere = ["riscv_hwprobe", "send", "recv"];
    for name in ALWAYS.split_whitespace().chain(WITH.iter().flat_map(|(_, list)| list.split_whitespace())) {
        assert!(elsewhere.contains(&name) || CALLS.iter().any(|call| call.0 == name), "{name}");
    }
}

#[test]
fn arguments_are_looked_at_as_mobys_profile_does() {
    let filter = filter(Capabilities::CONTAINER);
    for abi in Abi::HERE {
        let answer = |name: &str, arguments: [u64; 3]| {
            let [a, b, c] = arguments;
            answer_to(&filter, abi.audit_number(), number(*abi, name).unwrap(), [a, b, c, 0, 0, 0])
        };
        let allowed = |name: &str, first: u64| answer(name, [first, 0, 0]) == Action::ALLOW;
        for value in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert!(allowed("personality", value), "{value:#x}");
        }
        for value in [1, 4, 9, 0x4_0000, 0x2_0001, 0xffff_fffe] {
            assert!(!allowed("personality", value), "{value:#x}");
        }
        // The families that moby lists.
        let families = (0..12).chain(13..=18).chain([21, 22, 24]).chain(26..=33).chain([35, 36, 39]).chain(41..=45);
        let families: Vec<u64> = families.collect();
        for family in 0..46 {
            assert_eq!(allowed("socket", family), families.contains(&family), "{family}");
        }
        for flag in (0..64).map(|bit| 1 << bit) {
            let namespace = 0x7e02_0000 & flag != 0;
            assert_eq!(allowed("clone", flag | libc::SIGCHLD as u64), !namespace, "{flag:#x}");
        }
        // A terminal is not handed on by docker.
        for (request, allow) in
            [(0x5401, true), (0x5412, false), (0x541c, false), (7 << 32 | 0x5412, false), (0x1_5412, true)]
        {
            assert_eq!(answer("ioctl", [0, request, 0]) == Action::ALLOW, allow, "{request:#x}");
        }
        // Devices are ours to refuse: docker has a cgroup for that.
        if number(*abi, "mknod").is_some() {
            for (mode, device, allow) in [
                (libc::S_IFIFO, 0, true),
                (libc::S_IFREG, 0x801, true),
                (libc::S_IFCHR, 0x103, true),
                (libc::S_IFCHR, 0, true),
                (libc::S_IFCHR, 0x101, false),
                (libc::S_IFCHR, 0x1_0000_0103, true),
                (libc::S_IFBLK, 0, false),
                (libc::S_IFBLK, 0x103, false),
                (libc::S_IFBLK, 0x801, false),
                (libc::S_IFDIR, 0, false),
                (0, 0x801, true),
            ] {
                let mode = u64::from(mode | 0o666) | 7 << 40;
                assert_eq!(answer("mknod", [0, mode, device]) == Action::ALLOW, allow, "{mode:#o} {device:#x}");
            }
        }
        if *abi == Abi::I386 {
            assert_eq!(answer("socketcall", [1, 0, 0]), Action::UNKNOWN);
            assert_eq!(answer("socketcall", [2, 0, 0]), Action::ALLOW);
        }
    }
    let of_i386 = rules(Capabilities::CONTAINER, OldSockets::Allowed).assemble().unwrap();
    if let Some(number) = number(Abi::I386, "socketcall") {
        assert_eq!(answer_to(&of_i386, Abi::I386.audit_number(), number, [1, 0, 0, 0, 0, 0]), Action::ALLOW);
    }
}

#[test]
fn calls_that_are_newer_than_the_list_are_not_there() {
    let filter = filter(Capabilities::ALL);
    for abi in Abi::HERE {
        let last = CALLS.iter().filter_map(|call| number_of(call, *abi)).max().unwrap();
        for number in [last + 1, 1000, u32::MAX] {
            assert_eq!(answer_to(&filter, abi.audit_number(), number, [0; 6]), Action::UNKNOWN, "{number}");
        }
    }
    // ARM, and x86-64's own by the numbers of x32.
    assert_eq!(answer_to(&filter, 0x4000_0028, 1, [0; 6]), Action::UNKNOWN);
    assert_eq!(answer_to(&filter, Abi::HERE[0].audit_number(), 0x4000_0001, [0; 6]), Action::UNKNOWN);
}

#[test]
fn i386_numbers_are_the_kernels() {
    for (name, expected) in [
        ("exit", 1),
        ("read", 3),
        ("mount", 21),
        ("ptrace", 26),
        ("socketcall", 102),
        ("clone", 120),
        ("keyctl", 288),
        ("mknodat", 297),
        ("unshare", 310),
        ("socket", 359),
        ("clone3", 435),
    ] {
        assert_eq!(number(Abi::I386, name), Some(expected), "{name}");
    }
}
