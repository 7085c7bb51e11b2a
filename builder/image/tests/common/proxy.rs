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
    /// The connection is cut when so many bytes of the request's body were
    /// passed on.
    CutSent(usize),
    /// The byte at this place of the request's body is changed.
    FlipSent(usize),
    /// The request's body is read in pieces with a wait between.
    SlowSent(Duration),
    /// The query of the request is dropped.
    NoQuery,
    /// The answer is passed on with this header in the place of its own.
    Header(&'static str, &'static str),
    /// The request is passed on, its answer is not: the connection is cut.
    Lost,
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
    let length = request.header("content-length");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut sent_body = (&mut reader).take(length);
    match &fault {
        Fault::Refuse => return client.shutdown(Shutdown::Both),
        Fault::Answer(head) => {
            // Unread bytes would cut the connection before the answer.
            io::copy(&mut sent_body, &mut io::sink())?;
            let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
            return client.write_all(format!("{head}\r\n{end}").as_bytes());
        }
        Fault::Late(wait) => std::thread::sleep(*wait),
        _ => {}
    }

    let mut upstream = TcpStream::connect(("127.0.0.1", port))?;
    let ignore_range = matches!(fault, Fault::IgnoreRange | Fault::IgnoreRangeAndCut(_));
    let mut sent = match (&fault, request.line.split_once('?')) {
        (Fault::NoQuery, Some((path, _))) => format!("{path} HTTP/1.1\r\n"),
        _ => format!("{}\r\n", request.line),
    };
    for header in &request.headers {
        let name = header.split(':').next().unwrap_or_default().to_lowercase();
        if name != "connection" && !(ignore_range && name == "range") {
            sent += &format!("{header}\r\n");
        }
    }
    upstream.write_all(format!("{sent}Connection: close\r\n\r\n").as_bytes())?;
    if !pass_body(&mut sent_body, &mut upstream, &fault)? {
        upstream.shutdown(Shutdown::Both)?;
        return client.shutdown(Shutdown::Both);
    }

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
    if let Fault::Lost = fault {
        return client.shutdown(Shutdown::Both);
    }
    let mut text = format!("{status}\r\n");
    if let Fault::Header(name, value) = fault {
        text += &format!("{name}: {value}\r\n");
    }
    for header in headers {
        let name = header.split(':').next().unwrap_or_default().to_lowercase();
        if !matches!(
            name.as_str(),
            "connection" | "content-length" | "transfer-encoding"
        ) && !matches!(fault, Fault::Header(other, _) if other.eq_ignore_ascii_case(&name))
        {
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

/// Passes the body of a request on; `false` if it was cut.
fn pass_body(body: &mut impl Read, upstream: &mut TcpStream, fault: &Fault) -> io::Result<bool> {
    let mut piece = vec![0; 16 << 10];
    let mut at = 0;
    loop {
        let read = body.read(&mut piece)?;
        if read == 0 {
            return Ok(true);
        }
        match fault {
            Fault::CutSent(end) if at + read >= *end => {
                upstream.write_all(&piece[..end - at])?;
                return Ok(false);
            }
            Fault::FlipSent(place) if (at..at + read).contains(place) => piece[place - at] ^= 1,
            Fault::SlowSent(wait) => std::thread::sleep(*wait),
            _ => {}
        }
        upstream.write_all(&piece[..read])?;
        at += read;
    }
}
