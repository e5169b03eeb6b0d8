//! What is tried inside. Nothing here changes the machine if it works after all.

use std::ffi::{CString, c_long};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;

fn say(name: &str, result: c_long) {
    let errno = if result < 0 { format!("{:?}", Errno::last()) } else { "done".to_owned() };
    println!("{name} {errno}");
}

macro_rules! call {
    ($name:literal, $call:ident $(, $argument:expr)*) => {
        // SAFETY: pointers are null or to strings and memory that outlive the call.
        say($name, unsafe { libc::syscall(libc::$call $(, $argument)*) })
    };
    ($call:ident $(, $argument:expr)*) => {
        // SAFETY: as above.
        say(&stringify!($call)[4..], unsafe { libc::syscall(libc::$call $(, $argument)*) })
    };
}

/// Opened for writing, and nothing written.
const STEER_THE_MACHINE: [&str; 22] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/bus/pci/00/00.0",
    "/proc/acpi/wakeup",
    "/proc/kmsg",
    "/proc/kcore",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/power/state",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/release_agent",
    "/sys/kernel/debug/x",
    "/sys/kernel/tracing/trace_marker",
    "/dev/mem",
    "/dev/kmem",
    "/dev/kmsg",
];

const SHOW_THE_MACHINE: [&str; 6] =
    ["/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/timer_list", "/proc/sched_debug", "/proc/kmsg"];

pub(super) fn probe(arguments: &[String]) -> ExitCode {
    match arguments.first().map(String::as_str) {
        Some("session") => session(),
        Some("outside") => arguments[1..].iter().for_each(|pid| outside(pid)),
        Some("node") => super::devices::make_nodes(&arguments[1..]),
        _ => everything(),
    }
    ExitCode::SUCCESS
}

fn everything() {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    // The three streams, and the directory itself.
    println!("descriptors from 3 up {}", if open == 4 { "none" } else { "done" });
    for path in STEER_THE_MACHINE {
        // Masked files are the null device, which takes everything and does nothing.
        let opened = std::fs::OpenOptions::new().write(true).open(path);
        let is_null = opened.as_ref().is_ok_and(|file| {
            use std::os::unix::fs::MetadataExt as _;
            file.metadata().unwrap().rdev() == libc::makedev(1, 3)
        });
        match opened {
            Ok(_) if is_null => println!("open {path} EACCES"),
            Ok(_) => println!("open {path} done"),
            Err(error) => println!("open {path} {:?}", Errno::from_raw(error.raw_os_error().unwrap())),
        }
    }
    for path in SHOW_THE_MACHINE {
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut [0; 64]));
        match read {
            Ok(0) => println!("read {path} empty"),
            Ok(_) => println!("read {path} done"),
            Err(error) => println!("read {path} {:?}", Errno::from_raw(error.raw_os_error().unwrap())),
        }
    }
    let null = std::ptr::null::<u8>();
    let mut memory = [0_u8; 256];
    let memory = memory.as_mut_ptr();
    call!(SYS_mount, c"none".as_ptr(), c"/dev/shm".as_ptr(), c"tmpfs".as_ptr(), 0, null);
    call!("mount cgroup", SYS_mount, c"none".as_ptr(), c"/dev/shm".as_ptr(), c"cgroup".as_ptr(), 0, c"memory".as_ptr());
    call!("mount remount", SYS_mount, null, c"/proc/sys".as_ptr(), null, libc::MS_REMOUNT | libc::MS_BIND, null);
    call!(SYS_umount2, c"/proc/acpi".as_ptr(), libc::MNT_DETACH);
    call!(SYS_fsopen, c"proc".as_ptr(), 0);
    call!(SYS_open_tree, libc::AT_FDCWD, c"/proc".as_ptr(), 1);
    call!(SYS_move_mount, -1, c"".as_ptr(), -1, c"".as_ptr(), 0);
    call!(SYS_mount_setattr, -1, c"".as_ptr(), 0, memory, 32);
    call!(SYS_pivot_root, c"/".as_ptr(), c"/".as_ptr());
    call!(SYS_setns, -1, 0);
    call!(SYS_sethostname, c"x".as_ptr(), 1);
    call!(SYS_keyctl, 0, -3, 0);
    call!(SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"x".as_ptr(), 1, -3);
    call!(SYS_request_key, c"user".as_ptr(), c"x".as_ptr(), null, 0);
    call!(SYS_bpf, 0, memory, 64);
    call!(SYS_perf_event_open, memory, 0, -1, -1, 0);
    call!(SYS_userfaultfd, 0);
    call!(SYS_io_uring_setup, 1, memory);
    // An address that is none, so that nothing comes of it where it is allowed.
    call!(SYS_reboot, 0, 0, 0, null);
    call!(SYS_swapon, c"/no/such".as_ptr(), 0);
    call!(SYS_settimeofday, 1, null);
    call!(SYS_clock_settime, 0, null);
    call!(SYS_init_module, null, 0, null);
    call!(SYS_finit_module, -1, c"".as_ptr(), 0);
    call!(SYS_delete_module, c"no-such".as_ptr(), 0);
    call!(SYS_kexec_load, 0, 0, null, 0);
    call!(SYS_acct, c"/no/such".as_ptr());
    call!(SYS_quotactl, 0, null, 0, null);
    #[cfg(target_arch = "x86_64")]
    call!(SYS_iopl, 3);
    call!(SYS_syslog, 3, memory, 100);
    call!(SYS_open_by_handle_at, libc::AT_FDCWD, memory, 0);
    call!(SYS_ptrace, libc::PTRACE_ATTACH, 99_999_999, 0, 0);
    call!(SYS_kill, 99_999_999, 0);
    call!(SYS_pidfd_open, 99_999_999, 0);
    call!("socket vsock", SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0);
    call!("socket alg", SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0);
    call!("socket raw", SYS_socket, libc::AF_INET, libc::SOCK_RAW, 1);
    call!("terminal input", SYS_ioctl, -1, libc::TIOCSTI, c"x".as_ptr());
    call!("terminal input, upper half", SYS_ioctl, -1, 1 << 32 | c_long::from(0x5412), c"x".as_ptr());
    call!(SYS_personality, 0x4_0000);
    call!(SYS_clone3, null, 0);
    let disk = libc::makedev(8, 0);
    call!("mknod disk", SYS_mknodat, libc::AT_FDCWD, c"/disk".as_ptr(), libc::S_IFBLK | 0o600, disk);
    call!("mknod memory", SYS_mknodat, libc::AT_FDCWD, c"/dev/memory".as_ptr(), libc::S_IFCHR | 0o600, 0x101);
    #[cfg(target_arch = "x86_64")]
    say("mknod of i386", i386(14, c"/dev/shm/disk", u64::from(libc::S_IFBLK) | 0o600, disk));
    #[cfg(target_arch = "x86_64")]
    say("mount of i386", i386(21, c"none", 0, 0));
    #[cfg(target_arch = "x86_64")]
    say("getpid of i386", i386(20, c"", 0, 0));
    call!(SYS_unshare, libc::CLONE_NEWUSER);
    behind_chroot();
}

