//! [`Resources`]: how much of the machine a program may use.

mod rlimit;

pub use rlimit::{ParseRlimitError, Rlimit, RlimitKind};

use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Fault};

/// How long a period of the CPU limit is: Docker's, and the kernel's default.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// The kernel's smallest quota (`min_cfs_quota_period`).
const SMALLEST_QUOTA_US: u64 = 1000;

/// Far more than any machine has.
const MOST_CPUS: f64 = 1_000_000.0;

/// Docker's: with less, not even the way into a program succeeds.
const LEAST_MEMORY: u64 = 6 << 20;

/// The kernel counts in `i64`, and in pages.
const MOST_MEMORY: u64 = i64::MAX as u64 >> 12 << 12;

/// How many processes there can be (`PID_MAX_LIMIT` of 64-bit machines).
const MOST_PROCESSES: u64 = 1 << 22;

/// How much of the machine a program and everything that it starts may use together, for
/// [`Command::resources`](crate::Command::resources). Plain data.
///
/// The kernel keeps it to that by a control group (cgroup) that is made for the program and removed when the program has been
/// [waited for](crate::Child::wait). Nothing of cgroups is touched for a command without `Resources`.
///
/// | | cgroup v2 | cgroup v1 |
/// |---|---|---|
/// | [`memory`](Self::memory) | `memory.max` | `memory.limit_in_bytes` |
/// | [`memory_swap`](Self::memory_swap) | `memory.swap.max` | `memory.memsw.limit_in_bytes` |
/// | [`memory_reservation`](Self::memory_reservation) | `memory.low` | `memory.soft_limit_in_bytes` |
/// | [`cpus`](Self::cpus) | `cpu.max` | `cpu.cfs_quota_us`, `cpu.cfs_period_us` |
/// | [`cpu_shares`](Self::cpu_shares) | `cpu.weight` | `cpu.shares` |
/// | [`cpuset_cpus`](Self::cpuset_cpus) | `cpuset.cpus` | `cpuset.cpus` |
/// | [`pids`](Self::pids) | `pids.max` | `pids.max` |
///
/// With cgroup v1, or with both, the new cgroup lies below the caller's in each hierarchy that is needed, so that the caller's
/// own limits go on counting. In v2 a cgroup that has processes cannot hand controllers down ("no internal process
/// constraint"), so that the new one lies beside the caller's, and everything above the caller's counts; only where that is the
/// root does it lie below. The caller itself is never moved. Whoever is not root needs a cgroup that is theirs: see the error's
/// hint.
///
/// Inside, `/sys/fs/cgroup` shows the program's own cgroups, read-only where `/sys` is, for programs that read there how much they
/// may use. Where there is v2 alone, the program also gets a cgroup namespace; elsewhere it has the caller's, as with Docker.
///
/// Sources: the kernel's `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`, `cgroup-v1/pids.rst`,
/// `scheduler/sched-bwc.rst`; moby's `daemon/daemon_unix.go` for what its options mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    pub(crate) memory: Option<u64>,
    pub(crate) memory_swap: Option<MemorySwap>,
    pub(crate) memory_reservation: Option<u64>,
    cpus: Option<f64>,
    pub(crate) cpu_shares: Option<u64>,
    pub(crate) cpuset_cpus: Option<String>,
    pids: Option<u64>,
    pub(crate) parent: Option<PathBuf>,
}

/// How much swap a program with a memory limit may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemorySwap {
    /// Memory and swap together, in bytes, as Docker counts it: what equals the memory limit means no swap.
    Total(u64),
    /// As much as there is.
    Unlimited,
}

impl Resources {
    /// No limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory in bytes, at least 6 MiB. It counts what the program writes to a [temporary upper](crate::Upper::Temporary), too.
    /// A program that needs more is killed by `SIGKILL`; see [`Child::oom_kills`](crate::Child::oom_kills).
    ///
    /// As with Docker, the same amount of swap may be used in addition unless [`Resources::memory_swap`] says otherwise.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Memory and swap; a total only together with [`Resources::memory`], and not less than that.
    ///
    /// A kernel that does not count swap (`swapaccount=0`, or built without swap) can keep nobody to a total: that is an error.
    /// Without this, memory alone is limited there, as with Docker.
    #[must_use]
    pub fn memory_swap(mut self, swap: MemorySwap) -> Self {
        self.memory_swap = Some(swap);
        self
    }

