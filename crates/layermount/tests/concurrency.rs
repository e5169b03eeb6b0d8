//! Many processes at one store: each layer is made once, nobody loses what it has, nobody waits for the dead.
//!
//! Processes are this very test program, run again with a part to play in its environment.

#![allow(clippy::disallowed_methods, reason = "tests write to directories of their own")]

mod backings;
mod engine;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backings::{each, entries_of_files, read, stacked};
use engine::Engine;
use layermount::store::{Backing, LayerEvent, Progress, PruneOptions, RealizeOptions};
use layermount::{
    Blobs, Content, Descriptor, ErrorKind, Image, ImageParts, Layer, LayerStack, OciLayouts, Platform, Source, Store,
};
use layermount_fixtures::{ArchiveFormat, Layout, Recipe, write_docker_archive};

const PART: &str = "LAYERMOUNT_TEST_PART";
const PLACE: &str = "LAYERMOUNT_TEST_PLACE";
/// There if layers are to be files.
const FILES: &str = "LAYERMOUNT_TEST_FILES";

/// A store and layouts with an image each, in one directory.
struct World {
    backing: Backing,
    directory: PathBuf,
}

impl World {
    /// Adds an image with owners that this process may give.
    fn add(&self, tag: &str, recipe: &str) {
        let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let built = Recipe::parse(&recipe.replace("0:0", &own)).unwrap().build().unwrap();
        Layout::create(self.directory.join(tag)).unwrap().add(tag, &built).unwrap();
    }

    fn image(&self, tag: &str) -> Image {
        let reference = format!("oci:{}:{tag}", self.directory.join(tag).display());
        OciLayouts.resolve(&reference.parse().unwrap(), &Platform::host()).unwrap()
    }

    fn store(&self) -> Store {
        Store::open(self.directory.join("store")).unwrap()
    }

    fn options(&self) -> RealizeOptions<'static> {
        RealizeOptions::default().backing(self.backing)
    }

    fn realize(&self, image: &Image) -> layermount::Result<LayerStack> {
        self.store().realize_with(image, &self.options())
    }

    fn stages(&self) -> usize {
        std::fs::read_dir(self.directory.join("store/stage")).map_or(0, Iterator::count)
    }

    /// Starts another process for a part of `test`.
    fn start(&self, test: &str, part: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads=1", "--nocapture"]);
        if self.backing == Backing::Erofs {
            command.env(FILES, "");
        }
        command.env(PART, part).env(PLACE, &self.directory).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Process { child, input, output }
    }
}

/// Another process, which is killed if the test ends before it.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Reads up to a line that the process said with [`say`]; returns what stands behind `word`.
    #[track_caller]
    fn expect(&mut self, word: &str) -> String {
        let mut line = String::new();
        let mut read = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(&format!("<{word}>")) {
                return rest.trim().to_owned();
            }
            read.push_str(&line);
            line.clear();
        }
        panic!("the process ended without {word:?}: {read}");
    }

    /// Closes the standard input of the process, for which [`wait_for_parent`] waits.
    fn go_on(&mut self) {
        self.input = None;
    }

    #[track_caller]
    fn succeeds(mut self) {
        self.go_on();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(word: &str, rest: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "<{word}> {rest}").unwrap();
    out.flush().unwrap();
}

fn wait_for_parent() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Plays the part that this process was started for, or goes on as the test.
fn main_or(play: impl FnOnce(&World, &str), test: impl Fn(&World)) {
    match (std::env::var(PART), std::env::var_os(PLACE)) {
        (Ok(part), Some(place)) => {
            let backing = std::env::var_os(FILES).map_or(Backing::Directory, |_| Backing::Erofs);
            play(&World { backing, directory: place.into() }, &part);
        }
        _ => {
            // One at a time: for a moment, a child that is being started has what its parent has locked, also in other threads.
            static ALONE: Mutex<()> = Mutex::new(());
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            each(|backing| {
                let directory = tempfile::tempdir().unwrap();
                test(&World { backing, directory: directory.path().to_owned() });
            });
        }
    }
}

/// Counts how often each layer is begun, and says so when it waits.
#[derive(Debug, Default)]
struct Told {
    begun: AtomicUsize,
}

