//! A proxy between client and registry that does harm on purpose.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection is cut after so many bytes of the body.
    Cut(usize),
    /// The connection is cut before an answer.
    Refuse,
    /// This head is answered, with an empty body.
    Answer(&'static str),
    /// The byte at this place of the body is changed.
    Flip(usize),
    /// The body is given so many bytes more, in Content-Length too.
    Longer(usize),
    /// The body ends so many bytes early, in Content-Length too.
    Shorter(usize),
    /// A Range header of the request is dropped.
    IgnoreRange,
    /// As [`Fault::IgnoreRange`], and cut after so many bytes.
    IgnoreRangeAndCut(usize),
    /// The body comes in pieces with a wait between.
    Slow(Duration),
    /// The answer comes after a wait.
    Late(Duration),
    /// After so many bytes nothing comes any more.
    Stall(usize),
}

/// A request as the proxy saw it.
#[derive(Debug, Clone)]
pub struct Request {
    pub line: String,
    pub headers: Vec<String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| {
            let (key, value) = header.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn is_blob(&self) -> bool {
        self.line.contains("/blobs/")
    }
}

type Rule = dyn Fn(&Request, &[Request]) -> Fault + Send + Sync;

/// The running proxy. Its threads end with their connections.
pub struct Proxy {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Proxy {
    /// Starts a proxy for the registry at `port`. `rule` is asked what to do
    /// with a request, given those before it.
    pub fn start(
        upstream: u16,
        rule: impl Fn(&Request, &[Request]) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let rule: Arc<Rule> = Arc::new(rule);
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, rule) = (Arc::clone(&shared), Arc::clone(&rule));
                std::thread::spawn(move || {
                    // A client that goes away is part of the game.
                    let _ = serve(client, upstream, &seen, &*rule);
                });
            }
        });
        Self { port, seen }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// How many blob requests there were.
    pub fn blobs(&self) -> usize {
        self.seen().iter().filter(|r| r.is_blob()).count()
    }
}

fn head(reader: &mut impl BufRead) -> io::Result<(String, Vec<String>)> {
    let mut lines = reader.lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        headers.push(line);
    }
    Ok((first, headers))
}

fn serve(client: TcpStream, port: u16, seen: &Mutex<Vec<Request>>, rule: &Rule) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let (line, headers) = head(&mut reader)?;
    let request = Request { line, headers };
    let fault = {
        let mut seen = seen.lock().unwrap();
        let fault = rule(&request, &seen);
        seen.push(request.clone());
        fault
    };
    match &fault {
        Fault::Refuse => return client.shutdown(Shutdown::Both),
        Fault::Answer(head) => {
            let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            return client.write_all(format!("{head}\r\n{end}").as_bytes());
        }
        Fault::Late(wait) => std::thread::sleep(*wait),
        _ => {}
    }

    let mut upstream = TcpStream::connect(("127.0.0.1", port))?;
    let ignore_range = matches!(fault, Fault::IgnoreRange | Fault::IgnoreRangeAndCut(_));
    let mut sent = format!("{}\r\n", request.line);
    for header in &request.headers {
        let name = header.split(':').next().unwrap_or_default().to_lowercase();
        if name != "connection" && !(ignore_range && name == "range") {
            sent += &format!("{header}\r\n");
        }
    }
    upstream.write_all(format!("{sent}Connection: close\r\n\r\n").as_bytes())?;

    let mut answer = BufReader::new(upstream);
    let (status, headers) = head(&mut answer)?;
    let mut body = Vec::new();
    answer.read_to_end(&mut body)?;
    match fault {
        Fault::Flip(at) if at < body.len() => body[at] ^= 1,
        Fault::Longer(more) => body.resize(body.len() + more, 0),
        Fault::Shorter(less) => body.truncate(body.len().saturating_sub(less)),
        _ => {}
    }
    let mut text = format!("{status}\r\n");
    for header in headers {
        let name = header.split(':').next().unwrap_or_default().to_lowercase();
        if !matches!(
            name.as_str(),
            "connection" | "content-length" | "transfer-encoding"
        ) {
            text += &format!("{header}\r\n");
        }
    }
    text += &format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(text.as_bytes())?;
    match fault {
        Fault::Cut(at) | Fault::IgnoreRangeAndCut(at) => {
            client.write_all(&body[..at.min(body.len())])?;
        }
        Fault::Stall(at) => {
            client.write_all(&body[..at.min(body.len())])?;
            std::thread::sleep(Duration::from_secs(10));
        }
        Fault::Slow(wait) => {
            for piece in body.chunks(body.len().div_ceil(8).max(1)) {
                client.write_all(piece)?;
                client.flush()?;
                std::thread::sleep(wait);
            }
        }
        _ => client.write_all(&body)?,
    }
    client.shutdown(Shutdown::Both)
}
