//! Random stacks of layers: what is unpacked and mounted must be what the model says.
//!
//! `LAYERMOUNT_STACKS` sets how many (200 without it), `LAYERMOUNT_STACKS_FROM` the first seed. `TMPDIR` on a tmpfs makes
//! it fast.

use layermount_fixtures::model::{Namespace, Tree, merged, observe};
use layermount_fixtures::stacks::{self, order_free, recipe, shrink, shuffled};
use layermount_fixtures::{Entry, Layer};

use super::files::{Files, Mounts};
use super::*;
use crate::overlay::{Overlay, Upper};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn namespace(xattrs: OverlayXattrs) -> Namespace {
    match xattrs {
        OverlayXattrs::Trusted => Namespace::Trusted,
        OverlayXattrs::User => Namespace::User,
    }
}

/// How the layers are seen as one tree.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// Reads it. A tree that cannot be read is a difference.
    see: fn(&dyn Subject) -> Result<io::Result<Tree>>,
    /// What is to be seen of the image's tree.
    wanted: fn(Tree) -> Tree,
}

/// In an overlay of the layers.
pub(super) const MOUNTED: Look =
    Look { see: mounted, wanted: |tree| users().map_or(tree.clone(), |users| tree.owned_by(users)) };

/// In a directory that they were flattened into, in which everything belongs to whoever is not root of the machine.
pub(super) const FLATTENED: Look = Look {
    see: flattened,
    wanted: |tree| users().map_or(tree.clone(), |users| tree.owned_by(users).owned_by(Users::One).without_set_id()),
};

/// Where layers are made.
pub(super) type Make = fn() -> Box<dyn Subject>;

fn trusted() -> Box<dyn Subject> {
    Box::new(Stack::new(options(OverlayXattrs::Trusted)))
}

pub(super) fn user() -> Box<dyn Subject> {
    Box::new(Stack::new(options(OverlayXattrs::User)))
}

fn each_in_a_file() -> Box<dyn Subject> {
    Box::new(Files::new(Mounts::Each))
}

fn under_one_index() -> Box<dyn Subject> {
    Box::new(Files::new(Mounts::Merged))
}

fn absorbed_by_one_index() -> Box<dyn Subject> {
    Box::new(Files::new(Mounts::Absorbed))
}

/// What differs between the model and the library; empty where they agree, also about what is refused.
fn differences(stack: &[Vec<Entry>], make: Make, look: Look) -> Vec<String> {
    let mut subject = make();
    let made = push_all(stack, subject.as_mut()).and_then(|()| (look.see)(subject.as_ref()));
    match (merged(stack, namespace(subject.namespace())), made) {
        (Ok(wanted), Ok(Ok(found))) => (look.wanted)(wanted).differences(&found),
        (Ok(_), Ok(Err(error))) => vec![error.to_string()],
        (Err(_), Err(error)) if error.kind() == ErrorKind::InvalidLayer => Vec::new(),
        (Err(refused), Err(error)) => {
            vec![format!("refused as {:?}, not because it is {}: {error:#}", error.kind(), refused.0)]
        }
        (Err(refused), Ok(_)) => vec![format!("accepted, but {}", refused.0)],
        (Ok(_), Err(error)) => vec![format!("refused: {error:#}")],
    }
}

/// Makes the layers as a store does.
fn push_all(stack: &[Vec<Entry>], subject: &mut dyn Subject) -> Result<()> {
    for entries in stack {
        let layer = Layer { entries: entries.clone(), ..Layer::default() };
        subject.push(&layer.tar().unwrap())?;
    }
    Ok(())
}

/// Mounts an overlay of the layers.
fn mounted(subject: &dyn Subject) -> Result<io::Result<Tree>> {
    let mount = Overlay::new(subject.layer_stack()).upper(Upper::ReadOnly).mount()?;
    Ok(observe(mount.directory().unwrap()))
}

/// Flattens the layers into one directory.
fn flattened(subject: &dyn Subject) -> Result<io::Result<Tree>> {
    let flat = subject.place().join("layers/flat");
    subject.layer_stack().flatten_into(&flat)?;
    let found = observe(open(&flat).as_fd());
    // On disk as it would be in a layer; an overlay shows it without the escape.
    let private = format!("{}.overlay.", subject.namespace().as_str());
    let shown = |name: &[u8]| {
        let escaped = name.strip_prefix(private.as_bytes()).map(|rest| {
            let rest = rest.strip_prefix(b"overlay.").expect("an xattr of overlayfs itself");
            [private.as_bytes(), rest].concat()
        });
        escaped.unwrap_or_else(|| name.to_vec())
    };
    Ok(found.map(|found| found.rename_xattrs(shown)))
}

pub(super) fn run(make: Make, look: Look, prepare: impl Fn(u64) -> stacks::Stack) {
    if !can_mount() {
        return skip("root", "overlays are mounted");
    }
    let from = number("LAYERMOUNT_STACKS_FROM", 0);
    let count = number("LAYERMOUNT_STACKS", 200);
    let namespace = namespace(make().namespace());
    let mut refused = 0;
    for seed in from..from + count {
        let stack = prepare(seed);
        if merged(&stack, namespace).is_err() {
            refused += 1;
        }
        let first = differences(&stack, make, look);
        if !first.is_empty() {
            // Without layers there is nothing to compare.
            let differs = |stack: &stacks::Stack| !stack.is_empty() && !differences(stack, make, look).is_empty();
            let smallest = shrink(&stack, &mut |stack| differs(stack));
            let differences = differences(&smallest, make, look).join("\n");
            let (recipe, first) = (recipe(&smallest), first.join("\n"));
            panic!("seed {seed}, {namespace:?} xattrs:\n{recipe}\n{differences}\nbefore it was made small:\n{first}");
        }
    }
    eprintln!("{count} stacks, {refused} of them refused");
    assert!(count < 100 || refused * 2 < count, "{refused} of {count} are refused: that tests little");
}

#[test]
fn random_stacks_in_the_trusted_namespace() {
    run(trusted, MOUNTED, stacks::stack);
}

#[test]
fn random_stacks_in_the_user_namespace() {
    run(user, MOUNTED, stacks::stack);
}

#[test]
fn random_stacks_in_files_of_their_own() {
    if Files::can_be_mounted() {
        run(each_in_a_file, MOUNTED, stacks::stack);
    }
}

#[test]
fn random_stacks_in_files_under_one_index() {
    if Files::can_be_mounted() {
        run(under_one_index, MOUNTED, stacks::stack);
        run(absorbed_by_one_index, FLATTENED, stacks::stack);
    }
}

#[test]
fn random_stacks_in_one_directory() {
    run(trusted, FLATTENED, stacks::stack);
    run(user, FLATTENED, stacks::stack);
}

#[test]
fn random_stacks_in_another_order() {
    run(trusted, MOUNTED, |seed| {
        let stack = order_free(&stacks::stack(seed));
        let other = shuffled(&stack, seed);
        // The model's trees are equal (its own test), so that this shows that the library's are.
        if let (Ok(first), Ok(second)) = (merged(&stack, Namespace::Trusted), merged(&other, Namespace::Trusted)) {
            assert!(first.differences(&second).is_empty(), "seed {seed}:\n{}", recipe(&other));
        }
        other
    });
}