    /// Memory in bytes that the kernel tries to leave to the program when the machine runs short. Not more than
    /// [`Resources::memory`].
    #[must_use]
    pub fn memory_reservation(mut self, bytes: u64) -> Self {
        self.memory_reservation = Some(bytes);
        self
    }

    /// Processor time, in processors: `0.5` is 50 ms in each period of 100 ms. At least 0.01. Counted to the microsecond.
    #[must_use]
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// The weight among others that want the processor, from 2 to 262144; who has none has 1024. In v2 it becomes a weight from
    /// 1 to 10000 on a straight line, as runc has long had it.
    #[must_use]
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.cpu_shares = Some(shares);
        self
    }

    /// The processors that the program may run on, such as `0-2,7`.
    #[must_use]
    pub fn cpuset_cpus(mut self, list: impl Into<String>) -> Self {
        self.cpuset_cpus = Some(list.into());
        self
    }

    /// How many processes and threads there may be, at least one.
    #[must_use]
    pub fn pids(mut self, count: u64) -> Self {
        self.pids = Some(count);
        self
    }

    /// The cgroup below which the new one is made, in place of the caller's own: a path from the root of the hierarchy. In
    /// hierarchies that are needed it is made when missing, and removed afterwards if nobody else is in it; in others the
    /// program becomes a part of it where it exists. At least one of the two must hold.
    #[must_use]
    pub fn parent(mut self, cgroup: impl AsRef<Path>) -> Self {
        self.parent = Some(cgroup.as_ref().to_owned());
        self
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What of [`Resources::cpus`] the kernel is told.
    pub(crate) fn cpu_quota_us(&self) -> Option<u64> {
        // Checked before it is used.
        self.cpus.map(|cpus| (cpus * CPU_PERIOD_US as f64).round() as u64)
    }

    /// `None` where it limits nothing that the machine does not.
    pub(crate) fn pids_max(&self) -> Option<u64> {
        self.pids.filter(|count| *count < MOST_PROCESSES)
    }

    /// What can be said without looking at the machine.
    pub(crate) fn check(&self) -> Result<(), ResourcesError> {
        let (memory, reservation) = (self.memory, self.memory_reservation);
        if let Some(bytes) = memory.into_iter().chain(reservation).find(|bytes| *bytes > MOST_MEMORY) {
            return Err(ResourcesError::TooMuchMemory { bytes });
        }
        if let Some(bytes) = memory.filter(|bytes| *bytes < LEAST_MEMORY) {
            return Err(ResourcesError::TooLittleMemory { bytes });
        }
        match (memory, self.memory_swap) {
            (None, Some(MemorySwap::Total(_))) => return Err(ResourcesError::SwapAlone),
            (Some(memory), Some(MemorySwap::Total(total))) if total < memory => {
                return Err(ResourcesError::SwapBelowMemory { total, memory });
            }
            (_, Some(MemorySwap::Total(bytes))) if bytes > MOST_MEMORY => {
                return Err(ResourcesError::TooMuchMemory { bytes });
            }
            _ => {}
        }
        if let (Some(memory), Some(reservation)) = (memory, reservation)
            && reservation > memory
        {
            return Err(ResourcesError::ReservationAboveMemory { reservation, memory });
        }
        if let Some(cpus) = self.cpus
            && !(cpus <= MOST_CPUS && self.cpu_quota_us() >= Some(SMALLEST_QUOTA_US))
        {
            return Err(ResourcesError::Cpus { cpus });
        }
        if let Some(shares) = self.cpu_shares.filter(|shares| !(2..=262_144).contains(shares)) {
            return Err(ResourcesError::CpuShares { shares });
        }
        if let Some(list) = self.cpuset_cpus.as_ref().filter(|list| !is_cpu_list(list)) {
            return Err(ResourcesError::CpuList { list: list.clone() });
        }
        if self.pids == Some(0) {
            return Err(ResourcesError::NoProcess);
        }
        Ok(())
    }
}

