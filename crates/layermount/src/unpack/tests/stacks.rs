//! Random stacks of layers: what is unpacked and mounted must be what the model says.
//!
//! `LAYERMOUNT_STACKS` sets how many (200 without it), `LAYERMOUNT_STACKS_FROM` the first seed. `TMPDIR` on a tmpfs makes
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

/// Reads what was unpacked as one tree; a tree that cannot be read is a difference.
type Look = fn(&Stack) -> Result<io::Result<Tree>>;

/// What differs between the model and the library; empty where they agree, also about what is refused.
fn differences(stack: &[Vec<Entry>], xattrs: OverlayXattrs, look: Look) -> Vec<String> {
    match (merged(stack, namespace(xattrs)), unpacked(stack, xattrs).and_then(|unpacked| look(&unpacked))) {
        (Ok(wanted), Ok(Ok(found))) => wanted.differences(&found),
        (Ok(_), Ok(Err(error))) => vec![error.to_string()],
        (Err(_), Err(error)) if error.kind() == ErrorKind::InvalidLayer => Vec::new(),
        (Err(refused), Err(error)) => {
            vec![format!("refused as {:?}, not because it is {}: {error:#}", error.kind(), refused.0)]
        }
        (Err(refused), Ok(_)) => vec![format!("accepted, but {}", refused.0)],
        (Ok(_), Err(error)) => vec![format!("refused: {error:#}")],
    }
}

/// Unpacks the layers as a store does.
fn unpacked(stack: &[Vec<Entry>], xattrs: OverlayXattrs) -> Result<Stack> {
    let mut unpacked = Stack::new(options(xattrs));
    for entries in stack {
        let layer = Layer { entries: entries.clone(), ..Layer::default() };
        unpacked.push(&layer.tar().unwrap())?;
    }
    Ok(unpacked)
}

/// Mounts an overlay of the layers.
fn mounted(unpacked: &Stack) -> Result<io::Result<Tree>> {
    let mount = Overlay::new(unpacked.layer_stack()).upper(Upper::ReadOnly).mount()?;
    Ok(observe(mount.directory().unwrap()))
}

/// Flattens the layers into one directory.
fn flattened(unpacked: &Stack) -> Result<io::Result<Tree>> {
    let flat = unpacked.place().join("layers/flat");
    unpacked.layer_stack().flatten_into(&flat)?;
    let found = observe(open(&flat).as_fd());
    // On disk as it would be in a layer; an overlay shows it without the escape.
    let private = format!("{}.overlay.", unpacked.options.xattrs.as_str());
    let shown = |name: &[u8]| {
        let escaped = name.strip_prefix(private.as_bytes()).map(|rest| {
            let rest = rest.strip_prefix(b"overlay.").expect("an xattr of overlayfs itself");
            [private.as_bytes(), rest].concat()
        });
        escaped.unwrap_or_else(|| name.to_vec())
    };
    Ok(found.map(|found| found.rename_xattrs(shown)))
}

fn run(xattrs: OverlayXattrs, look: Look, prepare: impl Fn(u64) -> stacks::Stack) {
    if !is_root() {
        return skip("root", "overlays are mounted");
    }
    let from = number("LAYERMOUNT_STACKS_FROM", 0);
    let count = number("LAYERMOUNT_STACKS", 200);
    let mut refused = 0;
    for seed in from..from + count {
        let stack = prepare(seed);
        if merged(&stack, namespace(xattrs)).is_err() {
            refused += 1;
        }
        let first = differences(&stack, xattrs, look);
        if !first.is_empty() {
            // Without layers there is nothing to compare.
            let differs = |stack: &stacks::Stack| !stack.is_empty() && !differences(stack, xattrs, look).is_empty();
            let smallest = shrink(&stack, &mut |stack| differs(stack));
            let differences = differences(&smallest, xattrs, look).join("\n");
            let (recipe, first) = (recipe(&smallest), first.join("\n"));
            panic!(
                "seed {seed}, {} xattrs:\n{recipe}\n{differences}\nbefore it was made small:\n{first}",
                xattrs.as_str()
            );
        }
    }
    eprintln!("{count} stacks, {refused} of them refused");
    assert!(count < 100 || refused * 2 < count, "{refused} of {count} are refused: that tests little");
}

#[test]
fn random_stacks_in_the_trusted_namespace() {
    run(OverlayXattrs::Trusted, mounted, stacks::stack);
}

#[test]
fn random_stacks_in_the_user_namespace() {
    run(OverlayXattrs::User, mounted, stacks::stack);
}

#[test]
fn random_stacks_in_one_directory() {
    run(OverlayXattrs::Trusted, flattened, stacks::stack);
    run(OverlayXattrs::User, flattened, stacks::stack);
}

#[test]
fn random_stacks_in_another_order() {
    run(OverlayXattrs::Trusted, mounted, |seed| {
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
            .map(|(path, fd)| StackedLayer::new(fd.try_clone().unwrap().into(), path.clone()))
            .collect();
        LayerStack::new(layers, self.options.xattrs, self.root.clone().unwrap_or_default())
    }
}
