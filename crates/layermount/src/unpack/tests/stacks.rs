//! Random stacks of layers: what is unpacked and mounted must be what the model says.
//!
//! `LAYERMOUNT_STACKS` sets how many (300 without it), `LAYERMOUNT_STACKS_FROM` the first seed. `TMPDIR` on a tmpfs makes
//! it fast.

use layermount_fixtures::model::{Namespace, Tree, merged, observe};
use layermount_fixtures::stacks::{self, order_free, recipe, shrink, shuffled};
use layermount_fixtures::{Entry, Layer};

use super::*;
use crate::overlay::{Overlay, Upper};
use crate::stack::{LayerStack, StackedLayer};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn namespace(xattrs: OverlayXattrs) -> Namespace {
    match xattrs {
        OverlayXattrs::Trusted => Namespace::Trusted,
        OverlayXattrs::User => Namespace::User,
    }
}

/// What differs between the model and the library; empty where they agree, also about what is refused.
fn differences(stack: &[Vec<Entry>], xattrs: OverlayXattrs) -> Vec<String> {
    match (merged(stack, namespace(xattrs)), mounted(stack, xattrs)) {
        (Ok(wanted), Ok(found)) => wanted.differences(&found),
        (Err(_), Err(error)) if error.kind() == ErrorKind::InvalidLayer => Vec::new(),
        (Err(refused), Err(error)) => {
            vec![format!("refused as {:?}, not because it is {}: {error:#}", error.kind(), refused.0)]
        }
        (Err(refused), Ok(_)) => vec![format!("accepted, but {}", refused.0)],
        (Ok(_), Err(error)) => vec![format!("refused: {error:#}")],
    }
}

/// Unpacks the layers as a store does, and reads the overlay that is mounted of them.
fn mounted(stack: &[Vec<Entry>], xattrs: OverlayXattrs) -> Result<Tree> {
    let mut unpacked = Stack::new(options(xattrs));
    for entries in stack {
        let layer = Layer { entries: entries.clone(), ..Layer::default() };
        unpacked.push(&layer.tar().unwrap())?;
    }
    let mount = Overlay::new(unpacked.layer_stack()).upper(Upper::ReadOnly).mount()?;
    Ok(observe(mount.directory().unwrap()).unwrap())
}

fn run(xattrs: OverlayXattrs, prepare: impl Fn(u64) -> stacks::Stack) {
    if !is_root() {
        return skip("root", "overlays are mounted");
    }
    let from = number("LAYERMOUNT_STACKS_FROM", 0);
    let count = number("LAYERMOUNT_STACKS", 300);
    let mut refused = 0;
    for seed in from..from + count {
        let stack = prepare(seed);
        if merged(&stack, namespace(xattrs)).is_err() {
            refused += 1;
        }
        if !differences(&stack, xattrs).is_empty() {
            let smallest = shrink(&stack, &mut |stack| !differences(stack, xattrs).is_empty());
            let differences = differences(&smallest, xattrs).join("\n");
            panic!("seed {seed}, {} xattrs:\n{}\n{differences}", xattrs.as_str(), recipe(&smallest));
        }
    }
    eprintln!("{count} stacks, {refused} of them refused");
    assert!(count < 100 || refused * 2 < count, "{refused} of {count} are refused: that tests little");
}

#[test]
fn random_stacks_in_the_trusted_namespace() {
    run(OverlayXattrs::Trusted, stacks::stack);
}

#[test]
fn random_stacks_in_the_user_namespace() {
    run(OverlayXattrs::User, stacks::stack);
}

#[test]
fn random_stacks_in_another_order() {
    run(OverlayXattrs::Trusted, |seed| {
        let stack = order_free(&stacks::stack(seed));
        let other = shuffled(&stack, seed);
        // The model's trees are equal (its own test), so that this shows that the library's are.
        if let (Ok(first), Ok(second)) = (merged(&stack, Namespace::Trusted), merged(&other, Namespace::Trusted)) {
            assert!(first.differences(&second).is_empty(), "seed {seed}:\n{}", recipe(&other));
        }
        other
    });
}

impl Stack {
    /// What a store would hand out for these layers.
    pub(super) fn layer_stack(&self) -> LayerStack {
        let layers = (self.layers.iter())
            .map(|(path, fd)| StackedLayer::new(fd.try_clone().unwrap(), path.clone(), None))
            .collect();
        LayerStack::new(layers, self.options.xattrs, self.root.clone().unwrap_or_default())
    }
}