/// Numbers and ranges, separated by commas: cpuset(7), "List format".
fn is_cpu_list(list: &str) -> bool {
    let number = |text: &str| -> Option<u32> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last),
        None => number(part).is_some(),
    };
    // The kernel takes no more than a page.
    list.len() < 4096 && list.split(',').all(part)
}

/// Resources that contradict themselves.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourcesError {
    #[error("a memory limit of {bytes} bytes is too small for any program: at least 6 MiB ({LEAST_MEMORY})")]
    TooLittleMemory { bytes: u64 },
    #[error("{bytes} bytes of memory are more than the kernel can count")]
    TooMuchMemory { bytes: u64 },
    #[error("a limit of memory and swap needs a limit of memory")]
    SwapAlone,
    #[error("memory and swap together ({total} bytes) cannot be less than the memory ({memory} bytes)")]
    SwapBelowMemory { total: u64, memory: u64 },
    #[error("the memory reservation ({reservation} bytes) is more than the memory limit ({memory} bytes)")]
    ReservationAboveMemory { reservation: u64, memory: u64 },
    #[error("{cpus} is not a number of processors to be limited to: at least 0.01")]
    Cpus { cpus: f64 },
    #[error("{shares} is not a CPU weight: from 2 to 262144")]
    CpuShares { shares: u64 },
    #[error("{list:?} is not a list of processors, such as 0-2,7")]
    CpuList { list: String },
    #[error("a limit of 0 processes leaves none for the program")]
    NoProcess,
}

impl Fault for ResourcesError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn hint(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn contradictions_are_refused() {
        let limits = Resources::new;
        for good in [
            limits(),
            limits().memory(6 * MIB),
            limits().memory(64 * MIB).memory_swap(MemorySwap::Total(64 * MIB)),
            limits().memory(64 * MIB).memory_swap(MemorySwap::Unlimited).memory_reservation(64 * MIB),
            limits().memory_reservation(MIB),
            limits().memory_swap(MemorySwap::Unlimited),
            limits().cpus(0.01),
            limits().cpus(64.0).cpu_shares(2).cpuset_cpus("0-2,7").pids(1),
            limits().pids(u64::MAX).memory(MOST_MEMORY),
        ] {
            assert!(good.check().is_ok(), "{good:?}");
        }
        for bad in [
            limits().memory(0),
            limits().memory(6 * MIB - 1),
            limits().memory(u64::MAX),
            limits().memory_reservation(u64::MAX),
            limits().memory_swap(MemorySwap::Total(64 * MIB)),
            limits().memory(64 * MIB).memory_swap(MemorySwap::Total(63 * MIB)),
            limits().memory(64 * MIB).memory_swap(MemorySwap::Total(u64::MAX)),
            limits().memory(64 * MIB).memory_reservation(65 * MIB),
            limits().cpus(0.0),
            limits().cpus(-1.0),
            limits().cpus(0.009),
            limits().cpus(f64::NAN),
            limits().cpus(f64::INFINITY),
            limits().cpus(1e300),
            limits().cpu_shares(1),
            limits().cpu_shares(u64::MAX),
            limits().pids(0),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_of_processors() {
        for good in ["0", "0-1", "0,2-4,7", "3,1"] {
            assert!(is_cpu_list(good), "{good}");
        }
        let long = "0,".repeat(5000) + "0";
        for bad in ["", ",", "0,", "1-0", "-1", "+1", "0-", "a", "0-1-2", "0 1", "0\n", "99999999999", &long] {
            assert!(!is_cpu_list(bad), "{bad:?}");
        }
    }

    #[test]
    fn quotas_are_microseconds_of_a_tenth_of_a_second() {
        let quota = |cpus| Resources::new().cpus(cpus).cpu_quota_us();
        assert_eq!(
            [quota(0.01), quota(0.5), quota(1.234_567), quota(16.0)].map(Option::unwrap),
            [1000, 50_000, 123_457, 1_600_000]
        );
        assert_eq!(Resources::new().pids(u64::MAX).pids_max(), None);
    }
}
