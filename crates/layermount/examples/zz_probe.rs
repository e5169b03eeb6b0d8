//! probe
use layermount::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let r = (|| -> Result<i32> {
        let t = std::time::Instant::now();
        let image = Sources::default().resolve(&a[2].parse()?, &Platform::host())?;
        eprintln!("resolved {:?} {} layers", t.elapsed(), image.layers().len());
        let store = Store::open(&a[1])?;
        let stack = store.realize(&image)?;
        store.record(&image)?;
        eprintln!("realized {:?}", t.elapsed());
        let v = store.verify(&mut |_| ())?;
        eprintln!("verify {:?} {:?} {} {}", v.damage, t.elapsed(), v.files, v.bytes);
        let root = Overlay::new(stack).mount()?;
        let mut c = Command::for_image(&image);
        c.entrypoint([&a[3]]).args(&a[4..]);
        let mut child = root.spawn(c)?;
        let s = child.wait()?;
        eprintln!("{s} {:?}", t.elapsed());
        Ok(0)
    })();
    if let Err(e) = r {
        eprintln!("{e:#} [{:?}]", e.hint());
    }
}
