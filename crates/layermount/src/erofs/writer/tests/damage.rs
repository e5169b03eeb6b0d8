//! Images that are not what was written.

use super::build::Where;
use super::*;

/// An image of which every bit means something.
fn small() -> (Files, Tree, Vec<u8>) {
    let files = Files { own: 3, devices: vec![9] };
    let mut builder = Builder::new();
    let metadata = builder.metadata(vec![(b"user.a".to_vec(), b"value".to_vec())]);
    let directory = builder.directory(named(b"directory"), metadata);
    builder.name(Where { directory, name: b"gone" }, Child::Whiteout);
    builder.symlink(named(b"link"), metadata, b"target");
    builder.symlink(Where { directory, name: b"long" }, metadata, &[b'x'; 700]);
    builder.put(named(b"plain"), What::File { size: 3, data: Data::Plain { device: 0, block: files.own_start() } });
    let sparse = builder.chunks(2000, 1, 1, &[3, HOLE]);
    let sparse = builder.put(named(b"sparse"), sparse);
    for number in 0..40 {
        builder.name(Where { directory, name: format!("{number}").as_bytes() }, Child::Inode(sparse));
    }
    let tree = builder.finish();
    let image = files.image(&tree).unwrap();
    (files, tree, image)
}

fn read(image: &[u8], files: &Files) -> Option<Listing> {
    reader::read(image, &files.device_bytes()).ok().map(|image| seen(&image))
}

#[test]
fn an_image_that_ends_too_early_is_none() {
    // Its length alone says so: the superblock has the number of blocks. A mount would not notice where only content is missing.
    let (files, tree, image) = small();
    assert_eq!(read(&image, &files), Some(expected(&tree)));
    for length in 0..image.len() {
        assert_eq!(read(&image[..length], &files), None, "{length}");
    }
    // Also if the superblock agrees.
    for length in (0..image.len()).step_by(512).skip(3) {
        let mut image = image.clone();
        image[1024 + 36..1024 + 40].copy_from_slice(&(length as u32 / 512).to_le_bytes());
        assert_eq!(read(&image[..length], &files), None, "{length}");
        image[length..].fill(0);
        assert_ne!(read(&image, &files), Some(expected(&tree)), "{length}");
    }
    let mut longer = image.clone();
    longer.resize(image.len() + 4096, 0);
    assert_eq!(read(&longer, &files), None);
}

#[test]
fn a_device_of_another_length_is_not_the_one() {
    let (_, _, image) = small();
    for devices in [&[][..], &[9 * 512, 512], &[8 * 512], &[10 * 512]] {
        assert!(reader::read(&image, devices).is_err());
    }
}

#[test]
fn every_bit_of_the_metadata_means_something() {
    let (files, tree, mut image) = small();
    let expected = Some(expected(&tree));
    let metadata = (files.own_start() + files.own) as usize * 512;
    let slot_end = 1024 + 128 + 128;
    // The UUID means nothing to the reader.
    let uuid = 1024 + 48..1024 + 64;
    for index in (1024..slot_end).chain(metadata..image.len()).filter(|index| !uuid.contains(index)) {
        for bit in 0..8 {
            image[index] ^= 1 << bit;
            assert_ne!(read(&image, &files), expected, "bit {bit} of byte {index}");
            image[index] ^= 1 << bit;
        }
    }
}

#[test]
fn a_file_lies_on_one_device_alone() {
    let files = Files::apart(vec![9, 9]);
    let mut builder = Builder::new();
    let file = builder.chunks(1024, 1, 0, &[3, 5]);
    builder.put(named(b"file"), file);
    let mut image = files.image(&builder.finish()).unwrap();
    let chunk = [0, 0, 1, 0, 5, 0, 0, 0];
    let place = image.windows(8).position(|bytes| bytes == chunk).unwrap();
    assert!(read(&image, &files).is_some());
    image[place + 2] = 2;
    assert_eq!(read(&image, &files), None);
}