impl Progress for Told {
    fn layer(&self, layer: &Layer, event: LayerEvent) {
        match event {
            LayerEvent::Waiting => say("waiting", &layer.diff_id),
            LayerEvent::Unpacking { read: 0, .. } => _ = self.begun.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

impl Told {
    fn unpacked(self) -> usize {
        self.begun.into_inner()
    }
}

/// Images 0 to 3: a base and a middle that all share, a layer that all share and complete for two chains, one of their own. Of
/// each there is so much that an index over them needs its file: of what it does not need, nobody keeps it.
fn add_overlapping_images(world: &World) {
    for image in 0..4 {
        world.add(
            &image.to_string(),
            &format!(
                "layer\ndir 0755 0:0 /etc\nrandom 0644 0:0 /base 3000000\n\
                 layer\ndir 0750 0:0 /srv\nrandom 0644 0:0 /srv/middle 2000000\n\
                 layer\nfile 0644 0:0 /parity \"{}\"\nrandom 0644 0:0 /more 80000\n\
                 layer\nfile 0644 0:0 /etc/open \"needs those below\"\nrandom 0644 0:0 /much 70000\n\
                 layer\nrandom 0644 0:0 /own 1000000\nfile 0644 0:0 /number \"{image}\"\n",
                image % 2
            ),
        );
    }
}

/// Base, middle, two parities, the open layer (a directory is completed for each of two chains), four of their own.
fn overlapping(backing: Backing) -> usize {
    1 + 1 + 2 + stacked(backing, 2) + 4
}

#[track_caller]
fn read_all(backing: Backing, stack: &LayerStack) {
    let files = ["base", "srv/middle", "parity", "etc/open", "number"];
    assert_eq!(stack.layers().len(), stacked(backing, files.len()));
    for file in files {
        assert!(!read(stack, file).is_empty(), "{file}");
    }
}

fn prune_until_killed(world: &World) {
    let options = PruneOptions::default().all_images(true);
    world.store().prune(&options).unwrap();
    say("pruning", "");
    loop {
        world.store().prune(&options).unwrap();
    }
}

#[test]
fn sixteen_processes_make_each_layer_once_while_another_prunes() {
    let play = |world: &World, part: &str| match part {
        "prune" => prune_until_killed(world),
        image => {
            let (image, told) = (world.image(image), Told::default());
            wait_for_parent();
            let stack = world.store().realize_with(&image, &world.options().progress(&told)).unwrap();
            read_all(world.backing, &stack);
            say("made", told.unpacked());
            // Nobody lets go before everybody has all.
            while !world.directory.join("all have it").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            read_all(world.backing, &stack);
        }
    };
    main_or(play, |world| {
        add_overlapping_images(world);
        let start = |part: &str| world.start("sixteen_processes_make_each_layer_once_while_another_prunes", part);
        let mut pruner = start("prune");
        pruner.expect("pruning");
        let mut users: Vec<_> = (0..16).map(|n| start(&(n % 4).to_string())).collect();
        users.iter_mut().for_each(Process::go_on);
        let made: usize = users.iter_mut().map(|user| user.expect("made").parse::<usize>().unwrap()).sum();
        std::fs::write(world.directory.join("all have it"), "").unwrap();
        users.into_iter().for_each(Process::succeeds);
        assert_eq!(made, overlapping(world.backing));
        pruner.kill();
        world.store().prune(&PruneOptions::default()).unwrap();
        assert_eq!((world.store().layers().unwrap().len(), world.stages()), (0, 0));
    });
}

#[test]
fn whoever_lets_go_at_once_does_not_hinder_the_others() {
    let play = |world: &World, part: &str| match part {
        "prune" => prune_until_killed(world),
        image => {
            let image = world.image(image);
            for _ in 0..12 {
                read_all(world.backing, &world.realize(&image).unwrap());
            }
        }
    };
    main_or(play, |world| {
        add_overlapping_images(world);
        let start = |part: &str| world.start("whoever_lets_go_at_once_does_not_hinder_the_others", part);
        let pruners = [start("prune"), start("prune")];
        let users: Vec<_> = (0..8).map(|n| start(&(n % 4).to_string())).collect();
        users.into_iter().for_each(Process::succeeds);
        pruners.into_iter().for_each(Process::kill);
        world.store().prune(&PruneOptions::default()).unwrap();
        assert_eq!(world.stages(), 0);
    });
}

/// Blobs of which only the first bytes ever come.
#[derive(Debug)]
struct Stalled(Image);

impl Blobs for Stalled {
    fn open(&self, descriptor: &Descriptor) -> layermount::Result<Box<dyn Read + Send>> {
        struct Forever;
        impl Read for Forever {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                say("stalled", "");
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
        }
        let Content::Blobs(blobs) = self.0.content() else { panic!("not of blobs") };
        Ok(Box::new(blobs.open(descriptor)?.take(1000).chain(Forever)))
    }

    fn describe(&self) -> String {
        "a stalled place".into()
    }
}

#[test]
fn waiting_is_told_and_ends_with_a_killed_holder() {
    let play = |world: &World, part: &str| {
        let image = world.image("image");
        let told = Told::default();
        let options = world.options().progress(&told);
        if part == "stall" {
            let parts = ImageParts {
                id: None,
                manifest_digest: None,
                names: Vec::new(),
                platform: Platform::host(),
                config: image.config().clone(),
                descriptors: image.layers().iter().map(|layer| layer.descriptor.clone()).collect(),
                content: Content::Blobs(std::sync::Arc::new(Stalled(image))),
            };
            world.store().realize_with(&Image::new(parts).unwrap(), &options).unwrap();
        } else {
            let stack = world.store().realize_with(&image, &options).unwrap();
            assert_eq!(stack.layers().len(), 1);
            world.store().record(&image).unwrap();
            say("unpacked", told.unpacked());
        }
    };
    main_or(play, |world| {
        world.add("image", "layer\nrandom 0644 0:0 /big 300000\n");
        let start = |part: &str| world.start("waiting_is_told_and_ends_with_a_killed_holder", part);
        let mut holder = start("stall");
        holder.expect("stalled");
        let mut waiting: Vec<_> = (0..4).map(|_| start("wait")).collect();
        waiting.iter_mut().for_each(|process| _ = process.expect("waiting"));
        holder.kill();
        let made: usize = waiting.iter_mut().map(|process| process.expect("unpacked").parse::<usize>().unwrap()).sum();
        assert_eq!(made, 1);
        waiting.into_iter().for_each(Process::succeeds);
        assert_eq!(world.stages(), 0, "what the killed one left was swept");
    });
}

#[test]
fn a_layer_takes_one_descriptor_at_most() {
    use nix::sys::resource::{Resource, setrlimit};
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let play = |world: &World, part: &str| {
        let (layers, limit) = part.split_once(" under ").unwrap();
        let (image, layers, limit): (_, usize, u64) =
            (world.image(layers), layers.parse().unwrap(), limit.parse().unwrap());
        setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
        let store = world.store();
        // Its directory stays open once it is there.
        let _ = store.realize_with(&image, &world.options());
        let before = open();
        for _ in 0..2 {
            match store.realize_with(&image, &world.options()) {
                Ok(stack) => {
                    // That of a mount, and of the locked file that is mounted, whatever it is made of.
                    let expected = if world.backing == Backing::Erofs { (1, 2) } else { (layers, layers) };
                    assert_eq!((stack.layers().len(), open() - before), expected);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Os, "{error:#}");
                    assert!(format!("{error:#}").contains("EMFILE"), "{error:#}");
                    assert!(error.hint().is_some_and(|hint| hint.contains("ulimit -n")), "{error:?}");
                    say("refused", "");
                }
            }
            assert_eq!(open(), before, "nothing is left open");
        }
        // Looking after the store takes few, however much it holds.
        let (layers, verified) = (store.layers().unwrap().len(), store.verify(&mut |_| ()).unwrap());
        assert_eq!((verified.layers, verified.damage.len()), (layers, 0));
        assert_eq!(store.prune(&PruneOptions::default()).unwrap().layers.len(), layers);
    };
    main_or(play, |world| {
        for layers in [500, 120] {
            let recipe = (0..layers).map(|n| format!("layer plain\nfile 0644 0:0 /{n} \"x\"\n")).collect::<String>();
            world.add(&layers.to_string(), &recipe);
        }
        let start = |part: &str| world.start("a_layer_takes_one_descriptor_at_most", part);
        for enough in ["500 under 1024", "120 under 160"] {
            start(enough).succeeds();
        }
        let mut few = start("120 under 100");
        few.expect("refused");
        few.succeeds();
        assert!(Path::new(&world.directory.join("store/layers")).exists());
        assert_eq!(world.stages(), 0);
    });
}

/// Killed at any moment, whoever makes a layer anew leaves a store that the next one can use.
#[test]
fn making_anew_may_be_interrupted() {
    const ROUNDS: u32 = 60;
    let play = |world: &World, _: &str| {
        world.store().verify(&mut |_| ()).unwrap();
        world.realize(&world.image("image")).unwrap();
    };
    main_or(play, |world| {
        world.add("image", "layer\nrandom 0644 0:0 /big 2000000\nlayer\nfile 0644 0:0 /other \"x\"\n");
        let start = || world.start("making_anew_may_be_interrupted", "verify and realize");
        let layers = || -> Vec<PathBuf> {
            let stack = world.realize(&world.image("image")).unwrap();
            match world.backing {
                Backing::Erofs => entries_of_files(&world.directory.join("store"), &world.image("image")),
                _ => stack.layers().iter().map(|layer| layer.path().to_owned()).collect(),
            }
        };
        let mend = |before: &[PathBuf]| {
            world.store().verify(&mut |_| ()).unwrap();
            assert_eq!(layers(), before);
            assert_eq!(world.store().verify(&mut |_| ()).unwrap().damage.len(), 0);
        };
        let before = layers();
        let damage = |round: u8| {
            let file = before[0].join(if world.backing == Backing::Erofs { "image" } else { "big" });
            // The last round may have left the layer damaged, or none.
            if let Ok(mut bytes) = std::fs::read(&file) {
                bytes[1_000_000] ^= round | 1;
                std::fs::write(file, bytes).unwrap();
            }
        };
        damage(0);
        let since = Instant::now();
        start().succeeds();
        let (whole, mut interrupted) = (since.elapsed(), 0);
        for round in 0..ROUNDS {
            damage(round as u8);
            let mut process = start();
            std::thread::sleep(whole * round / ROUNDS);
            process.child.kill().unwrap();
            interrupted += u32::from(!process.child.wait().unwrap().success());
            if round % 10 == 9 {
                mend(&before);
            }
        }
        assert!(interrupted > ROUNDS / 2, "{interrupted} of {ROUNDS} were interrupted within {whole:?}");
        mend(&before);
        world.store().prune(&PruneOptions::default()).unwrap();
        assert_eq!(world.stages(), 0);
    });
}

/// Out of an archive, a layer that others take cannot be made alone.
#[test]
fn archives_that_share_an_open_layer_all_end() {
    const IMAGES: usize = 12;
    let play = |world: &World, part: &str| {
        if part == "prune" {
            return prune_until_killed(world);
        }
        let own = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
        let recipe = format!(
            "layer\ndir 0755 0:0 /etc\nfile 0644 0:0 /number \"{part}\"\nlayer\nfile 0644 0:0 /etc/open \"shared\"\n"
        );
        let built = Recipe::parse(&recipe.replace("0:0", &own)).unwrap().build().unwrap();
        let mut archive = Vec::new();
        write_docker_archive(&mut archive, ArchiveFormat::Classic, "image:latest", &built).unwrap();
        let parts = ImageParts {
            id: None,
            manifest_digest: None,
            names: Vec::new(),
            platform: Platform::host(),
            config: layermount::Config::parse(built.config).unwrap(),
            descriptors: None,
            content: Content::Archive(std::sync::Arc::new(Engine(archive))),
        };
        let image = Image::new(parts).unwrap();
        wait_for_parent();
        for _ in 0..10 {
            let stack = world.realize(&image).unwrap();
            assert_eq!(stack.layers().len(), stacked(world.backing, 2));
            assert_eq!(read(&stack, "number"), part.as_bytes());
            assert_eq!(read(&stack, "etc/open"), b"shared");
        }
    };
    main_or(play, |world| {
        let start = |part: &str| world.start("archives_that_share_an_open_layer_all_end", part);
        let pruner = start("prune");
        let mut users: Vec<_> = (0..IMAGES).map(|n| start(&n.to_string())).collect();
        users.iter_mut().for_each(Process::go_on);
        users.into_iter().for_each(Process::succeeds);
        pruner.kill();
        world.store().prune(&PruneOptions::default()).unwrap();
        assert_eq!(world.stages(), 0);
    });
}
