//! An application server that moves *itself* into an image and goes on serving with the socket it had.
//!
//! ```text
//! cargo run --example app_server -- 127.0.0.1:8080 oci:target/tiny:tiny
//! curl http://127.0.0.1:8080/            who answers, and from where
//! curl http://127.0.0.1:8080/etc/motd    a file of the image
//! ```
//!
//! The order is that of every server that drops something on its way: first what needs the host (the socket, the image),
//! then the move, then requests. The socket is the same file descriptor before and after. Nothing is mounted that anybody
//! else could see, and when the process ends, however it ends, nothing is left.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use layermount::{Overlay, Platform, Reference, Sources, Store, Upper};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(reference)) = (arguments.next(), arguments.next()) else {
        return Err("usage: app_server ADDRESS:PORT IMAGE".into());
    };

    let listener = TcpListener::bind(&address)?;
    println!("listening on {}", listener.local_addr()?);

    enter(&reference.parse()?).map_err(|error| format!("{error:#}"))?;
    println!("inside {reference}, serving");

    for stream in listener.incoming() {
        // One failed client is no reason to end.
        if let Err(error) = stream.and_then(answer) {
            eprintln!("request failed: {error}");
        }
    }
    Ok(())
}

/// Moves this process into the image, with a writable top that ends with it.
fn enter(reference: &Reference) -> layermount::Result<()> {
    let image = Sources::default().resolve(reference, &Platform::host())?;
    let stack = Store::open_default()?.realize(&image)?;
    let root = Overlay::new(stack).upper(Upper::Temporary { size: None }).mount()?;
    root.pivot()?;
    Ok(())
}

/// Answers `GET /path` with a file of the image, and anything else with a word about where we are.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request)?;
    let path = request.split(' ').nth(1).unwrap_or("/");
    let body = if path == "/" {
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_else(|_| "a small world".into());
        let name = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("an image");
        format!("Hello from inside {}, pid {}\n", name.trim_matches('"'), std::process::id()).into_bytes()
    } else {
        match std::fs::read(path) {
            Ok(body) => body,
            Err(error) => {
                let text = format!("{path}: {error}\n");
                return write!(stream, "HTTP/1.0 404 Not Found\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            }
        }
    };
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}
