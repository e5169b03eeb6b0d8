//! What this kernel can do, found by doing it once.
//!
//! | what | Linux | used for | without it |
//! |---|---|---|---|
//! | `fsopen`, `fsmount`, `move_mount`, `open_tree` | 5.2 | every mount: as a descriptor that nobody else sees | an error |
//! | `CLONE_PIDFD`, `clone3` | 5.3 | children | `clone` in place of `clone3` |
//! | `openat2` | 5.6 | every path inside an image | an error |
//! | `close_range` | 5.11 | no descriptor leaks into the program | one `fcntl` for each |
//! | overlayfs in a user namespace, `userxattr` | 5.11 | rootless | an error |
//! | `mount_setattr` | 5.12 | read-only roots and bind mounts | an error when asked for |
//! | `user.*` xattrs on tmpfs | 6.6 | rootless with a temporary upper | removed directories cannot be made again |
//! | `lowerdir+` | 6.8 | layers one by one | one joined option of at most 4095 bytes |
//! | EROFS out of files | 6.12 | layers as files ([`crate::erofs`]; probed by the store) | layers as directories |
//! | `lowerdir+` by descriptor | 6.13 | layers without their paths | `/proc/self/fd/N` |
//! | detached mounts as layers | 6.15 | temporary uppers, more than 500 layers | the same in a private namespace |

use std::sync::OnceLock;

use crate::caller::Caller;
use crate::overlay::trial::Trial;

/// How layers can be handed to overlayfs here. Each value falls back to less than the one before.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// How a layer is named.
    pub layers: LayersBy,
    /// Whether a mount that is attached nowhere can hold a layer.
    pub detached_layers: bool,
}

/// How a layer is named to overlayfs.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayersBy {
    /// `fsconfig(FSCONFIG_SET_FD, "lowerdir+")`.
    Descriptor,
    /// `fsconfig(FSCONFIG_SET_STRING, "lowerdir+")`.
    Path,
    /// `mount(2)` with `lowerdir=a:b:c`.
    Joined,
}

impl Kernel {
    /// From the newest to the oldest.
    pub(crate) const GENERATIONS: [Self; 4] = [
        Self { layers: LayersBy::Descriptor, detached_layers: true },
        Self { layers: LayersBy::Descriptor, detached_layers: false },
        Self { layers: LayersBy::Path, detached_layers: false },
        Self { layers: LayersBy::Joined, detached_layers: false },
    ];

    /// Assumed until it fails ([`Ability`]).
    const NEWEST: Self = Self::GENERATIONS[0];

    /// Mounts must be made in a namespace of their own, because parts of them have to be attached in the meantime.
    pub(crate) fn needs_private_namespace(self) -> bool {
        !self.detached_layers
    }

    /// What works here: the newest generation with which an overlay can be mounted. [`Kernel::NEWEST`] when none does, so that
    /// the error of the real mount is what is reported.
    fn probed(caller: &Caller) -> Self {
        static PROBED: OnceLock<Kernel> = OnceLock::new();
        *PROBED
            .get_or_init(|| Self::GENERATIONS.into_iter().find(|kernel| kernel.works(caller)).unwrap_or(Self::NEWEST))
    }

    fn works(self, caller: &Caller) -> bool {
        Trial::new(self, caller).run().is_ok()
    }
}

/// What is taken for granted when an overlay is mounted. Asking costs more than the mount itself, so that the kernel is asked only
/// when mounting has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ability {
    /// Nobody has asked.
    Assumed(Kernel),
    /// The kernel was asked, or somebody has said so.
    Known(Kernel),
}

impl Ability {
    pub(crate) const ASSUMED: Self = Self::Assumed(Kernel::NEWEST);

    pub(crate) fn get(self) -> Kernel {
        match self {
            Self::Assumed(kernel) | Self::Known(kernel) => kernel,
        }
    }

    /// Asks, unless that was done before. Whether it turns out to be less than was assumed, so that it is worth it to try again.
    pub(crate) fn fall_back(&mut self, caller: &Caller) -> bool {
        let Self::Assumed(assumed) = *self else { return false };
        let found = Kernel::probed(caller);
        *self = Self::Known(found);
        found != assumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernels that these tests run on can do all that older ones can.
    #[test]
    fn every_generation_that_this_kernel_has_is_found() {
        let caller = Caller::current();
        for caller in [caller, caller.without_privileges()] {
            if !Kernel::GENERATIONS[3].works(&caller) {
                layermount_fixtures::requirement::skip("userns", "no overlay can be mounted in a user namespace");
                continue;
            }
            let newest = Kernel::GENERATIONS.iter().position(|kernel| kernel.works(&caller)).unwrap();
            for kernel in &Kernel::GENERATIONS[newest..] {
                assert!(kernel.works(&caller), "{kernel:?} with {caller:?}, but not {:?}", Kernel::GENERATIONS[newest]);
            }
            let (major, minor) = release();
            if (major, minor) >= (6, 15) {
                assert_eq!(newest, 0, "{caller:?}");
            }
        }
    }

    fn release() -> (u32, u32) {
        let uname = rustix::system::uname();
        let mut numbers = uname.release().to_str().unwrap().split(['.', '-']).map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}