/// `int 0x80` with a string in the lower 4 GiB.
#[cfg(target_arch = "x86_64")]
fn i386(number: u64, path: &std::ffi::CStr, second: u64, third: u64) -> c_long {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a new mapping.
    let low = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    let bytes = path.to_bytes_with_nul();
    // SAFETY: it fits, and is nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), low.cast(), bytes.len()) };
    let result: u64;
    // SAFETY: the kernel reads a string that is there. rbx, which the compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {path}", "int 0x80", "xchg rbx, {path}",
            path = inout(reg) low as u64 => _,
            inout("rax") number => result,
            in("rcx") second,
            in("rdx") third,
            in("rsi") 0_u64,
            in("rdi") 0_u64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = result as u32 as i32;
    if result < 0 {
        Errno::from_raw(-result).set();
    }
    c_long::from(result)
}

/// The old way out of a mere chroot: with a working directory outside, up and up.
fn behind_chroot() {
    let identity = |path: &str| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).unwrap()
    };
    let root = identity("/");
    std::fs::create_dir_all("/tmp/cage").unwrap();
    let outside = std::fs::File::open("/").unwrap();
    std::os::unix::fs::chroot("/tmp/cage").unwrap();
    nix::unistd::fchdir(&outside).unwrap();
    (0..64).for_each(|_| nix::unistd::chdir("..").unwrap());
    std::os::unix::fs::chroot(".").unwrap();
    let found = if identity("/") == root && identity("/..") == root { "none" } else { "done" };
    println!("the root behind chroot {found}");
}

/// What can be done to a process outside, where it is seen.
fn outside(pid: &str) {
    let number: libc::pid_t = pid.parse().unwrap();
    for (name, file) in [("root", "root/etc"), ("cwd", "cwd"), ("exe", "exe"), ("environ", "environ"), ("mem", "mem")] {
        let opened = std::fs::File::open(format!("/proc/{pid}/{file}"));
        let errno = opened.map(drop).map_err(|error| format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap())));
        println!("{name} {}", errno.err().unwrap_or_else(|| "done".to_owned()));
    }
    let mut memory = [0_u8; 8];
    let local = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: 0x1000 as *mut libc::c_void, iov_len: 8 };
    // SAFETY: the kernel writes to eight bytes that are there.
    match unsafe { libc::process_vm_readv(number, &local, 1, &remote, 1, 0) } {
        // It looked, and nothing is mapped there.
        -1 if Errno::last() == Errno::EFAULT => println!("process_vm_readv done"),
        result => say("process_vm_readv", result as c_long),
    }
    // SAFETY: takes integers.
    let attached = unsafe { libc::ptrace(libc::PTRACE_SEIZE, number, 0, 0) };
    say("ptrace", attached);
    if attached == 0 {
        // SAFETY: takes integers.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, number, 0, 0) };
    }
    let path = CString::new(format!("/proc/{pid}/ns/mnt")).unwrap();
    // SAFETY: a string that is there.
    let namespace = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
    say("setns", c_long::from(namespace));
    // SAFETY: takes integers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
    call!(SYS_pidfd_getfd, pidfd, 0, 0);
}

const KEYCTL_GET_KEYRING_ID: c_long = 0;
const KEYCTL_SEARCH: c_long = 10;
const KEY_SPEC_SESSION_KEYRING: c_long = -3;

pub(super) fn session_keyring() -> c_long {
    // SAFETY: takes integers.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0) }
}

const KEY: (&std::ffi::CStr, &std::ffi::CStr) = (c"user", c"layermount-test");

pub(super) fn add_key_to_session() -> c_long {
    let (kind, name) = KEY;
    // SAFETY: strings that are there, and one byte.
    unsafe {
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, KEY_SPEC_SESSION_KEYRING)
    }
}

fn session() {
    println!("session {}", session_keyring());
    let (kind, name) = KEY;
    // SAFETY: strings that are there.
    let found = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, kind.as_ptr(), name.as_ptr(), 0)
    };
    println!("search {found}");
}
