//! What is written into which file of a cgroup: limits as the kernel's two versions take them.

use super::Controller;
use super::hierarchy::Version;
use crate::resources::{CPU_PERIOD_US, MemorySwap, Resources};

/// A file of a cgroup, and what goes into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: &'static str,
    pub(super) value: String,
    pub(super) absence: Absence,
}

/// What it means that the kernel does not have the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// It cannot do what was asked.
    Fails,
    /// It does not count swap, and cannot keep anybody to the total that was asked for.
    NoSwap,
    /// It does not count swap, of which nobody has spoken.
    Tolerated,
}

/// The controllers that these limits need.
pub(super) fn controllers(resources: &Resources) -> Vec<Controller> {
    let all = [Controller::Memory, Controller::Cpu, Controller::Cpuset, Controller::Pids];
    all.into_iter().filter(|controller| !settings(resources, *controller, Version::V1).is_empty()).collect()
}

/// In the order in which the kernel takes them.
pub(super) fn settings(resources: &Resources, controller: Controller, version: Version) -> Vec<Setting> {
    match controller {
        Controller::Memory => memory(resources, version),
        Controller::Cpu => cpu(resources, version),
        Controller::Cpuset => resources.cpuset_cpus.iter().map(|list| must("cpuset.cpus", list)).collect(),
        Controller::Pids => resources.pids_max().iter().map(|count| must("pids.max", count)).collect(),
        // Counts, and limits nothing.
        Controller::Cpuacct => Vec::new(),
    }
}

fn must(file: &'static str, value: impl ToString) -> Setting {
    Setting { file, value: value.to_string(), absence: Absence::Fails }
}

/// Memory first: in version 1 the total cannot be less than that, and is unlimited at the beginning.
fn memory(resources: &Resources, version: Version) -> Vec<Setting> {
    let mut settings = Vec::new();
    let files = match version {
        Version::V1 => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"],
        Version::V2 => ["memory.max", "memory.swap.max", "memory.low"],
    };
    if let Some(memory) = resources.memory {
        settings.push(must(files[0], memory));
        // As in moby: twice the memory in total.
        let (total, absence) = match resources.memory_swap {
            Some(MemorySwap::Unlimited) => (None, Absence::Tolerated),
            Some(MemorySwap::Total(total)) => (Some(total), Absence::NoSwap),
            None => (Some(memory.saturating_mul(2)), Absence::Tolerated),
        };
        let value = match (total, version) {
            (None, Version::V1) => "-1".to_owned(),
            (None, Version::V2) => "max".to_owned(),
            (Some(total), Version::V1) => total.min(i64::MAX.cast_unsigned()).to_string(),
            (Some(total), Version::V2) => total.saturating_sub(memory).to_string(),
        };
        settings.push(Setting { file: files[1], value, absence });
    }
    settings.extend(resources.memory_reservation.iter().map(|bytes| must(files[2], bytes)));
    settings
}

fn cpu(resources: &Resources, version: Version) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(quota) = resources.cpu_quota_us() {
        match version {
            Version::V1 => {
                settings.push(must("cpu.cfs_period_us", CPU_PERIOD_US));
                settings.push(must("cpu.cfs_quota_us", quota));
            }
            Version::V2 => settings.push(must("cpu.max", format!("{quota} {CPU_PERIOD_US}"))),
        }
    }
    settings.extend(resources.cpu_shares.map(|shares| match version {
        Version::V1 => must("cpu.shares", shares),
        // 2..=262144 to 1..=10000; checked before.
        Version::V2 => must("cpu.weight", 1 + shares.saturating_sub(2).saturating_mul(9999) / 262_142),
    }));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(resources: &Resources, version: Version) -> String {
        let all = controllers(resources).into_iter().flat_map(|controller| settings(resources, controller, version));
        all.map(|setting| format!("{}={}", setting.file, setting.value)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn both_versions() {
        let resources = Resources::new()
            .memory(64 << 20)
            .memory_swap(MemorySwap::Total(100 << 20))
            .memory_reservation(32 << 20)
            .cpus(0.5)
            .cpu_shares(1024)
            .cpuset_cpus("0-1")
            .pids(20);
        assert_eq!(
            written(&resources, Version::V1),
            "memory.limit_in_bytes=67108864; memory.memsw.limit_in_bytes=104857600; memory.soft_limit_in_bytes=33554432; \
             cpu.cfs_period_us=100000; cpu.cfs_quota_us=50000; cpu.shares=1024; cpuset.cpus=0-1; pids.max=20"
        );
        assert_eq!(
            written(&resources, Version::V2),
            "memory.max=67108864; memory.swap.max=37748736; memory.low=33554432; cpu.max=50000 100000; cpu.weight=39; \
             cpuset.cpus=0-1; pids.max=20"
        );
    }

    #[test]
    fn swap_as_docker_understands_it() {
        let memory = || Resources::new().memory(64 << 20);
        let swap = |resources: &Resources, version| {
            let setting = settings(resources, Controller::Memory, version).remove(1);
            (setting.value, setting.absence)
        };
        let text = |mib: u64| (mib << 20).to_string();
        use Absence::*;
        assert_eq!(swap(&memory(), Version::V1), (text(128), Tolerated));
        assert_eq!(swap(&memory(), Version::V2), (text(64), Tolerated));
        let none = memory().memory_swap(MemorySwap::Total(64 << 20));
        assert_eq!(swap(&none, Version::V1), (text(64), NoSwap));
        assert_eq!(swap(&none, Version::V2), (text(0), NoSwap));
        let all = memory().memory_swap(MemorySwap::Unlimited);
        assert_eq!(swap(&all, Version::V1), ("-1".to_owned(), Tolerated));
        assert_eq!(swap(&all, Version::V2), ("max".to_owned(), Tolerated));
        let most = Resources::new().memory(i64::MAX as u64 >> 12 << 12);
        assert_eq!(swap(&most, Version::V1).0, i64::MAX.to_string());
        assert_eq!(controllers(&Resources::new().pids(u64::MAX)), []);
    }
}
