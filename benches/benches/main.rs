//! The stages of the library, each on its own, in the order of the data's way.

mod decode;
mod erofs;
mod fold;
mod mount;
mod plan;
mod resolve;
mod spawn;
mod unpack;

criterion::criterion_main!(
    resolve::benches,
    decode::benches,
    fold::benches,
    unpack::benches,
    erofs::benches,
    plan::benches,
    mount::benches,
    spawn::benches,
);
