//! Limits in the form of the OCI runtime specification: `config.md`, "POSIX process", and `config-linux.md`, "Control groups".

use crate::bundle::config::{Cpu, DeviceRule, Memory, Pids, Resources as Specified, Rlimit as SpecifiedRlimit};
use crate::bundle::text;
use crate::cgroup;
use crate::command::Command;
use crate::command::spawn::random_hex;
use crate::error::Result;
use crate::resources::{CPU_PERIOD_US, MemorySwap, Resources, Rlimit};

impl Command {
    pub(super) fn specified_rlimits(&self) -> Vec<SpecifiedRlimit> {
        let specified = |limit: &Rlimit| {
            let (soft, hard) = limit.raw();
            SpecifiedRlimit { kind: format!("RLIMIT_{}", limit.kind().name().to_uppercase()), soft, hard }
        };
        self.rlimits.iter().map(specified).collect()
    }

    /// Below the parent that was named, a cgroup of its own as in a run; with the same name whenever the bundle is run.
    pub(super) fn specified_cgroup(&self) -> Result<Option<String>> {
        let Some(parent) = &self.entering.resources.parent else { return Ok(None) };
        cgroup::check_parent(parent)?;
        let name = format!("layermount-bundle-{}", random_hex("make up a name for a cgroup")?);
        Ok(Some(text("cgroup", parent.join(name).as_os_str())?))
    }
}

/// `devices` are rules of the devices cgroup.
pub(super) fn specified(resources: &Resources, devices: Vec<DeviceRule>) -> Result<Specified> {
    resources.check()?;
    let Resources { memory, memory_swap, memory_reservation, cpu_shares, cpuset_cpus, .. } = resources;
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let swap = match (memory, memory_swap) {
        (None, _) => None,
        (Some(_), Some(MemorySwap::Unlimited)) => cgroup::counts_swap()?.then_some(-1),
        (Some(_), Some(MemorySwap::Total(total))) => Some(signed(*total)),
        // As in moby and in a run: twice the memory in total, where the kernel counts that.
        (Some(memory), None) => cgroup::counts_swap()?.then_some(signed(memory.saturating_mul(2))),
    };
    let (limit, reservation) = (memory.map(signed), memory_reservation.map(signed));
    let quota = resources.cpu_quota_us().map(signed);
    let (shares, cpus) = (*cpu_shares, cpuset_cpus.clone());
    let has_cpu = quota.is_some() || shares.is_some() || cpus.is_some();
    Ok(Specified {
        devices,
        memory: (limit.is_some() || reservation.is_some()).then_some(Memory { limit, reservation, swap }),
        cpu: has_cpu.then_some(Cpu { shares, quota, period: quota.map(|_| CPU_PERIOD_US), cpus }),
        pids: resources.pids_max().map(|limit| Pids { limit: signed(limit) }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_the_specification_has_them() {
        let resources = Resources::new()
            .memory(64 << 20)
            .memory_swap(MemorySwap::Total(100 << 20))
            .memory_reservation(32 << 20)
            .cpus(0.5)
            .cpu_shares(1024)
            .cpuset_cpus("0-1")
            .pids(20);
        assert_eq!(
            serde_json::to_value(specified(&resources, Vec::new()).unwrap()).unwrap(),
            serde_json::json!({
                "devices": [],
                "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 104_857_600},
                "cpu": {"shares": 1024, "quota": 50_000, "period": 100_000, "cpus": "0-1"},
                "pids": {"limit": 20},
            })
        );
        let none = specified(&Resources::new(), Vec::new()).unwrap();
        assert_eq!(serde_json::to_value(none).unwrap(), serde_json::json!({"devices": []}));
        assert!(specified(&Resources::new().memory(1), Vec::new()).is_err());
        let mut command = Command::new("x");
        command.rlimit("nofile=5:6".parse().unwrap()).rlimit("as=-1".parse().unwrap());
        assert_eq!(
            serde_json::to_value(command.specified_rlimits()).unwrap(),
            serde_json::json!([
                {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
                {"type": "RLIMIT_AS", "soft": u64::MAX, "hard": u64::MAX},
            ])
        );
    }

    #[test]
    fn a_cgroup_below_a_parent() {
        let mut command = Command::new("x");
        assert_eq!(command.specified_cgroup().unwrap(), None);
        command.resources(Resources::new().parent("/a/b"));
        assert!(command.specified_cgroup().unwrap().unwrap().starts_with("/a/b/layermount-bundle-"));
        command.resources(Resources::new().parent("a/../b"));
        assert!(command.specified_cgroup().is_err());
    }
}
