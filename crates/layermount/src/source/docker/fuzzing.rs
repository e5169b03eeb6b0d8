//! An engine that answers anything. See [`crate::fuzzing`].

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use std::sync::atomic::{AtomicU32, Ordering};

use serde::de::DeserializeOwned;

use super::*;
use crate::fuzzing::assert_printable;
use engine::{HistoryStep, Info};

/// Whatever an engine answers is understood or refused in time, by a message that can be printed on a terminal; and an
/// inspection that is understood makes an image with as many layers as it names, or none.
///
/// The first byte chooses: a whole HTTP answer over a socket, or the JSON of an inspection, a history and `/info` with NULs
/// between them.
pub(crate) fn docker_replies(input: &[u8]) {
    match input.split_first() {
        Some((b'H', answer)) => http(answer),
        Some((_, documents)) => inspection(documents),
        None => {}
    }
}

fn inspection(documents: &[u8]) {
    let mut documents = documents.split(|byte| *byte == 0);
    let Some(inspect) = read::<Inspect>(documents.next()) else { return };
    let history = read::<Vec<HistoryStep>>(documents.next()).unwrap_or_default();
    let info = read::<Info>(documents.next()).unwrap_or_default();
    for readable in [OverlayXattrs::Trusted, OverlayXattrs::User] {
        let placement =
            locate::place(&inspect, true, readable, &|| Ok(()), || Ok(info.clone())).expect("the engine has answered");
        let engine = Engine::unasked();
        let wanted = platform(&inspect).unwrap_or_else(Platform::host);
        let Ok(document) = config::document(&inspect, &history) else { return };
        let layers = inspect.root_fs.layers.len();
        match Config::parse(document).and_then(|config| image(&engine, &inspect, placement, config, &wanted)) {
            Ok(image) => assert_eq!(image.layers().len(), layers),
            Err(error) => assert_printable(&error),
        }
    }
}

fn read<T: DeserializeOwned>(document: Option<&[u8]>) -> Option<T> {
    serde_json::from_slice(document?).ok()
}

/// The answer to the first question, and to every other.
fn http(answer: &[u8]) {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("layermount-fuzz-{}-{count}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("a socket can be bound");
    let endpoint = Endpoint::Unix(path.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        });
        if let Err(error) = Client::new(endpoint).get::<Inspect>("/images/x/json") {
            assert_printable(&error.into());
        }
    });
    std::fs::remove_file(path).expect("it is there");
}
