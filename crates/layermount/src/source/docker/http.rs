//! HTTP to an engine: `ureq` over a unix or TCP socket of our own.
//!
//! `ureq`'s resolver starts a thread for name look-ups with a time limit; here names are resolved in the connector, by the
//! thread that calls. Answers are bounded in size and time, except for streams, which only may not stall.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::{Request, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use super::endpoint::Endpoint;
use super::error::DockerError;

/// For an answer to a question. Listing thousands of images takes an engine seconds.
const ANSWER_TIME: Duration = Duration::from_secs(60);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For the next bytes of a stream: an engine first writes the whole archive to its disk.
const STALL_TIME: Duration = Duration::from_secs(600);
const MAX_ANSWER: u64 = 64 << 20;
const MAX_MESSAGE: u64 = 64 << 10;

#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Endpoint,
    answer_time: Duration,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self::with_patience(endpoint, CONNECT_TIME, ANSWER_TIME)
    }

    /// A client that waits so long for a connection over TCP, and for an answer.
    pub(super) fn with_patience(endpoint: Endpoint, connect_time: Duration, answer_time: Duration) -> Self {
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // Proxies of the environment are for the network, not for an engine.
            .proxy(None)
            .user_agent(concat!("layermount/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::with_parts(config, SocketConnector { endpoint: endpoint.clone(), connect_time }, NoResolver);
        Self { agent, endpoint, answer_time }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The engine's newest API version; empty where what answers is no engine.
    pub(super) fn ping(&self) -> Result<String, DockerError> {
        let response = self.send("GET", "/_ping", &[], Some(self.answer_time))?;
        let version = response.headers().get("api-version").and_then(|version| version.to_str().ok());
        let version = version.unwrap_or_default().to_owned();
        // Read to its end, the connection can serve the next question.
        let body = response.into_body().into_with_config().limit(MAX_MESSAGE).read_to_vec();
        body.map(|_| version).map_err(|source| self.broken("GET", "/_ping", source))
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DockerError> {
        let response = self.send("GET", path, &[], Some(self.answer_time))?;
        self.json("GET", path, response)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, DockerError> {
        let body = serde_json::to_vec(body).map_err(|source| DockerError::Malformed {
            endpoint: self.endpoint.to_string(),
            path: path.into(),
            source,
        })?;
        let response = self.send("POST", path, &body, Some(self.answer_time))?;
        self.json("POST", path, response)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), DockerError> {
        self.send("DELETE", path, &[], Some(self.answer_time)).map(drop)
    }

    /// An answer of any length, as it comes.
    pub(super) fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, DockerError> {
        let response = self.send("GET", path, &[], None)?;
        Ok(Box::new(response.into_body().into_with_config().limit(u64::MAX).reader()))
    }

    fn send(
        &self,
        method: &'static str,
        path: &str,
        body: &[u8],
        time: Option<Duration>,
    ) -> Result<Response<ureq::Body>, DockerError> {
        let transport = |source| match source {
            ureq::Error::Io(source) if source.get_ref().is_some_and(|inner| inner.is::<ConnectFailed>()) => {
                let source = source.into_inner().and_then(|inner| inner.downcast::<ConnectFailed>().ok());
                let source = source.map_or_else(|| io::Error::from(io::ErrorKind::NotConnected), |failed| failed.0);
                DockerError::Connect { endpoint: self.endpoint.to_string(), source }
            }
            source => self.broken(method, path, source),
        };
        // The authority is for the Host header only: the connector knows where to connect to.
        let request = Request::builder().method(method).uri(format!("http://docker{path}"));
        // Without a type of its own for "no body", ureq would announce one for GET and DELETE.
        let response = match body {
            [] => request.body(()).map_err(ureq::Error::Http).and_then(|request| self.run(request, time)),
            body => request
                .header("content-type", "application/json")
                .body(body)
                .map_err(ureq::Error::Http)
                .and_then(|request| self.run(request, time)),
        }
        .map_err(transport)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message =
            message(response.into_body().into_with_config().limit(MAX_MESSAGE).read_to_vec().unwrap_or_default());
        let endpoint = self.endpoint.to_string();
        Err(DockerError::Status { endpoint, method, path: path.to_owned(), status: status.as_u16(), message })
    }

    fn broken(&self, method: &'static str, path: &str, source: ureq::Error) -> DockerError {
        DockerError::Transport { endpoint: self.endpoint.to_string(), method, path: path.to_owned(), source }
    }

    fn run(
        &self,
        request: Request<impl ureq::AsSendBody>,
        time: Option<Duration>,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        let request = match time {
            Some(time) => request.timeout_global(Some(time)),
            None => request.timeout_per_read(Some(STALL_TIME)),
        };
        self.agent.run(request.build())
    }

    fn json<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        response: Response<ureq::Body>,
    ) -> Result<T, DockerError> {
        let bytes = response.into_body().into_with_config().limit(MAX_ANSWER).read_to_vec();
        let bytes = bytes.map_err(|source| self.broken(method, path, source))?;
        serde_json::from_slice(&bytes).map_err(|source| DockerError::Malformed {
            endpoint: self.endpoint.to_string(),
            path: path.to_owned(),
            source,
        })
    }
}

/// The engine's own words: `{"message": …}`, or plain text from old engines and from what stands before them.
fn message(body: Vec<u8>) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        message: String,
    }
    match serde_json::from_slice::<Answer>(&body) {
        Ok(answer) => printable(&answer.message),
        Err(_) => printable(String::from_utf8_lossy(&body).trim()),
    }
}

/// Not too long, and without what would drive a terminal. Quotes stay as they are.
fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars().take(1000) {
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            other => printable.extend(other.escape_debug()),
        }
    }
    printable
}

/// Marks an error of connecting, so that it can be told from one of an open connection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ConnectFailed(io::Error);

#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(([127, 0, 0, 1], 0).into());
        Ok(addresses)
    }
}

#[derive(Debug)]
struct SocketConnector {
    endpoint: Endpoint,
    connect_time: Duration,
}

impl Connector for SocketConnector {
    type Out = SocketTransport;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let failed = |error| ureq::Error::Io(io::Error::other(ConnectFailed(error)));
        let socket = match &self.endpoint {
            Endpoint::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
            Endpoint::Tcp { host, port } => connect_tcp(host, *port, self.connect_time).map(Socket::Tcp),
        };
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(SocketTransport { socket: socket.map_err(failed)?, buffers }))
    }
}

fn connect_tcp(host: &str, port: u16, time: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, time) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

#[derive(Debug)]
struct SocketTransport {
    socket: Socket,
    buffers: LazyBuffers,
}

impl SocketTransport {
    fn limit_time(&self, timeout: NextTimeout, read: bool) -> io::Result<()> {
        let limit = timeout.not_zero().map(|limit| *limit);
        match (&self.socket, read) {
            (Socket::Unix(stream), true) => stream.set_read_timeout(limit),
            (Socket::Unix(stream), false) => stream.set_write_timeout(limit),
            (Socket::Tcp(stream), true) => stream.set_read_timeout(limit),
            (Socket::Tcp(stream), false) => stream.set_write_timeout(limit),
        }
    }
}

fn timed_out(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(error),
    }
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.limit_time(timeout, false)?;
        let output = self.buffers.output();
        let output = output.get(..amount).unwrap_or(output);
        match &mut self.socket {
            Socket::Unix(stream) => stream.write_all(output),
            Socket::Tcp(stream) => stream.write_all(output),
        }
        .map_err(|error| timed_out(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.limit_time(timeout, true)?;
        let input = self.buffers.input_append_buf();
        let amount = loop {
            let read = match &mut self.socket {
                Socket::Unix(stream) => stream.read(input),
                Socket::Tcp(stream) => stream.read(input),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| timed_out(error, timeout))?,
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// An idle connection on which something can be read was closed by the other side.
    fn is_open(&mut self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        let fd = match &self.socket {
            Socket::Unix(stream) => stream.as_raw_fd(),
            Socket::Tcp(stream) => stream.as_raw_fd(),
        };
        recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) == Err(nix::errno::Errno::EAGAIN)
    }
}
